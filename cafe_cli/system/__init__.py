"""Files, locks and threads; nothing in here knows of rasters or models."""
