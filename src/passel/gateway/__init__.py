"""Existing NodeODM nodes behind Passel: their registry, which task goes to which, and forwarding that loses nothing."""
