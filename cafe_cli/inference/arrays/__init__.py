"""What inference does with arrays: numpy on a CPU beside torch, which it never imports itself."""
