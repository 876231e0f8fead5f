"""Tile sets: planned, cut, indexed, read and cached; `make` is the front door of ``cafe tile``."""
