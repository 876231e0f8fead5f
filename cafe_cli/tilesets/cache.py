"""The tiles of a tile set decoded once, into flat files that are mapped into memory.

::

    cache/
        optical.npy     (tiles, bands, size, size), the data type of the tiles
        flags.npy       (tiles, size, size), uint8, which pixels are valid: see `Planes`
        height.npy      (tiles, size, size), float32; not there without heights
        labels.npy      (tiles, size, size), uint8
        cache.json      what they were made of

Training tiles come first, then those for validation, both as ``tileset.json`` lists them; training
reads no others. A crop of a tile is then a copy of a few hundred rows, where a compressed tile has
to be decoded as a whole. Both masks share a byte: bits would be a little smaller on the disk, but
every crop would have to unpack them.
"""

import hashlib
import json
import logging
import math
import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Generic, Literal, NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.lib.format import dtype_to_descr, write_array_header_1_0
from numpy.typing import NDArray

from cafe_cli import __version__
from cafe_cli.errors import OutputError
from cafe_cli.scenes.scene import Patch
from cafe_cli.splits.assign import Split
from cafe_cli.system.atomic_write import flush, remove, replacing, stamps
from cafe_cli.system.locks import waiting_lock
from cafe_cli.system.threads import cores, in_order
from cafe_cli.tilesets.tileset import CACHE, Tile, TileReader, TileSet, tile_path

log = logging.getLogger("cafe")

A = TypeVar("A")
CacheLimit: TypeAlias = Literal["auto", "none"] | float
"""``auto``, ``none``, or the GB (1e9 bytes) that a cache may take."""
Progress: TypeAlias = Callable[[int, int], None]
"""Told how many tiles are decoded, and how many there are."""

OPTICAL_VALID, HEIGHT_VALID = 1, 2
"""Bits of the flags."""

_INFO, _LOCK = "cache.json", ".cache.lock"
_GB = 1e9
_UNITS = ((_GB, "GB"), (1e6, "MB"), (1e3, "kB"))
_MOST = 50.0  # GB, where nothing is said
_KINDS: tuple[Literal["image", "height", "label"], ...] = ("image", "height", "label")


class TilePlanes(NamedTuple, Generic[A]):
    """All that is known of a tile, as arrays or tensors; of several with a leading axis.

    Attributes
    ----------
    optical : (bands, height, width), any data type
    flags : (height, width), uint8
        `OPTICAL_VALID` and `HEIGHT_VALID`, or'ed.
    height : (height, width), float32
        Metres, 0 where not valid.
    labels : (height, width), uint8
    """

    optical: A
    flags: A
    height: A
    labels: A


Arrays: TypeAlias = TilePlanes[NDArray[Any]]


def pack(patch: Patch, labels: NDArray[np.uint8]) -> Arrays:
    """Return what was read of a tile with both masks in one array."""
    flags = patch.optical_valid * np.uint8(OPTICAL_VALID)
    flags |= patch.height_valid * np.uint8(HEIGHT_VALID)
    return TilePlanes(patch.optical, flags, patch.height, labels)


@dataclass(frozen=True)
class Cache:
    """Decoded tiles, those of training first.

    Attributes
    ----------
    planes : Planes of read-only arrays, with a leading axis for the tile
    training : int
        Tiles of training.
    """

    planes: Arrays
    training: int

    def of(self, split: Split) -> Arrays | None:
        """Return the tiles of a split, in the order of the tile set; None if they are not kept."""
        parts = {"train": slice(self.training), "validation": slice(self.training, None)}
        part = parts.get(split)
        return None if part is None else TilePlanes(*(values[part] for values in self.planes))


def prepare(
    folder: Path,
    tileset: TileSet,
    limit: CacheLimit = "auto",
    progress: Progress = lambda done, tiles: None,
) -> Cache | None:
    """Return the cache of a tile set; make it where there is none, or the tiles have changed.

    Several processes may call this at once: one decodes, the others wait for it.

    Parameters
    ----------
    folder : Path
        The tile set's; the cache is ``cache`` in it.
    tileset : TileSet
    limit : {'auto', 'none'} or float
        GB that a new cache may take; ``auto`` is 50, or half of the free disk if that is less. A
        cache that is there is used whatever it takes, unless this is ``none``.
    progress : callable

    Returns
    -------
    Cache or None
        None, and a warning in the log, where it is too large or cannot be written. Then the tiles
        have to be read themselves.

    Raises
    ------
    InputError
        A tile is missing or damaged.
    """
    kept = [*tileset.of("train"), *tileset.of("validation")]
    if limit == "none" or not kept:
        return None
    store = _Store(folder, tileset, kept)
    try:
        return store.open() or store.make(limit, progress)
    except (OutputError, OSError) as error:
        log.warning("no cache of the tiles, each epoch decodes them anew: %s", error)
        return None


@contextmanager
def opened(folder: Path, tileset: TileSet) -> Iterator[TileReader]:
    """Make ready to read tiles in one thread, which has to be the one that ends this."""
    reader = _Reader(folder, tileset)
    try:
        yield reader
    finally:
        reader.close()


