"""The command line: a module per command. The only package that imports click and rich."""
