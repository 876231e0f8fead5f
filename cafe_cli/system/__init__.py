"""Files, locks, tables and threads, independent of rasters and models."""
