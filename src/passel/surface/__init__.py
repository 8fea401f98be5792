"""One ground tile: coarse surface, object-space matching, DSM, colour, orthophoto, points. Knows views and grids, not jobs."""
