"""Tiles into files: COG rasters (only room that imports rasterio), COPC, report, in OpenDroneMap's layout."""
