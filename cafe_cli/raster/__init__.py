"""Rasters: windows, grids, reading, warping, joining, writing. The only doors to raster files."""
