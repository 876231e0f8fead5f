"""Convert rasters to Cloud Optimized GeoTIFFs; an interrupt ends that at once.

GDAL copies a raster in one call, during which Python handles no signal. A large raster is therefore
copied in a process of its own, which the caller ends when it is interrupted, and so is one that a
thread copies beside others. That process runs this module as a program.
"""

import errno
import json
import os
import re
import subprocess  # nosec B404  # runs this module only
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

import rasterio
import rasterio.shutil
from rasterio.errors import RasterioIOError
from rasterio.io import MemoryFile

from cafe_cli.raster.geodesy import GDAL_ERRORS
from cafe_cli.raster.readback import errors_of_gdal
from cafe_cli.raster.reader import gdal_message
from cafe_cli.system.atomic_write import remove

_LARGE = 16_000_000  # values; fewer are copied within a few seconds, on a slow machine too
_PRINTED = re.compile(r"^(?:_?tiff\w+|ERROR \d+): *(.*)", re.IGNORECASE | re.MULTILINE)
"""Errors that threads of GDAL and libtiff print, and otherwise pass over."""
_FAILED = 1  # exit code of the process where GDAL fails; it writes the message to stdout


def to_cog(source: Path, target: Path, options: Mapping[str, object]) -> None:
    """Copy a raster with GDAL's COG driver.

    Parameters
    ----------
    source : Path
        A raster that GDAL can open, on the local disk.
    target : Path
    options : mapping
        Creation options of the driver.

    Raises
    ------
    RasterioError, CPLE_BaseError
        GDAL fails, or the process that copies dies. See `cafe_cli.raster.geodesy.GDAL_ERRORS`.
    """
    with rasterio.open(source) as dataset:
        large = dataset.width * dataset.height * dataset.count > _LARGE
    # What GDAL logs does not say of which of several threads it speaks.
    apart = large or threading.current_thread() is not threading.main_thread()
    try:
        (_copy_in_a_process if apart else _copy)(source, target, options)
    finally:
        remove(target.with_name(f"{target.name}.ovr.tmp"))


def _copy(source: Path, target: Path, options: Mapping[str, object]) -> None:
    """Copy in memory, from where Python writes the file: GDAL passes over some failed writes."""
    with MemoryFile() as memory:
        _copy_by_gdal(source, memory.name, options)
        try:
            target.write_bytes(memory.getbuffer())
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
            where = "" if full else f"{target}: "
            raise RasterioIOError(f"{where}{error.strerror}") from error


def _copy_by_gdal(source: Path, target: Path | str, options: Mapping[str, object]) -> None:
    with errors_of_gdal(), rasterio.Env(GDAL_NUM_THREADS="ALL_CPUS"):
        rasterio.shutil.copy(source, target, driver="COG", **options)


def _copy_in_a_process(source: Path, target: Path, options: Mapping[str, object]) -> None:
    task = json.dumps([str(source.absolute()), str(target.absolute()), options])
    # -P and this path: it imports what this process would, whatever the working folder holds.
    path = os.pathsep.join(folder or os.getcwd() for folder in sys.path)
    with (
        tempfile.TemporaryFile() as said,
        tempfile.TemporaryFile() as printed,
        subprocess.Popen(  # nosec B603  # a list without a shell: this Python, this module
            [sys.executable, "-P", "-m", __name__, task],
            stdin=subprocess.PIPE,  # nothing is written to it; it closes when this process ends
            stdout=said,
            stderr=printed,
            env={**os.environ, "PYTHONPATH": path},
            process_group=0,  # the Ctrl-C of a terminal reaches this process only
        ) as process,
    ):
        try:
            _wait(process)
        finally:
            process.kill()
        said.seek(0)
        message = said.read().decode()
        printed.seek(0)
        passed_over = _PRINTED.search(printed.read().decode(errors="replace"))
    if process.returncode == _FAILED and message:
        raise RasterioIOError(message)
    if process.returncode:
        raise RasterioIOError(
            f"the process that converts it ended with code {process.returncode}; -9 usually means "
            "that the machine ran out of memory"
        )
    if passed_over:
        raise RasterioIOError(passed_over[1])


def _wait(process: "subprocess.Popen[bytes]") -> None:
    """Wait for the end of a process; signals are handled meanwhile."""
    while True:
        try:
            process.wait(0.2)  # Windows interrupts no wait without a timeout
        except subprocess.TimeoutExpired:
            continue
        return


def main() -> None:
    """Copy a raster: source, target and options are a JSON array, the only argument."""
    source, target, options = json.loads(sys.argv[1])
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _copy_by_gdal(Path(source), Path(target), options)
    except (*GDAL_ERRORS, OSError) as error:
        sys.stdout.write(gdal_message(error))
        sys.exit(_FAILED)


def _end_with_parent() -> None:
    """End this process when its stdin closes, even if the parent was killed."""
    os.read(sys.stdin.fileno(), 1)
    os._exit(_FAILED)


if __name__ == "__main__":
    main()
