"""Finished blocks of a mosaic on disk, from which a run is resumed, and the index over them."""

import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from cafe_cli.errors import OutputError
from cafe_cli.mosaic.block_folder import (
    ROWS,
    block_file,
    describe_file,
    drafts_folder,
    staged_folder,
)
from cafe_cli.mosaic.blocks import BlockResult
from cafe_cli.mosaic.job import MosaicOutputs, index_path
from cafe_cli.mosaic.plan import MosaicPlan
from cafe_cli.raster.output_files import style_path
from cafe_cli.raster.product import Product
from cafe_cli.raster.side_files import side_texts
from cafe_cli.raster.value_counts import Counts
from cafe_cli.raster.vrt import strips_vrt
from cafe_cli.raster.window import Window
from cafe_cli.system.atomic_write import remove, translate_os_errors
from cafe_cli.system.interrupts import undo_when_ended
from cafe_cli.system.journal import Journal
from cafe_cli.system.output_group import claim_outputs, replace_folders

log = logging.getLogger("cafe")

_JOURNAL = ".journal.jsonl"
_FORMAT = "cafe blocks 1"


class BlockStore:
    """The blocks of a mosaic, in a folder beside that of each product; see `open_blocks`.

    Attributes
    ----------
    done : dict
        The complete blocks, by name.
    """

    def __init__(self, planned: MosaicPlan, fingerprint: Mapping[str, object]) -> None:
        self._planned = planned
        self._outputs: MosaicOutputs = planned.outputs
        self._products = planned.products
        self.path = self._products[0].path
        self._journal = Journal(
            staged_folder(self.path) / _JOURNAL,
            "blocks",
            _FORMAT,
            {**fingerprint, **_describe(planned)},
        )
        self.done: dict[str, BlockResult] = {}
        self._kept = 0  # blocks that a later run may use
        self._finished = False

    @property
    def folders(self) -> list[Path]:
        """The folders that blocks are written to."""
        return [drafts_folder(staged_folder(product.path)) for product in self._products]

    def products(self, name: str) -> tuple[Product, ...]:
        """Return the rasters of a block, under the names that they have until all are complete."""
        return tuple(
            replace(product, path=staged_folder(product.path) / block_file(product.path, name))
            for product in self._products
        )

    def add(self, result: BlockResult) -> None:
        """Record a block that is complete; one with skipped pixels is made again on a resume."""
        self.done[result.name] = result
        if not result.skipped:
            self._journal.add(result.as_json())
            self._kept += 1

    def finish(self, tags: Mapping[str, str], settings: str) -> None:
        """Write the index over the blocks, and give all folders their names.

        Parameters
        ----------
        tags : mapping
            Metadata of the index of every product.
        settings : str
            Text of the file of the settings.

        Raises
        ------
        OutputError
            A file cannot be written. The blocks are kept.
        """
        self._journal.close()
        for product in self._products:
            with translate_os_errors(product.path):
                self._remove_drafts(product)
                self._remove_others(product)
                self._write_index(product, tags)
        index = index_path(self.path)
        with translate_os_errors(index):
            staged_folder(self.path).joinpath(self._outputs.settings.name).write_text(
                settings, "utf-8"
            )
        replace_folders(
            [(staged_folder(p.path), p.path) for p in self._products],
            [staged_folder(self.path) / _JOURNAL],
        )
        self._finished = True

    def find(self) -> None:
        """Find the complete blocks of an interrupted run, if they may be used.

        Raises
        ------
        OutputError
            There are some, and neither `resume` nor `overwrite`; or they are of another mosaic.
        """
        if self._outputs.overwrite and not self._outputs.resume:
            return
        entries, changes = self._journal.read()
        listed = [result for entry in entries if (result := _parse(entry))]
        whole = {result.name: result for result in listed if self._is_complete(result)}
        if whole and not self._outputs.resume:
            raise OutputError(
                f"an interrupted run left {_count(len(whole))} of {self.path}; pass --resume to "
                "continue it, or --overwrite to start again"
            )
        if whole and changes:
            raise OutputError(
                f"cannot resume {self.path}: {changes}; pass --overwrite without --resume to start "
                "again"
            )
        self.done, self._kept = whole, len(whole)

    def start(self) -> None:
        """Remove what is not of a complete block, and begin the journal."""
        for product in self._products:
            with translate_os_errors(product.path):
                staged_folder(product.path).mkdir(exist_ok=True)
                self._remove_others(product)
                self._remove_drafts(product)
                drafts_folder(staged_folder(product.path)).mkdir()
        self._journal.start(result.as_json() for result in self.done.values())

    def close(self) -> None:
        """Remove the blocks, unless a later run may use them."""
        self._journal.close()
        for product in self._products:
            self._remove_drafts(product)
        if not self._finished and self._kept:
            log.warning(
                "%s of %s kept; continue with --resume", _count(self._kept), self.path
            )  # fmt: skip
        elif not self._finished:
            for product in self._products:
                remove(staged_folder(product.path))

    def _is_complete(self, result: BlockResult) -> bool:
        """Whether all files of a block exist, as the journal lists them; say which is damaged."""
        for product in self._products if result.files else ():
            for name, listed in result.files.get(product.name, {"": None}).items():
                file = staged_folder(product.path) / name
                if not file.is_file():
                    return False
                if describe_file(file) != listed:
                    log.warning(
                        "%s of block %s of %s is damaged on the disk; the block is made again",
                        name, result.name, self.path,
                    )  # fmt: skip
                    return False
        return True

    def _remove_others(self, product: Product) -> None:
        """Remove the files of blocks that are not complete, and drafts that were left."""
        results = self.done.values()
        known = {name for result in results for name in result.files.get(product.name, ())}
        for file in staged_folder(product.path).iterdir():
            if file.name not in known | {_JOURNAL}:
                remove(file)

    def _remove_drafts(self, product: Product) -> None:
        """Remove what tasks write; some of a cluster may still run though their block is there."""
        shutil.rmtree(drafts_folder(staged_folder(product.path)), ignore_errors=True)

    def _write_index(self, product: Product, tags: Mapping[str, str]) -> None:
        """Write a virtual raster for every row of blocks, and one over these.

        GDAL reads the whole list of a virtual raster to open it, and goes through it for every
        window: two short lists are fast where one of 10,000 blocks is not.
        """
        folder, grid = staged_folder(product.path), self._planned.grid
        rows: list[tuple[Window, str]] = []
        total = np.zeros((1, 256), np.int64)
        (folder / ROWS).mkdir(exist_ok=True)
        for row, group in groupby(self._written(), lambda result: result.window.row):
            results = [*group]
            window = Window(0, row, grid.width, results[0].window.height)
            name = f"{results[0].name.partition('_')[0]}.vrt"
            counts = _sum_counts(product, results)
            strips = [
                (r.window.relative_to(window), f"../{block_file(product.path, r.name)}")
                for r in results
            ]
            text = strips_vrt(product, grid.at(window), tags, strips, counts)
            (folder / ROWS / name).write_text(text, "utf-8")
            rows.append((window, f"{ROWS}/{name}"))
            total += counts
        index = index_path(product.path)
        text = strips_vrt(product, grid, tags, rows, total, legend=True)
        (folder / index.name).write_text(text, "utf-8")
        for path, content in side_texts(replace(product, path=index), total).items():
            if path == style_path(index):
                (folder / path.name).write_text(content, "utf-8")

    def _written(self) -> list[BlockResult]:
        """Return the blocks that have files, row by row."""
        written = [result for result in self.done.values() if result.files]
        return sorted(written, key=lambda result: (result.window.row, result.window.col))


