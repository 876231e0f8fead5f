"""A cache of decoded tiles: uncompressed arrays in files that are mapped into memory.

::

    cache/
        optical.npy     (tiles, bands, size, size), the data type of the tiles
        flags.npy       (tiles, size, size), uint8, which pixels are valid: see `PackedTiles`
        height.npy      (tiles, planes, size, size), float32; absent without heights
        labels.npy      (tiles, size, size), uint8
        cache.json      the fingerprint of the tiles that were decoded

Training tiles come first, then validation tiles, both in the order of ``tileset.json``; training
reads no others. Reading a crop is then a copy of a few hundred rows, whereas a compressed tile has
to be decoded as a whole. Both masks share a byte: single bits would take less disk space, but every
crop would have to unpack them.
"""

import hashlib
import json
import logging
import math
import shutil
from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Generic, Literal, NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.lib.format import dtype_to_descr, write_array_header_1_0
from numpy.typing import NDArray

from cafe_cli import __version__
from cafe_cli.errors import InputError, OutputError
from cafe_cli.raster.input_files import restamp
from cafe_cli.scenes.scene import Patch
from cafe_cli.splits.assign import Split
from cafe_cli.system.atomic_write import remove, replace_atomically
from cafe_cli.system.locks import wait_for_lock
from cafe_cli.system.threads import ProgressCallback, cores, in_order
from cafe_cli.system.untrusted import parse_json
from cafe_cli.text import file_size
from cafe_cli.tilesets.tile_rasters import TileReader, tile_path
from cafe_cli.tilesets.tileset import CACHE, Tile, TileSet

log = logging.getLogger("cafe")

A = TypeVar("A")
CacheLimit: TypeAlias = Literal["auto", "none"] | float
"""``auto``, ``none``, or the GB (1e9 bytes) that a cache may take."""

OPTICAL_VALID, HEIGHT_VALID = 1, 2
"""Bits of `PackedTiles.flags`."""

_INFO, _LOCK = "cache.json", ".cache.lock"
_GB = 1e9
_DEFAULT_LIMIT = 50.0  # GB
_KINDS: tuple[Literal["image", "height", "label"], ...] = ("image", "height", "label")


class PackedTiles(NamedTuple, Generic[A]):
    """A tile as it is stored and augmented, with both masks in one array.

    Arrays or tensors; a stack of tiles has a leading axis.

    Attributes
    ----------
    optical : (bands, height, width), any data type
    flags : (height, width), uint8
        Bitwise or of `OPTICAL_VALID` and `HEIGHT_VALID`.
    height : (planes, height, width), float32
        Metres, 0 where not valid; see `cafe_cli.scenes.scene.Patch.heights`.
    labels : (height, width), uint8
    """

    optical: A
    flags: A
    height: A
    labels: A

    @property
    def optical_valid(self) -> A:
        """Mask of the pixels with an optical value, bool."""
        return self._mask(OPTICAL_VALID)

    @property
    def height_valid(self) -> A:
        """Mask of the pixels with a height, bool."""
        return self._mask(HEIGHT_VALID)

    def _mask(self, bit: int) -> A:
        flags: Any = self.flags
        mask: A = (flags & bit) > 0
        return mask


PackedArrays: TypeAlias = PackedTiles[NDArray[Any]]


def pack(patch: Patch, labels: NDArray[np.uint8]) -> PackedArrays:
    """Pack the patch and labels that `TileReader.read` returns."""
    flags = patch.optical_valid * np.uint8(OPTICAL_VALID)
    flags |= patch.height_valid * np.uint8(HEIGHT_VALID)
    return PackedTiles(patch.optical, flags, patch.heights, labels)


@dataclass(frozen=True)
class Cache:
    """Decoded tiles, the training tiles first.

    Attributes
    ----------
    planes : PackedTiles of read-only arrays, with a leading axis for the tile
    training : int
        Number of training tiles.
    """

    planes: PackedArrays
    training: int

    def of(self, split: Split) -> PackedArrays | None:
        """Return the tiles of a split, in the order of the tile set; None for test tiles."""
        parts = {"train": slice(self.training), "validation": slice(self.training, None)}
        part = parts.get(split)
        return None if part is None else PackedTiles(*(values[part] for values in self.planes))


def prepare(
    folder: Path,
    tileset: TileSet,
    limit: CacheLimit = "auto",
    progress: ProgressCallback = lambda done, tiles: None,
) -> Cache | None:
    """Return the cache of a tile set; create it if there is none or the tiles have changed.

    Several processes may call this at once: one decodes, the others wait for it.

    Parameters
    ----------
    folder : Path
        Folder of the tile set; the cache is its subfolder ``cache``.
    tileset : TileSet
    limit : {'auto', 'none'} or float
        GB that a new cache may take; ``auto`` is 50, or half of the free disk if that is less. An
        existing cache is used whatever its size, unless this is ``none``.
    progress : callable

    Returns
    -------
    Cache or None
        None, with a warning in the log, if it would be too large or cannot be written: then
        training reads the tiles themselves.

    Raises
    ------
    InputError
        A tile is missing or damaged.
    """
    tiles = [*tileset.of("train"), *tileset.of("validation")]
    if limit == "none" or not tiles:
        return None
    stored = _CacheFolder(folder, tileset, tiles)
    try:
        return stored.open() or stored.make(limit, progress)
    except (OutputError, OSError) as error:
        log.warning("the tiles are not cached, and every epoch decodes them again: %s", error)
        return None


