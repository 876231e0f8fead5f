"""Vector files: reading features, reprojecting and rasterizing them, the area of interest."""
