"""Which process of several this is, as far as the environment knows."""

import os

# Of torchrun; of srun; of a node, and on it, where a process starts the others.
_NAMES = ("RANK", "SLURM_PROCID", "NODE_RANK", "LOCAL_RANK")


def is_first() -> bool:
    """Tell whether this process is the only one of a training run, or the one that speaks."""
    return all(os.environ.get(name, "0") == "0" for name in _NAMES)
