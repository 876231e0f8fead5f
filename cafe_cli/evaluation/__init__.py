"""Maps against reference labels. The door of ``cafe evaluate``."""
