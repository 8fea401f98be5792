"""Passel: thousands of drone photos into one seamless map, on whatever machines are at hand."""

__version__ = "0.1.0"
