"""Memory that torch frees is kept for its next tensors, where glibc manages it.

glibc gives every large block back to the kernel as soon as it is freed, and the kernel clears each
page before it hands it out again: a seventh to a fifth of a forward pass on windows of 1024 pixels.
Kept, what a pass needs at its peak stays with the process between passes.
"""

import ctypes
import platform

# From malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3

_LARGEST = 2**30  # bytes; a larger block is rather given back


def keep_memory() -> bool:
    """Let this process keep what it frees; elsewhere than on Linux with glibc, do nothing.

    It holds for what the main thread allocates: glibc's memory of other threads is in pieces of at
    most 64 MiB.

    Returns
    -------
    bool
        Whether it was done.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    glibc = ctypes.CDLL(None)
    # mallopt returns 1, or 0 for a value that this glibc does not take.
    settings = ((_M_MMAP_THRESHOLD, _LARGEST), (_M_TRIM_THRESHOLD, 2 * _LARGEST - 1))
    return all(glibc.mallopt(*setting) == 1 for setting in settings)
