"""A folder of blocks: the names of its files, and what may be replaced with it.

::

    country/
      country.vrt           all blocks as one raster: open this
      country.vrt.ovr       its overview
      country.qml           its colours in QGIS
      country.vrt.toml      settings of the run
      country_r03_c12.tif   a block, counted from the upper left corner, with its side files
      rows/r03.vrt          the blocks of a row, which country.vrt refers to
"""

import os
import re
import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from cafe_cli.errors import ConfigError, OutputError
from cafe_cli.mosaic.job import MosaicOutputs, index_path
from cafe_cli.raster.output_files import SUFFIXES, side_files, style_path
from cafe_cli.system.atomic_write import check_outputs, refuse_others

STEP = 512
"""Sides of blocks are multiples of it: COGs are stored in squares of as many pixels."""

ROWS = "rows"
"""Name of the folder with an index for every row of blocks."""

_PIECE = 1 << 20  # bytes that are read at a time


class BlockFile(NamedTuple):
    """A file of a block: its size in bytes and the CRC-32 of its content."""

    bytes: int
    crc32: int


def describe_file(path: Path) -> BlockFile:
    """Return size and CRC-32 of a file."""
    size = crc = 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            size, crc = size + len(piece), zlib.crc32(piece, crc)
    return BlockFile(size, crc)


def block_file(folder: Path, name: str) -> str:
    """Return the file name of a block in the folder of a raster."""
    return f"{folder.name}_{name}.tif"


def staged_folder(path: Path) -> Path:
    """Return the folder that is to become `path` when all blocks are in it."""
    return path.absolute().with_name(f".{path.name}.blocks")


def drafts_folder(staged: Path) -> Path:
    """Return the folder in which the blocks of a folder are written before they are moved there.

    It is not in that folder, which would otherwise keep what a task writes that runs for too long.
    """
    return staged.with_name(f"{staged.name}.drafts")


def check_folders(outputs: MosaicOutputs, inputs: Sequence[str]) -> None:
    """Refuse a size of blocks that cannot be, and folders that may not be written.

    Raises
    ------
    ConfigError, OutputError
    """
    _check_size(outputs.block_size or 0)
    if outputs.stac:
        raise ConfigError("--stac describes one file, not blocks: leave it out, or --block-size")
    for path in outputs.paths:
        if path.suffix.lower() in SUFFIXES:
            raise ConfigError(
                f"{path} would be one file, but --block-size writes a folder of files: name a "
                f"folder, such as {path.with_suffix('')}"
            )
        if path.is_file():
            raise OutputError(f"{path} is a file; name a folder for the blocks")
    _refuse_nested(outputs.paths)
    # A complete folder is left alone on a resume, and refused later if it is of another mosaic.
    check_outputs(outputs.paths, inputs, outputs.overwrite or outputs.resume)
    for path in outputs.paths if outputs.overwrite else ():
        refuse_others(path, "the blocks of a mosaic", partial(_is_own, path))


def _check_size(size: int) -> None:
    if size < STEP or size % STEP:
        near = max(round(size / STEP), 1) * STEP
        raise ConfigError(
            f"--block-size {size} is not a multiple of {STEP} px, in which COGs are stored: {near}"
        )


def _refuse_nested(paths: Sequence[Path]) -> None:
    real = [Path(os.path.realpath(path)) for path in paths]
    for path, own in zip(paths, real, strict=True):
        for outer, other in zip(paths, real, strict=True):
            if other in own.parents:
                raise ConfigError(
                    f"{path} lies in the folder of another output, {outer}; name a folder beside it"
                )


def _is_own(folder: Path, parts: tuple[str, ...]) -> bool:
    """Whether a file, by its path in a folder of blocks, was written with it."""
    index = index_path(folder)
    if parts[0] == ROWS:
        return len(parts) == 2 and re.fullmatch(r"r\d+\.vrt", parts[1]) is not None
    block = re.match(re.escape(folder.name) + r"_r\d+_c\d+\b", parts[0])
    owner = folder / f"{block[0]}.tif" if block else index
    own = [owner, style_path(owner), *side_files(owner), Path(f"{index}.toml")]
    return len(parts) == 1 and parts[0] in {path.name for path in own}
