"""The command line, and what people see of it. The only package that knows click and rich."""
