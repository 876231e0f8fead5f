"""Data loading: from tiles on disk to augmented batches on the device."""
