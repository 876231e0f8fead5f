"""``cafe check``: check scenes before any tile is cut."""
