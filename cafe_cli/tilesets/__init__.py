"""Tile sets: planned, cut, indexed, read back, cached. The door of ``cafe tile``."""
