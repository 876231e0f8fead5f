"""Scenes to maps, window by window. The door of ``cafe predict``."""
