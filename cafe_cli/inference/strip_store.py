"""Finished strips of a map on disk: an interrupted run goes on from them, and COGs come of them.

A strip is a rectangle of the map, in a file of its own for every product. It counts once the
journal lists it.
"""

import logging
import shutil
import threading
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cafe_cli.classes import NODATA
from cafe_cli.errors import OutputError
from cafe_cli.inference.journal import Journal, Strips
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.vrt import Product, block_side, vrt_of
from cafe_cli.raster.window import Window
from cafe_cli.raster.writer import (
    check_creation_options,
    check_file,
    convert_to_cog,
    write_geotiff,
    write_sidecar,
)
from cafe_cli.system.atomic_write import check_output, flush, remove, replacing, saying
from cafe_cli.system.locks import locked

log = logging.getLogger("cafe")


class OutputPolicy(Protocol):
    """What the user asks for and allows."""

    @property
    def overwrite(self) -> bool:
        """Replace outputs that exist and, without `resume`, strips that are left over."""

    @property
    def resume(self) -> bool:
        """Go on with the strips of an interrupted run."""

    @property
    def options(self) -> Mapping[str, str]:
        """Creation options; see `cafe_cli.raster.writer.check_creation_options`."""


class StripStore:
    """The strips of a map; a context manager.

    They lie in a folder beside the first product, ``.NAME.strips``. It goes when the products are
    complete, or when nothing is; otherwise it stays, to be resumed.

    Parameters
    ----------
    products : sequence of Product
        uint8, nodata 255; what is never written is nodata.
    grid : Grid
        Of all products.
    made_of : mapping
        All that the pixels depend on, as plain values by names for people. Strips made of anything
        else are not used.
    policy : OutputPolicy
    tags : mapping
        Stored in every product.

    Raises
    ------
    ConfigError
        On entering: a creation option that cannot be used.
    OutputError
        On entering: a product exists; another process is writing it; strips are left over and
        `policy` say neither to use nor to remove them, or they were made of something else.
    """

    def __init__(
        self,
        products: Sequence[Product],
        grid: Grid,
        made_of: Mapping[str, object],
        policy: OutputPolicy,
        tags: Mapping[str, str],
    ) -> None:
        self._products, self._grid, self._policy, self._tags = products, grid, policy, tags
        self._path = products[0].path
        self._names = {p.name for p in products}
        self._folder = strips_folder(self._path)
        self._journal = Journal(
            self._folder / "journal.jsonl", {**made_of, **_described(products, grid)}
        )
        # Made before the first output gets its name: those that exist are of these strips then.
        self._naming = self._folder / "naming"
        self._done: Strips = {}
        self._mutex = threading.Lock()
        self._held = ExitStack()
        self._finished = False

    @property
    def done(self) -> frozenset[Window]:
        """The strips that are complete."""
        with self._mutex:
            return frozenset(self._done)

    def __enter__(self) -> "StripStore":
        """Lock the folder, and take over what is left in it."""
        check_creation_options(self._policy.options)
        for product in self._products:
            check_output(product.path, self._may_replace)
            check_file(product.path)
        busy = f"another process is writing {self._path}; wait for it, or name another output"
        with ExitStack() as stack:
            stack.enter_context(locked(self._folder / "lock", busy))
            self._done = self._left_over()
            stack.callback(self._tidy)
            if not self._done:
                remove(self._naming)
            for product in self._products:  # another process may have finished just now
                check_output(product.path, self._may_replace)
            self._journal.start(self._done)
            stack.callback(self._journal.close)
            self._clear()
            self._held = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Remove the folder, unless there is something to resume."""
        self._finished = self._finished and kind is None
        self._held.close()
        if kind and self._done and not self._finished:
            log.warning("%s kept; go on with --resume", self._amount(self._done))

    def write(self, window: Window, planes: Mapping[str, NDArray[np.uint8]]) -> None:
        """Store a strip; from any thread.

        Parameters
        ----------
        window : Window
            Pixels of the map. Strips must not overlap.
        planes : mapping
            Values (bands, height, width) by product name.

        Raises
        ------
        OutputError
            The strip cannot be written: disk full.
        """
        if window.intersection(self._grid.extent) != window:
            raise ValueError(f"{window} is not within {self._grid.extent}")
        sizes = {p.name: self._write(p, window, planes[p.name]) for p in self._products}
        with self._mutex:
            self._journal.add(window, sizes)
            self._done[window] = sizes

    def finish(self) -> None:
        """Make the products from the strips; they get their names once all of them are complete.

        Raises
        ------
        OutputError
            A product cannot be written. The strips stay.
        """
        with ExitStack() as stack:
            # The first product gets its name last, when the others can no longer fail.
            for product in self._products:
                beside = stack.enter_context(replacing(product.path, self._may_replace))
                self._convert(product, beside)
            with saying(self._naming):
                self._naming.touch()
            flush(self._folder)
        for product in self._products:
            write_sidecar(product.path, product.classes)
            flush(product.path.absolute().parent)  # before the strips go
        self._finished = True

    @property
    def _may_replace(self) -> bool:
        """Whether outputs may exist: as allowed, or a run that is resumed has named some."""
        return self._policy.overwrite or (self._policy.resume and self._naming.exists())

    def _write(self, product: Product, window: Window, values: NDArray[np.uint8]) -> int:
        """Return the bytes of a strip's file, 0 where all is nodata and there is none."""
        if values.shape != (product.count, window.height, window.width):
            raise ValueError(f"{product.name} of {window}: {values.shape}")
        if (values == NODATA).all():
            return 0
        blocks = {"blockxsize": block_side(window.width), "blockysize": block_side(window.height)}
        how = {"tiled": True, **blocks, "nodata": NODATA, "predictor": 1, "zlevel": 1}
        with replacing(self._file(product.name, window)) as beside:
            write_geotiff(beside, values, self._grid.at(window), **how)
            flush(beside)
            return beside.stat().st_size

    def _file(self, product: str, window: Window) -> Path:
        place = f"{window.row}-{window.col}-{window.height}x{window.width}"
        return self._folder / f"{place}.{product}.tif"

    def _left_over(self) -> Strips:
        """Return the strips to go on with."""
        if self._policy.overwrite and not self._policy.resume:
            return {}
        listed, changes = self._journal.read()
        whole = {w: sizes for w, sizes in listed.items() if self._is_whole(w, sizes)}
        if whole and not self._policy.resume:
            raise OutputError(
                f"an interrupted run left {self._amount(whole)}; pass --resume to go on with it, "
                "or --overwrite to start again"
            )
        if whole and changes:
            raise OutputError(
                f"cannot resume {self._path}: {changes}; pass --overwrite without --resume to "
                "start again"
            )
        return {w: sizes for w, sizes in whole.items() if sizes.keys() == self._names}

    def _is_whole(self, window: Window, sizes: Mapping[str, int]) -> bool:
        """Whether the files of a strip are there, in the size that they had."""
        files = {self._file(name, window): size for name, size in sizes.items()}
        return all(
            size == 0 or (file.is_file() and file.stat().st_size == size)
            for file, size in files.items()
        )

    def _amount(self, strips: Iterable[Window]) -> str:
        """Say how many strips there are, and how much of the map."""
        areas = [w.width * w.height for w in strips]
        share = sum(areas) / (self._grid.width * self._grid.height)
        return f"{len(areas)} strip{'s' * (len(areas) > 1)} ({share:.0%}) of {self._path}"

    def _clear(self) -> None:
        """Remove strips that the journal does not list."""
        listed = {self._file(name, w) for w in self._done for name in self._names}
        for file in set(self._folder.glob("*.tif")) - listed:
            remove(file)

    def _tidy(self) -> None:
        """Remove the folder if it is of no more use; whoever waits for it meets all or nothing."""
        if self._finished or not self._done:
            gone = _gone(self._folder)
            remove(gone)
            self._folder.rename(gone)
            remove(gone)

    def _convert(self, product: Product, cog: Path) -> None:
        with self._mutex:
            windows = [w for w, sizes in self._done.items() if sizes[product.name]]
        windows.sort(key=lambda w: (w.row, w.col))
        strips = [(w, self._file(product.name, w).name) for w in windows]
        vrt = self._folder / f"{product.name}.vrt"
        with saying(product.path):
            vrt.write_text(vrt_of(product, self._grid, self._tags, strips), "utf-8")
        overviews = product.overviews or ("mode" if product.classes else "average")
        convert_to_cog(vrt, cog, overviews, self._policy.options, product.path)
        flush(cog)


def strips_folder(path: Path) -> Path:
    """Return where the strips of a map lie."""
    return path.absolute().with_name(f".{path.name}.strips")


def remove_leftovers(path: Path) -> None:
    """Remove what is left of the strips of a complete map, if a run was killed doing so."""
    shutil.rmtree(_gone(strips_folder(path)), ignore_errors=True)  # or another process does it now


def _gone(folder: Path) -> Path:
    """Return what a folder of strips is called while it is removed."""
    return folder.with_name(f"{folder.name}.old")


def _described(products: Sequence[Product], grid: Grid) -> dict[str, object]:
    return {
        "outputs": {p.name: p.count for p in products},
        "size": [grid.width, grid.height],
        "crs": grid.crs and grid.crs.to_wkt(),
        "place": list(grid.transform)[:6],
    }
