"""Settings: the schema of the config, its reading and writing, and the errors of invalid ones."""
