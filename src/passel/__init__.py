"""Passel: thousands of drone photos into one seamless map, on whatever machines are at hand."""

from passel.kernel_cache import use_own_folder

__version__ = "0.1.0"
use_own_folder()
