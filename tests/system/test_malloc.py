import platform
import subprocess
import sys

import pytest

from cafe_cli.system import malloc

pytestmark = pytest.mark.slow

PROBE = """
import ctypes, resource, sys
from cafe_cli.system.malloc import keep_memory
kept = keep_memory() if sys.argv[1] == "keep" else None
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

def use():
    block = libc.malloc(64 << 20)
    ctypes.memset(block, 1, 64 << 20)
    libc.free(block)

use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
use()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def probe(how):
    command = [sys.executable, "-c", PROBE, how]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    kept, faults = done.stdout.split()
    return kept, int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="not glibc")
def test_memory_that_was_freed_is_not_asked_for_again():
    assert probe("leave")[1] > 20  # 64 MiB are 32 huge pages, or 16384
    kept, faults = probe("keep")
    assert kept == "True"
    assert faults < 20


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(malloc.ctypes, "CDLL", lambda _: pytest.fail("it was called"))
    assert malloc.keep_memory() is False


@pytest.mark.parametrize("refused", [-1, -3])
def test_a_value_that_is_refused_is_told(monkeypatch, refused):
    class Library:
        @staticmethod
        def mallopt(setting, value):
            return int(setting != refused)

    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setattr(malloc.ctypes, "CDLL", lambda _: Library)
    assert malloc.keep_memory() is False
