"""One training run shared among processes."""
