"""The network, what it is given, the file that it is kept in, and the device that runs it."""
