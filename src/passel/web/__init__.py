"""The web UI: static pages, their data, and raster tiles of the products. Knows the server's jobs, never the engine."""
