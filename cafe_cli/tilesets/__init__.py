"""Tile sets: plan, cut, index, read and cache them; ``cafe tile`` calls `make.tile`."""
