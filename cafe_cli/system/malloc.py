"""Settings of the C library's memory allocator."""

import ctypes
import platform

# Constants of malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3

_LARGEST = 2**30  # bytes; larger blocks are returned to the system


def keep_memory() -> bool:
    """Make malloc keep freed memory in this process; only on Linux with glibc.

    By default large blocks go back to the system when they are freed, and the kernel has to clear
    them when they are allocated again: for the layers of a network on a CPU, again and again.
    This affects allocations of the main thread: glibc serves other threads from heaps of at most
    64 MiB.

    Returns
    -------
    bool
        Whether the settings were accepted.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    glibc = ctypes.CDLL(None)
    # mallopt returns 1, or 0 for a value that this glibc does not accept.
    settings = ((_M_MMAP_THRESHOLD, _LARGEST), (_M_TRIM_THRESHOLD, 2 * _LARGEST - 1))
    return all(glibc.mallopt(*setting) == 1 for setting in settings)
