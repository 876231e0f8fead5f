"""The sections of the config, a module for each kind; `config.schema` puts them together."""
