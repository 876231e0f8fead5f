"""Vector files: reading, reprojecting and rasterizing features, and the area of interest."""
