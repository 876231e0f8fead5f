"""Training: a loop over the tiles of a tile set. The door of ``cafe train``."""
