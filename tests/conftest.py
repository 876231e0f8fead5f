"""Fixtures for all tests; what they are made of is in rasters.py."""

import os
import signal

# Tiny networks on two busy cores: a second thread costs more than it brings.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# No test depends on models that were exported before.
os.environ["CAFE_CACHE"] = "none"

# A job in the background ignores Ctrl-C, one of nohup the end of its terminal; processes that tests
# start would ignore them, too.
for name, usual in (("SIGINT", signal.default_int_handler), ("SIGHUP", signal.SIG_DFL)):
    number = getattr(signal, name, None)
    if number is not None and signal.getsignal(number) == signal.SIG_IGN:
        signal.signal(number, usual)

import pytest
from hypothesis import HealthCheck, settings

from cafe_cli.cluster import connection
from cafe_cli.system import atomic_write
from tests.support import rasters

# How long an example takes depends on what else the machine does.
settings.register_profile("cafe", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("cafe")

# To wait for the disk takes as long as all the rest, and serves what reads it after a power cut.
_to_disk = os.fsync, atomic_write._sync_file_system
os.fsync = lambda descriptor: None
atomic_write._sync_file_system = lambda folder: True
os.environ.setdefault("OGR_SQLITE_SYNCHRONOUS", "OFF")


@pytest.fixture
def to_the_disk(monkeypatch):
    """Flush what is written to the disk, as the program does."""
    monkeypatch.setattr(os, "fsync", _to_disk[0])
    monkeypatch.setattr(atomic_write, "_sync_file_system", _to_disk[1])


@pytest.fixture(autouse=True)
def _patient(monkeypatch):
    """Give a scheduler on a busy machine a minute to answer."""
    monkeypatch.setattr(connection, "_ANSWER", 60.0)


@pytest.fixture
def write(tmp_path):
    """Write a raster into the test's folder: ``write(name, values, grid, **options)`` -> path."""

    def write_there(name, values, where, **options):
        return rasters.write(tmp_path / name, values, where, **options)

    return write_there
