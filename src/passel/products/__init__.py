"""Tiles into files: COG rasters (only room that imports rasterio), LAZ/COPC, report, in OpenDroneMap's folder layout."""
