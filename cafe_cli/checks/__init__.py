"""``cafe check``: check scenes before any work is done."""
