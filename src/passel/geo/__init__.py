"""Geometry of the world: frames, similarities, and the world pixel grid with its tiles."""
