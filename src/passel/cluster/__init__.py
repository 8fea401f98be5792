"""Work on many machines: the sides of a passel, each in its folder; and Dask for one machine (the only room that imports it)."""
