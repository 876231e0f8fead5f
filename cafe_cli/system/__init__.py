"""What the operating system does for us: files, locks, threads. No word of the domain."""
