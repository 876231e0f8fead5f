"""The index over the blocks of a mosaic: one virtual raster, quick to open and to zoom out.

GDAL reads the whole list of a virtual raster to open it, and goes through it for every window. The
index therefore lists the rows of blocks, and a virtual raster for each row lists its blocks. A view
of the whole would open all files: an overview beside the index has it at up to 8192 pixels.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import Resampling

from cafe_cli.mosaic.block_folder import ROWS, block_file
from cafe_cli.mosaic.blocks import BlockResult
from cafe_cli.mosaic.job import index_path
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.output_files import overviews_path, style_path
from cafe_cli.raster.product import Product
from cafe_cli.raster.reader import open_raster
from cafe_cli.raster.side_files import side_texts
from cafe_cli.raster.value_counts import Counts
from cafe_cli.raster.vrt import strips_vrt
from cafe_cli.raster.window import Window
from cafe_cli.raster.writer import write_overview

_OVERVIEW = 8192  # pixels along the longer side of the overview, at most
_DIVISOR = 512  # sides of blocks are multiples of it, so that pixels of the overview lie in a block


def write_index(
    folder: Path,
    product: Product,
    grid: Grid,
    results: Sequence[BlockResult],
    tags: Mapping[str, str],
) -> None:
    """Write the index of a product into the folder with its blocks.

    Parameters
    ----------
    folder : Path
    product : Product
        Its path is the folder that `folder` is going to be.
    grid : Grid
        Grid of the mosaic.
    results : sequence of BlockResult
        The blocks that have files.
    tags : mapping
        Metadata of the index.
    """
    results = sorted(results, key=lambda result: (result.window.row, result.window.col))
    rows: list[tuple[Window, str]] = []
    total = np.zeros((1, 256), np.int64)
    (folder / ROWS).mkdir(exist_ok=True)
    for row, group in groupby(results, lambda result: result.window.row):
        blocks = [*group]
        window = Window(0, row, grid.width, blocks[0].window.height)
        name = f"{ROWS}/{blocks[0].name.partition('_')[0]}.vrt"
        counts = _sum_counts(product, blocks)
        files = [
            (block.window.relative_to(window), f"../{block_file(product.path, block.name)}")
            for block in blocks
        ]
        text = strips_vrt(product, grid.at(window), tags, files, counts)
        (folder / name).write_text(text, "utf-8")
        rows.append((window, name))
        total += counts
    index = folder / index_path(product.path).name
    index.write_text(strips_vrt(product, grid, tags, rows, total, legend=True), "utf-8")
    style = side_texts(replace(product, path=index), total).get(style_path(index))
    if style is not None:
        style_path(index).write_text(style, "utf-8")
    _write_overview(folder, overviews_path(index), product, grid, results)


def _write_overview(
    folder: Path, path: Path, product: Product, grid: Grid, results: Sequence[BlockResult]
) -> None:
    """Write the overview of a map that is larger than it would be."""
    factor = _factor(grid)
    if factor == 1:
        return
    width, height = -(-grid.width // factor), -(-grid.height // factor)
    coarse = Grid(grid.crs, grid.transform @ Affine.scale(factor), width, height)
    write_overview(path, product, coarse, _decimated(folder, product, factor, results))


def _factor(grid: Grid) -> int:
    """Return how many pixels a pixel of the overview stands for, along each side."""
    wanted = max(grid.width, grid.height) / _OVERVIEW
    return int(min(2 ** math.ceil(math.log2(max(wanted, 1))), _DIVISOR))


def _decimated(
    folder: Path, product: Product, factor: int, results: Sequence[BlockResult]
) -> Iterator[tuple[Window, NDArray[np.uint8]]]:
    """Yield the windows of the overview that the blocks fill; blocks have overviews, too."""
    how = Resampling[product.overview_resampling]
    for result in results:
        left, top = result.window.col // factor, result.window.row // factor
        with open_raster(str(folder / block_file(product.path, result.name))) as dataset:
            for (row, bottom), height in _spans(dataset.height, factor):
                for (col, right), width in _spans(dataset.width, factor):
                    values = dataset.read(
                        1, window=((row, bottom), (col, right)), out_shape=(height, width),
                        resampling=how,
                    )  # fmt: skip
                    yield (
                        Window(left + col // factor, top + row // factor, width, height),
                        values,
                    )


def _spans(length: int, factor: int) -> Iterator[tuple[tuple[int, int], int]]:
    """Yield start and end of pixels, and of how many they become: the whole ones, and the rest."""
    whole = length // factor
    if whole:
        yield (0, whole * factor), whole
    if length % factor:
        yield (whole * factor, length), 1


def _sum_counts(product: Product, results: Sequence[BlockResult]) -> Counts:
    total = np.zeros((1, 256), np.int64)
    for result in results:
        for value, count in result.counts[product.name].items():
            total[0, value] += count
    return total
