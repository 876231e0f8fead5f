"""Connected regions of label rasters."""
