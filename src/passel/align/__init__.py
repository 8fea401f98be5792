"""Submodels into one frame: joint similarities, merge, and one adjustment with GPS terms."""
