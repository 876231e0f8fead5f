"""Blocks of a mosaic: one task, from plain values to files, for each.

What a block holds depends on nothing but its task: not on other blocks, on threads, or on the
machine. A task may run twice, also at the same time: its files get their names when they are
complete, and are the same to the byte.
"""

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cafe_cli.classes import NODATA
from cafe_cli.config.choices import OnError
from cafe_cli.config.provenance import provenance_tags
from cafe_cli.mosaic.block_folder import BlockFile, describe_file, drafts_folder
from cafe_cli.mosaic.merge import WINDOW, MergedWindow, merge_windows, write_window
from cafe_cli.mosaic.plan import MosaicPlan
from cafe_cli.mosaic.seams import Seams
from cafe_cli.raster.product import Product
from cafe_cli.raster.skipped import Skipped, SkippedFile, files_of, skipped_tag
from cafe_cli.raster.value_counts import Counts
from cafe_cli.raster.window import Window, blocks
from cafe_cli.raster.writer import create_maps
from cafe_cli.system.atomic_write import translate_refusals


@dataclass(frozen=True)
class BlockTask:
    """A block to make.

    Attributes
    ----------
    name : str
        Row and column of the block, such as ``r03_c12``.
    window : Window
        The block on the grid of the mosaic.
    planned : MosaicPlan
        The mosaic, with those inputs only that touch the block.
    positions : tuple of int
        Which of all inputs these are.
    products : tuple of Product
        Rasters to write, labels first.
    method : str
    on_error : {"fail", "skip"}
    jobs : int or None
        Number of threads; one per core if None.
    given : dict
        Names of inputs as they were given, by other names that the plan has for them.
    """

    name: str
    window: Window
    planned: MosaicPlan
    positions: tuple[int, ...]
    products: tuple[Product, ...]
    method: str
    on_error: OnError
    jobs: int | None
    given: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class BlockResult:
    """What became of a block.

    Attributes
    ----------
    name : str
    window : Window
    files : dict
        `BlockFile` by product name and file name; empty if all pixels are nodata.
    counts : dict
        Pixels by product name and value.
    overlap, disagreement : int
        See `cafe_cli.mosaic.seams.Seams`.
    inputs : tuple of (int, int, int)
        Position of an input, its pixels in overlaps, and those where the map has another class.
    skipped : Skipped or None
        What could not be read; None if nothing was skipped.
    """

    name: str
    window: Window
    files: Mapping[str, Mapping[str, BlockFile]] = field(default_factory=dict)
    counts: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    overlap: int = 0
    disagreement: int = 0
    inputs: tuple[tuple[int, int, int], ...] = ()
    skipped: Skipped | None = None

    def as_json(self) -> dict[str, object]:
        """Return it as plain values, without what was skipped."""
        return {
            "block": self.name,
            "window": [self.window.col, self.window.row, self.window.width, self.window.height],
            "files": self.files,
            "counts": self.counts,
            "seams": [self.overlap, self.disagreement, self.inputs],
        }

    @classmethod
    def from_json(cls, entry: Any) -> "BlockResult":
        """Read what `as_json` returned.

        Raises
        ------
        ValueError, TypeError, KeyError, AttributeError
            It is something else.
        """
        overlap, disagreement, inputs = entry["seams"]
        return cls(
            str(entry["block"]),
            Window(*map(int, entry["window"])),
            {
                str(product): {str(name): BlockFile(*map(int, file)) for name, file in ours.items()}
                for product, ours in entry["files"].items()
            },
            {
                str(product): {int(value): int(count) for value, count in ours.items()}
                for product, ours in entry["counts"].items()
            },
            int(overlap),
            int(disagreement),
            tuple((int(i), int(there), int(other)) for i, there, other in inputs),
        )