class _Reader(TileReader):
    def close(self) -> None:
        self._scenes.close()


class _Store:
    """The cache's folder: what belongs into it, and what it holds."""

    def __init__(self, folder: Path, tileset: TileSet, kept: Sequence[Tile]) -> None:
        self._folder, self._tileset, self._kept = folder, tileset, kept
        self._path = folder / CACHE
        self._layout = _layout(tileset, len(kept))
        self._made_of = _made_of(folder, tileset, kept)

    def open(self) -> Cache | None:
        """Map the files; None unless they are complete and made of the tiles as they are now."""
        try:
            if json.loads((self._path / _INFO).read_bytes()) != self._made_of:
                return None
            planes = {name: self._map(name) for name in self._layout}
        except (OSError, ValueError):
            return None
        nothing = np.broadcast_to(np.float32(0), planes["labels"].shape)
        planes.setdefault("height", nothing)
        return Cache(TilePlanes(**planes), len(self._tileset.of("train")))

    def _map(self, name: str) -> NDArray[Any]:
        # A plain array: every index of a memmap makes another object that knows its file.
        values = np.asarray(np.load(self._path / f"{name}.npy", mmap_mode="r"))
        if (values.shape, values.dtype) != self._layout[name]:
            raise ValueError(f"{name} has another shape")
        return values

    def make(self, limit: CacheLimit, progress: Progress) -> Cache | None:
        """Decode the tiles, unless another process has just done so."""
        busy = f"another process decodes the tiles of {self._folder}; waiting for it"
        with waiting_lock(self._folder / _LOCK, busy):
            if (found := self.open()) is not None:
                return found
            # What is stale or was left half-written goes first: its place counts as free.
            remove(self._path)
            with replacing(self._path) as beside:
                size = sum(_bytes(*kind) for kind in self._layout.values())
                _check_size(self._folder, size, limit)
                log.info("decoding %d tiles into %s (%s)", len(self._kept), self._path, _size(size))
                self._fill(beside, progress)
            return self.open()

    def _fill(self, folder: Path, progress: Progress) -> None:
        folder.mkdir()
        paths = {name: folder / f"{name}.npy" for name in self._layout}
        with ExitStack() as stack:
            # Written, not mapped: a mapped file on a full disk kills the process.
            files = {name: stack.enter_context(path.open("wb")) for name, path in paths.items()}
            for name, file in files.items():
                _write_header(file, *self._layout[name])
            decoded = stack.enter_context(closing(self._decoded()))
            for done, planes in enumerate(decoded, 1):
                for name, file in files.items():
                    values = getattr(planes, name)
                    file.write(np.ascontiguousarray(values, self._layout[name][1]).data)
                progress(done, len(self._kept))
        (folder / _INFO).write_text(json.dumps(self._made_of, indent=1), encoding="utf-8")
        for path in (*paths.values(), folder / _INFO):
            flush(path)

    def _decoded(self) -> Generator[Arrays, None, None]:
        return in_order(
            lambda: opened(self._folder, self._tileset),
            lambda reader, tile: pack(*reader.read(tile)),
            self._kept,
            cores(),
        )


def _layout(tileset: TileSet, count: int) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    """Return shape and data type of each file by its name."""
    flat = (count, tileset.size, tileset.size)
    volume = (count, len(tileset.band_names), *flat[1:])
    layout = {"optical": (volume, np.dtype(tileset.dtype)), "flags": (flat, np.dtype(np.uint8))}
    if tileset.has_height:
        layout["height"] = flat, np.dtype(np.float32)
    return {**layout, "labels": (flat, np.dtype(np.uint8))}


def _made_of(folder: Path, tileset: TileSet, kept: Sequence[Tile]) -> dict[str, str]:
    """Return what tells a cache from that of other tiles, or of the same tiles changed."""
    files = [str(tile_path(folder, tile, kind)) for tile in kept for kind in _KINDS]
    if tileset.virtual is not None:
        files += sorted(str(path) for path in (folder / "ground").glob("*.tif"))
        files += [path for scene in tileset.virtual.scenes.values() for path in scene.stamps]
    found = stamps(files)
    return {
        "format": "cafe cache 1",
        "cafe_version": __version__,
        "tileset": _digest(tileset.model_dump_json()),
        "files": _digest(json.dumps([found.get(path) for path in files])),
    }


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _check_size(folder: Path, size: int, limit: CacheLimit) -> None:
    free = shutil.disk_usage(folder).free
    if isinstance(limit, str):
        most, why = min(_MOST * _GB, free / 2), f"{_MOST:g} GB or half of what is free: "
    else:
        most, why = min(limit * _GB, free), "free: "
    if size > most:
        raise OutputError(
            f"it would take {_size(size)}, train.cache = {limit} allows {_size(most)} "
            f"({why}{_size(free)})"
        )


def _bytes(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    return math.prod(shape) * dtype.itemsize


def _size(count: float) -> str:
    size, unit = next((size, unit) for size, unit in _UNITS if count >= size or unit == "kB")
    return f"{count / size:.3g} {unit}"


def _write_header(file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    header = {"descr": dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    write_array_header_1_0(file, header)
