"""Raster files: windows, grids, reading, warping, mosaicking, writing. Nothing else opens them."""
