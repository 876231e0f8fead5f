"""What `benchmarks/gpu.sh` runs: parts, each in a process of its own with a limit of time."""
