"""Tiles to batches on the device."""
