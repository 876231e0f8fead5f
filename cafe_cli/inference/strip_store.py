"""Finished strips of a map on disk, from which a run is resumed and the COGs are assembled.

A strip is a rectangle of the map, stored as one GeoTIFF per product. It is complete once the
journal lists it.
"""

import logging
import shutil
import threading
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from cafe_cli.classes import NODATA
from cafe_cli.config.choices import Engine
from cafe_cli.config.provenance import read_beside, settings_path
from cafe_cli.errors import OutputError
from cafe_cli.inference.exchange import Exchange
from cafe_cli.inference.job import PredictOutput
from cafe_cli.inference.journal import Journal, StripFile, Strips, read_fingerprint
from cafe_cli.raster.creation_options import check_creation_options
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.output_files import check_rasters
from cafe_cli.raster.product import Product
from cafe_cli.raster.side_files import write_side_files
from cafe_cli.raster.value_counts import Counts, count_files
from cafe_cli.raster.vrt import block_side, strips_vrt
from cafe_cli.raster.window import Window
from cafe_cli.raster.writer import convert_to_cog, write_geotiff
from cafe_cli.system.atomic_write import (
    flush,
    remove,
    replace_atomically,
    sync,
    temporary_path,
    translate_os_errors,
    translate_refusals,
)
from cafe_cli.system.interrupts import undo_when_ended
from cafe_cli.system.output_group import claim_outputs

log = logging.getLogger("cafe")

_JOURNAL = "journal.jsonl"


