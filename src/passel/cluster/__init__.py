"""Executors that use Dask: the only room that imports it."""
