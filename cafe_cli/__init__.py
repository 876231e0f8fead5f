"""Land-cover maps from orthophotos and surface models."""

__version__ = "0.1.0"
