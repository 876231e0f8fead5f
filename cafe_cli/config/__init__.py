"""Settings: what they are, how they are read, and what is said of wrong ones."""
