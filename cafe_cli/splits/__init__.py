"""The spatial split: which ground is for training, for validation and for testing."""
