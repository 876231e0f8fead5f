"""Vector files, and what their features cover on the pixels of a raster."""