def divide(planned: MosaicPlan, size: int) -> list[tuple[str, Window]]:
    """Return name and window of the blocks of a mosaic that an input may touch, row by row."""
    width, height = planned.grid.width, planned.grid.height
    digits = len(str(max(-(-width // size), -(-height // size)) - 1))
    return [
        (f"r{window.row // size:0{digits}}_c{window.col // size:0{digits}}", window)
        for window in blocks(width, height, size)
        if planned.touches(window)
    ]


def make_block(task: BlockTask) -> BlockResult:
    """Merge a block and write its files; none if all pixels are nodata.

    Raises
    ------
    CafeError
        As in `cafe_cli.mosaic.mosaic.mosaic`, except for what is checked before.
    """
    skipped = Skipped() if task.on_error == "skip" else None
    row, col = task.window.row, task.window.col
    windows = [
        window.shift(col, row) for window in blocks(task.window.width, task.window.height, WINDOW)
    ]
    with closing(merge_windows(task.planned, windows, skipped, task.jobs)) as merged:
        pairs = zip(windows, merged, strict=True)
        labelled = (pair for pair in pairs if (pair[1].labels != NODATA).any())
        result = BlockResult(task.name, task.window)
        if (first := next(labelled, None)) is not None:
            result = _write(task, first, labelled, skipped)
    lost = skipped.renamed(task.given) if skipped and files_of(skipped) else None
    return replace(result, skipped=lost)


def sum_blocks(results: Iterable[BlockResult], count: int) -> Seams:
    """Return the seams of a mosaic of `count` inputs from those of its blocks."""
    inputs = np.zeros((count, 2), np.int64)
    overlap = disagreement = 0
    for result in results:
        overlap, disagreement = overlap + result.overlap, disagreement + result.disagreement
        for position, *pixels in result.inputs:
            inputs[position] += pixels
    return Seams(overlap, disagreement, inputs)


def skipped_in(results: Iterable[BlockResult]) -> tuple[SkippedFile, ...]:
    """Return what was skipped of each file in any of the blocks."""
    every = Skipped()
    for result in results:
        if result.skipped:
            every.merge(result.skipped)
    return every.files()


def _write(
    task: BlockTask,
    first: tuple[Window, MergedWindow],
    others: Iterator[tuple[Window, MergedWindow]],
    skipped: Skipped | None,
) -> BlockResult:
    """Write the windows of a block: into folders of this task's own, and from there in place."""
    drafts = [tempfile.mkdtemp(dir=drafts_folder(product.path.parent)) for product in task.products]
    products = [
        replace(product, path=Path(draft, product.path.name))
        for product, draft in zip(task.products, drafts, strict=True)
    ]
    sources = [placed.source.path for placed in task.planned.inputs]
    tags = provenance_tags(sources, task.planned.models, method=task.method)
    seams = np.zeros((len(sources), 2), np.int64)
    overlap = disagreement = 0
    try:
        grid = task.planned.grid.at(task.window)
        with create_maps(products, grid, True, tags, {}) as writers:
            for window, found in _chain(first, others):
                inside = window.relative_to(task.window)
                for writer, product in zip(writers, products, strict=True):
                    write_window(writer, inside, _values(task, product, found))
                overlap += found.seams.overlap
                disagreement += found.seams.disagreement
                seams += found.seams.inputs
            lost = files_of(skipped.renamed(task.given) if skipped else None)
            for writer in writers:
                writer.update_tags(**skipped_tag(lost))
        counts = {p.name: _sparse(w.counts) for p, w in zip(products, writers, strict=True)}
        files = {
            draft.name: _put_in_place(draft.path.parent, final.path.parent)
            for draft, final in zip(products, task.products, strict=True)
        }
    finally:
        for draft in drafts:
            shutil.rmtree(draft, ignore_errors=True)
    known = zip(task.positions, seams.tolist(), strict=True)
    inputs = tuple((i, there, other) for i, (there, other) in known if there)
    return BlockResult(task.name, task.window, files, counts, overlap, disagreement, inputs)


def _chain(
    first: tuple[Window, MergedWindow], others: Iterator[tuple[Window, MergedWindow]]
) -> Iterator[tuple[Window, MergedWindow]]:
    yield first
    yield from others


def _values(task: BlockTask, product: Product, found: MergedWindow) -> NDArray[np.uint8]:
    """Return a product of a window; sources are counted among all inputs, not those of the task."""
    values: NDArray[np.uint8] = getattr(found, product.name)
    if product.name != "sources":
        return values
    positions = np.full(NODATA + 1, NODATA, np.uint8)
    positions[: len(task.positions)] = task.positions
    return positions[values]


def _sparse(counts: Counts) -> dict[int, int]:
    """Return the pixels by value of a raster of one band."""
    return {int(value): int(counts[0, value]) for value in np.flatnonzero(counts[0])}


def _put_in_place(draft: Path, folder: Path) -> dict[str, BlockFile]:
    """Move the files of a folder to another, and describe them."""
    found = {}
    with translate_refusals(folder):
        for file in sorted(draft.iterdir()):
            found[file.name] = describe_file(file)
            file.replace(folder / file.name)
    return found
