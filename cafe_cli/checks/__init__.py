"""What is wrong with scenes, before any work is done. The door of ``cafe check``."""
