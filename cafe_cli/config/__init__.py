"""The config: its schema, reading and writing it, and messages for invalid settings."""