class StripStore:
    """The strips of a map; a context manager.

    The strips lie in a folder next to the first product, ``.NAME.strips``. On exit the folder is
    removed if the products are complete or no strip is; otherwise it is kept for ``--resume``.

    Parameters
    ----------
    products : sequence of Product
        Rasters of uint8 with nodata 255, the value of pixels without a strip.
    grid : Grid
        Grid of all products.
    fingerprint : mapping
        Everything that the pixels depend on, as plain values by readable names. Strips with
        another fingerprint are not used.
    outputs : PredictOutput
        Its `overwrite` allows replacing products and, without `resume`, strips; its `resume` allows
        using strips of an interrupted run; `options` are creation options of the COGs.
    tags : mapping
        Metadata of every product.

    Raises
    ------
    ConfigError
        On entering: a creation option cannot be used.
    OutputError
        On entering: a product exists; another process is writing it; there are strips and neither
        `resume` nor `overwrite`, or their fingerprint differs.
    """

    def __init__(
        self,
        products: Sequence[Product],
        grid: Grid,
        fingerprint: Mapping[str, object],
        outputs: PredictOutput,
        tags: Mapping[str, str],
    ) -> None:
        self._products, self._grid, self._outputs, self._tags = products, grid, outputs, tags
        self._path = products[0].path
        self._names = {p.name for p in products}
        self._folder = strips_folder(self._path)
        self._journal = Journal(
            self._folder / _JOURNAL, {**fingerprint, **_describe(products, grid)}
        )
        # Created before the first output is renamed: existing outputs are then of these strips.
        self._naming = self._folder / "naming"
        self._done: Strips = {}
        self._kept: Strips = {}  # those that a later run may use
        self._mutex = threading.Lock()
        self._held = ExitStack()
        self._finished = False

    @property
    def done(self) -> frozenset[Window]:
        """The complete strips."""
        with self._mutex:
            return frozenset(self._done)

    def __enter__(self) -> "StripStore":
        """Lock the folder and find the strips in it."""
        check_creation_options(self._outputs.options)
        self._check_outputs()
        with ExitStack() as stack:
            stack.enter_context(claim_outputs([path for p in self._products for path in p.claimed]))
            with translate_os_errors(self._folder):
                self._folder.mkdir(exist_ok=True)
            self._kept = self._find_strips()
            self._done = {**self._kept}
            stack.callback(self._remove_folder)
            stack.enter_context(undo_when_ended(self._abandon))
            if not self._done:
                remove(self._naming)
            self._check_outputs()  # another process may have written them
            self._journal.start(self._done)
            stack.callback(self._journal.close)
            self._remove_unlisted()
            self._held = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove the folder, unless it holds strips to resume."""
        self._finished = self._finished and kind is None
        self._held.close()
        if kind:
            self._say_kept()

    def _abandon(self) -> None:
        """Do what `__exit__` does, where a signal ends the process without it."""
        self._remove_folder()
        self._say_kept()

    def _say_kept(self) -> None:
        if self._kept and not self._finished:
            log.warning("%s kept; continue with --resume", self._summary(self._kept))

    def write(
        self, window: Window, planes: Mapping[str, NDArray[np.uint8]], keep: bool = True
    ) -> None:
        """Write a strip; safe to call from any thread.

        Parameters
        ----------
        window : Window
            Pixels of the map that the strip covers. Strips must not overlap.
        planes : mapping
            Values (bands, height, width) by product name.
        keep : bool
            Whether a later run may use the strip; one with skipped pixels is made again.

        Raises
        ------
        OutputError
            The files cannot be written, e.g. because the disk is full.
        """
        if window.intersection(self._grid.extent) != window:
            raise ValueError(f"{window} is not within {self._grid.extent}")
        self._add(
            window, write_strip(self._folder, self._products, self._grid, window, planes), keep
        )

    def accept(self, strip: "WrittenStrip", exchange: Exchange, keep: bool = True) -> None:
        """Take a strip that another process has written.

        Parameters
        ----------
        strip : WrittenStrip
            Of a window that no other strip overlaps, or once more the same.
        exchange : Exchange
            Where its files are.
        keep : bool
            See `write`.

        Raises
        ------
        OutputError
            A file does not arrive, or not as it was written.
        """
        for name, listed in strip.files.items():
            target = self._file(name, strip.window)
            if listed.bytes:
                name_there = strip_name(name, strip.window, strip.mark)
                exchange.take(name_there, listed.bytes, target)
                if _strip_file(target) != listed:
                    raise OutputError(
                        f"rows {strip.window.row} to {strip.window.bottom} of {self._path} did "
                        "not arrive as the worker wrote them"
                    )
        self._add(strip.window, strip.files, keep)

    def _add(self, window: Window, files: Mapping[str, StripFile], keep: bool) -> None:
        with self._mutex:
            if keep:
                self._journal.add(window, files)
                self._kept[window] = dict(files)
            self._done[window] = dict(files)

    def finish(self, tags: Mapping[str, str] = MappingProxyType({})) -> None:
        """Assemble the products from the strips, and rename them once all are complete.

        `tags` are added to those of every product.

        Raises
        ------
        OutputError
            A product cannot be written. The strips are kept.
        """
        counts: dict[str, Counts] = {}
        with ExitStack() as stack:
            # The first product is renamed last, when the others are complete.
            for product in self._products:
                temporary = stack.enter_context(replace_atomically(product.path, self._may_replace))
                counts[product.name] = self._convert(product, temporary, {**self._tags, **tags})
            with translate_os_errors(self._naming):
                self._naming.touch()
            flush(self._folder)
        for product in self._products:
            # Before the strips are removed: a resumed run writes what a killed one did not.
            write_side_files(product, counts[product.name])
        self._finished = True

    def _check_outputs(self) -> None:
        """Refuse products and side files that may not be replaced."""
        check_rasters(
            [p.path for p in self._products],
            [],
            self._may_replace,
            [settings_path(self._outputs.labels)],
        )

    @property
    def _may_replace(self) -> bool:
        """Whether outputs may be replaced: with `overwrite`, or if the resumed run wrote them."""
        return self._outputs.overwrite or (self._outputs.resume and self._naming.exists())

    def _file(self, product: str, window: Window) -> Path:
        return self._folder / strip_name(product, window)

    def _find_strips(self) -> Strips:
        """Return the complete strips of an interrupted run, if they may be used."""
        if self._outputs.overwrite and not self._outputs.resume:
            return {}
        listed, changes = self._journal.read()
        whole = {w: files for w, files in listed.items() if self._is_complete(w, files)}
        if whole and not self._outputs.resume:
            raise OutputError(
                f"an interrupted run left {self._summary(whole)}; pass --resume to continue it, "
                "or --overwrite to start again"
            )
        if whole and changes:
            raise OutputError(
                f"cannot resume {self._path}: {changes}; pass --overwrite without --resume to "
                "start again"
            )
        return {w: files for w, files in whole.items() if files.keys() == self._names}

    def _is_complete(self, window: Window, files: Mapping[str, StripFile]) -> bool:
        """Whether all files of a strip exist, as the journal lists them; say which is damaged."""
        for name, listed in files.items():
            path = self._file(name, window)
            if not listed.bytes:
                continue
            if not path.is_file() or path.stat().st_size != listed.bytes:
                return False
            if _strip_file(path) != listed:
                log.warning(
                    "the %s of %s in rows %d to %d are damaged on the disk and are computed again",
                    name, self._path, window.row, window.bottom,
                )  # fmt: skip
                return False
        return True

    def _summary(self, strips: Iterable[Window]) -> str:
        """Return a message with the number of strips and the share of the map that they cover."""
        areas = [w.width * w.height for w in strips]
        share = sum(areas) / (self._grid.width * self._grid.height)
        return f"{len(areas)} strip{'s' * (len(areas) > 1)} ({share:.0%}) of {self._path}"

    def _remove_unlisted(self) -> None:
        """Remove the files of strips that the journal does not list."""
        listed = {self._file(name, w) for w in self._done for name in self._names}
        for file in set(self._folder.glob("*.tif")) - listed:
            remove(file)

    def _remove_folder(self) -> None:
        """Remove the folder unless there are strips to resume; the rename makes it atomic."""
        if self._finished or not self._kept:
            trash = _removal_path(self._folder)
            remove(trash)
            self._folder.rename(trash)
            remove(trash)

    def _convert(self, product: Product, cog: Path, tags: Mapping[str, str]) -> Counts:
        """Write a product from its strips; return its pixels by band and value."""
        with self._mutex:
            windows = [w for w, files in self._done.items() if files[product.name].bytes]
        windows.sort(key=lambda w: (w.row, w.col))
        files = [self._file(product.name, window) for window in windows]
        strips = [(window, file.name) for window, file in zip(windows, files, strict=True)]
        counts = count_files(files, product.count)
        vrt = self._folder / f"{product.name}.vrt"
        with translate_os_errors(product.path):
            vrt.write_text(strips_vrt(product, self._grid, tags, strips, counts), "utf-8")
        convert_to_cog(vrt, cog, product.overview_resampling, self._outputs.options, product.path)
        return counts


@dataclass(frozen=True)
class WrittenStrip:
    """A strip that was written by a worker.

    Attributes
    ----------
    window : Window
        Pixels of the map.
    files : dict of StripFile
        By product name.
    mark : str
        What distinguishes its files from those of a second attempt.
    """

    window: Window
    files: dict[str, StripFile]
    mark: str


def write_strip(
    folder: Path,
    products: Sequence[Product],
    grid: Grid,
    window: Window,
    planes: Mapping[str, NDArray[np.uint8]],
    mark: str = "",
) -> dict[str, StripFile]:
    """Write the files of a strip to a folder; none of a product whose pixels are all nodata.

    Parameters
    ----------
    folder : Path
    products : sequence of Product
    grid : Grid
        Grid of all products.
    window : Window
        Pixels of the map that the strip covers.
    planes : mapping
        Values (bands, height, width) by product name.
    mark : str
        Distinguishes the files from those of another attempt.

    Raises
    ------
    OutputError
        A file cannot be written.
    """
    files = {}
    for product in products:
        values = planes[product.name]
        if values.shape != (product.count, window.height, window.width):
            raise ValueError(f"{product.name} of {window}: {values.shape}")
        files[product.name] = StripFile(0, 0)
        if not (values == NODATA).all():
            path = folder / strip_name(product.name, window, mark)
            files[product.name] = _write_file(path, values, grid.at(window))
    return files


def strip_name(product: str, window: Window, mark: str = "") -> str:
    """Return the name of a file of a strip."""
    place = f"{window.row}-{window.col}-{window.height}x{window.width}"
    return f"{place}.{product}{mark and f'.{mark}'}.tif"


def _write_file(path: Path, values: NDArray[np.uint8], grid: Grid) -> StripFile:
    blocks = {"blockxsize": block_side(grid.width), "blockysize": block_side(grid.height)}
    how = {"tiled": True, **blocks, "nodata": NODATA, "predictor": 1, "zlevel": 1}
    temporary = temporary_path(path, "partial")
    # The folder is not made: where it is gone, the map is complete, or its run was given up.
    with translate_refusals(path):
        try:
            write_geotiff(temporary, values, grid, **how)
            written = _strip_file(temporary)
            sync(temporary)
            temporary.replace(path)
            flush(path.parent)
        finally:
            remove(temporary)
    return written


def _strip_file(path: Path) -> StripFile:
    content = path.read_bytes()
    return StripFile(len(content), zlib.crc32(content))


def engine_of_run(labels: Path) -> str | None:
    """Return the engine of the run that `--resume` continues, complete or not; None without one.

    Parameters
    ----------
    labels : Path
        The label raster.
    """
    folder = strips_folder(labels)
    made = read_fingerprint(folder / _JOURNAL) if folder.exists() else read_beside(labels)
    settings = made if folder.exists() else made.get("predict", {})
    engine = settings.get("engine") if isinstance(settings, dict) else None
    return engine if engine in get_args(Engine) else None


def strips_folder(path: Path) -> Path:
    """Return the folder with the strips of a map."""
    return path.absolute().with_name(f".{path.name}.strips")


def remove_leftovers(path: Path) -> None:
    """Remove the strips of a complete map, if a run was killed while it removed them."""
    # Errors are ignored, because another process may remove them at the same time.
    shutil.rmtree(_removal_path(strips_folder(path)), ignore_errors=True)


def _removal_path(folder: Path) -> Path:
    """Return the name of a folder of strips while it is being removed."""
    return folder.with_name(f"{folder.name}.old")


def _describe(products: Sequence[Product], grid: Grid) -> dict[str, object]:
    return {
        "outputs": {p.name: p.count for p in products},
        "size": [grid.width, grid.height],
        "crs": grid.crs and grid.crs.to_wkt(),
        "place": list(grid.transform)[:6],
    }