class _CacheFolder:
    """The folder of a cache: opens its files, or writes them."""

    def __init__(self, folder: Path, tileset: TileSet, tiles: Sequence[Tile]) -> None:
        self._folder, self._tileset, self._tiles = folder, tileset, tiles
        self._path = folder / CACHE
        self._layout = _layout(tileset, len(tiles))
        self._fingerprint = fingerprint(folder, tileset)

    def open(self) -> Cache | None:
        """Map the files into memory; None unless they are complete and the tiles unchanged."""
        try:
            if parse_json((self._path / _INFO).read_bytes()) != self._fingerprint:
                return None
            planes = {name: self._map(name) for name in self._layout}
        except (OSError, ValueError):
            return None
        count, *sides = planes["labels"].shape
        shape = (count, self._tileset.height.planes, *sides)
        planes.setdefault("height", np.broadcast_to(np.float32(0), shape))
        return Cache(PackedTiles(**planes), len(self._tileset.of("train")))

    def _map(self, name: str) -> NDArray[Any]:
        # A plain array is cheaper to index than a memmap, whose views are memmaps, too.
        values = np.asarray(np.load(self._path / f"{name}.npy", mmap_mode="r"))
        if (values.shape, values.dtype) != self._layout[name]:
            raise ValueError(f"{name} has another shape")
        return values

    def make(self, limit: CacheLimit, progress: ProgressCallback) -> Cache | None:
        """Decode the tiles, unless another process has just done so."""
        busy = f"another process decodes the tiles of {self._folder}; waiting for it"
        with wait_for_lock(self._folder / _LOCK, busy):
            if (found := self.open()) is not None:
                return found
            # A stale or unfinished cache is removed first, so that its space counts as free.
            remove(self._path)
            with replace_atomically(self._path) as temporary:
                size = sum(_bytes(*kind) for kind in self._layout.values())
                _check_size(self._folder, size, limit)
                log.info(
                    "decoding %d tiles into %s (%s)",
                    len(self._tiles),
                    self._path,
                    file_size(size),
                )
                self._fill(temporary, progress)
                self._check_unchanged()
            return self.open()

    def _check_unchanged(self) -> None:
        if fingerprint(self._folder, self._tileset) != self._fingerprint:
            raise InputError(
                f"tiles of {self._folder} were changed while they were decoded; run again when "
                "they no longer change"
            )

    def _fill(self, folder: Path, progress: ProgressCallback) -> None:
        folder.mkdir()
        paths = {name: folder / f"{name}.npy" for name in self._layout}
        with ExitStack() as stack:
            # Written, not mapped: on a full disk a mapped file kills the process.
            files = {name: stack.enter_context(path.open("wb")) for name, path in paths.items()}
            for name, file in files.items():
                _write_header(file, *self._layout[name])
            decoded = stack.enter_context(closing(self._decoded()))
            for done, planes in enumerate(decoded, 1):
                for name, file in files.items():
                    values = getattr(planes, name)
                    file.write(np.ascontiguousarray(values, self._layout[name][1]).data)
                progress(done, len(self._tiles))
        (folder / _INFO).write_text(json.dumps(self._fingerprint, indent=1), encoding="utf-8")

    def _decoded(self) -> Generator[PackedArrays, None, None]:
        return in_order(
            TileReader(self._folder, self._tileset).for_thread,
            lambda reader, tile: pack(*reader.read(tile)),
            self._tiles,
            cores(),
        )


def _layout(tileset: TileSet, count: int) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Return the shape and data type of each array by its name."""
    flat = (count, tileset.size, tileset.size)
    volume = (count, len(tileset.band_names), *flat[1:])
    layout = {"optical": (volume, np.dtype(tileset.dtype)), "flags": (flat, np.dtype(np.uint8))}
    if tileset.has_height:
        layout["height"] = (count, tileset.height.planes, *flat[1:]), np.dtype(np.float32)
    return {**layout, "labels": (flat, np.dtype(np.uint8))}


def fingerprint(folder: Path, tileset: TileSet) -> dict[str, str]:
    """Return the fingerprint of the tiles that training reads.

    It is made of their description, and of size and time of every file.
    """
    tiles = [*tileset.of("train"), *tileset.of("validation")]
    files = [str(tile_path(folder, tile, kind)) for tile in tiles for kind in _KINDS]
    if tileset.virtual is not None:
        files += sorted(str(path) for path in (folder / "ground").rglob("*.tif"))
        files += [path for scene in tileset.virtual.scenes.values() for path in scene.stamps]
    found = restamp(files)
    return {
        "format": "cafe cache 2",
        "cafe_version": __version__,
        "tileset": _digest(tileset.model_dump_json()),
        "files": _digest(json.dumps([found.get(path) for path in files])),
    }


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _check_size(folder: Path, size: int, limit: CacheLimit) -> None:
    free = shutil.disk_usage(folder).free
    if isinstance(limit, str):
        most, why = (
            min(_DEFAULT_LIMIT * _GB, free / 2),
            f"{_DEFAULT_LIMIT:g} GB or half of what is free: ",
        )
    else:
        most, why = min(limit * _GB, free), "free: "
    if size > most:
        raise OutputError(
            f"it would take {file_size(size)}, train.cache = {limit} allows "
            f"{file_size(most)} ({why}{file_size(free)})"
        )


def _bytes(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    return math.prod(shape) * dtype.itemsize


def _write_header(file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    header = {"descr": dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    write_array_header_1_0(file, header)