@contextmanager
def open_blocks(planned: MosaicPlan, fingerprint: Mapping[str, object]) -> Iterator[BlockStore]:
    """Lock the outputs of a mosaic in blocks, and open the blocks of an interrupted run.

    Blocks lie in a folder next to that of each product, ``.NAME.blocks``, until `BlockStore.finish`
    gives it its name. Otherwise it is kept for ``--resume``, or removed if no block is complete.

    Parameters
    ----------
    planned : MosaicPlan
    fingerprint : mapping
        Everything that the blocks depend on besides the plan, as plain values by readable names.

    Raises
    ------
    OutputError
        An output exists; another process is writing it; there are blocks and neither ``resume`` nor
        ``overwrite``, or they are of another mosaic.
    """
    store = BlockStore(planned, fingerprint)
    with ExitStack() as stack:
        paths = [product.path for product in planned.products]
        stack.enter_context(claim_outputs(paths, planned.outputs.overwrite))
        store.find()
        stack.callback(store.close)
        stack.enter_context(undo_when_ended(store.close))
        store.start()
        yield store


def _parse(entry: Any) -> BlockResult | None:
    try:
        return BlockResult.from_json(entry)
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _sum_counts(product: Product, results: Iterable[BlockResult]) -> Counts:
    total = np.zeros((1, 256), np.int64)
    for result in results:
        for value, count in result.counts[product.name].items():
            total[0, value] += count
    return total


def _count(blocks: int) -> str:
    return f"{blocks} block{'s' * (blocks > 1)}"


def _describe(planned: MosaicPlan) -> dict[str, object]:
    grid, products = planned.grid, planned.products
    classes: Sequence[object] = planned.classes.as_json() if planned.classes else ()
    return {
        "outputs": [product.name for product in products],
        "block_size": planned.outputs.block_size,
        "classes": classes,
        "size": [grid.width, grid.height],
        "crs": grid.crs and grid.crs.to_wkt(),
        "place": list(grid.transform)[:6],
    }
