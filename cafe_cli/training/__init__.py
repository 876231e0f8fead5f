"""Training on a tile set; `cafe_cli.training.train` is the entry point of ``cafe train``."""
