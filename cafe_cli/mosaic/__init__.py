"""``cafe mosaic``: merge label rasters into one."""
