"""``cafe check``: find what is wrong with scenes before any work is done."""
