"""Measurements; a package, so that no other of this name is imported instead."""
