"""Raster files: windows, grids, reading, warping, mosaicking, writing."""
