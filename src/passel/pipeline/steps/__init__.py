"""Adapters: one module a room, each turning step inputs into that room's function calls."""
