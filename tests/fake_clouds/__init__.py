"""Clouds for tests: one that is simulated to the second, and servers that speak the real ones' wire formats."""
