"""Label rasters joined into one. The door of ``cafe mosaic``."""
