"""Damage blocks of GeoTIFFs."""

import os

import rasterio

from cafe_cli.raster.window import Window


def block_of(path: str, column: int, row: int) -> tuple[int, int]:
    """Return offset and length in bytes of a block of band 1, by its place among the blocks."""
    with rasterio.open(path) as dataset:
        found = [
            dataset.get_tag_item(f"BLOCK_{what}_{column}_{row}", "TIFF", bidx=1)
            for what in ("OFFSET", "SIZE")
        ]
    return int(found[0]), int(found[1])


def window_of(path: str, column: int, row: int) -> Window:
    """Return the pixels of a block of band 1."""
    with rasterio.open(path) as dataset:
        height, width = dataset.block_shapes[0]
        inside = Window(0, 0, dataset.width, dataset.height)
    found = Window(column * width, row * height, width, height).intersection(inside)
    assert found is not None
    return found


def overwrite(path: str, column: int, row: int, directory: int = 1) -> Window:
    """Overwrite a block with bytes that no codec decodes; return its pixels.

    `directory` is that of the TIFF: the second may be an internal mask.
    """
    name = f"GTIFF_DIR:{directory}:{path}"
    offset, length = block_of(name, column, row)
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(b"\xff" * length)
    return window_of(name, column, row)


def cut_off(path: str, column: int, row: int) -> None:
    """Cut a file off in the middle of a block."""
    offset, length = block_of(path, column, row)
    os.truncate(path, offset + length // 2)
