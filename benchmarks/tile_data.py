"""Make a survey to time `cafe tile` on: OUT/ortho.tif (RGB), OUT/dsm.tif (float32), OUT/labels.tif.

A town without end, drawn window by window: texture at every scale as in a photograph, streets,
gabled roofs, tree crowns and the noise of a camera and of image matching, so that it compresses as
a survey does. Pixels of 10 cm in EPSG:32632, tiles of 512 pixels, deflate. The same again is the
same, and a small survey is the corner of a large one.
"""

import argparse
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.io import DatasetWriter
from rasterio.transform import from_origin
from rasterio.windows import Window

Array = NDArray[np.float32]

GSD = 0.1  # metres
BLOCK = 1024  # pixels along each side of what is drawn at a time
PERIOD = 257  # grid points after which the texture of an octave repeats; no power of two
PLOT = 256  # pixels along each side of a plot: a house or trees, streets on the rim of every fourth
STREET = 35  # pixels from a street's middle to its kerb
PAVED, BUILDING, GRASS, TREE = range(4)
COLORS = np.array([[118, 116, 114], [150, 92, 74], [112, 122, 70], [62, 84, 46]], np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("output", type=Path)
    parser.add_argument("--size", type=int, default=12_000, help="pixels along each side")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    make(options.output, options.size)


def make(folder: Path, size: int) -> None:
    """Draw and write window by window; memory does not depend on the size."""
    with ExitStack() as stack:
        ortho = stack.enter_context(create(folder / "ortho.tif", size, 3, "uint8", 2))
        dsm = stack.enter_context(create(folder / "dsm.tif", size, 1, "float32", 3))
        labels = stack.enter_context(create(folder / "labels.tif", size, 1, "uint8", 1))
        for row in range(0, size, BLOCK):
            for col in range(0, size, BLOCK):
                window = Window(col, row, min(BLOCK, size - col), min(BLOCK, size - row))
                image, heights, classes = draw(col, row)
                ortho.write(image[:, : window.height, : window.width], window=window)
                dsm.write(heights[: window.height, : window.width], 1, window=window)
                labels.write(classes[: window.height, : window.width], 1, window=window)


def create(path: Path, size: int, count: int, dtype: str, predictor: int) -> DatasetWriter:
    profile: dict[str, Any] = {"width": size, "height": size, "count": count, "dtype": dtype}
    return rasterio.open(
        path, "w", driver="GTiff", crs=CRS.from_epsg(32632), bigtiff="if_safer",
        transform=from_origin(500_000, 5_400_000, GSD, GSD), compress="deflate",
        predictor=predictor, tiled=True, blockxsize=512, blockysize=512, **profile,
    )  # fmt: skip


def draw(col: int, row: int) -> tuple[NDArray[np.uint8], Array, NDArray[np.uint8]]:
    """Return image, metres and classes of the block of `BLOCK` pixels that starts there."""
    classes, above = place_things(col, row)
    random = np.random.default_rng((col, row))
    texture = np.stack([fractal(col, row, seed, range(2, 10)) for seed in (1, 2)])
    # Bands vary together, as they do in daylight; crowns and grass are rougher than roofs.
    contrast = np.array([9, 5, 13, 18], np.float32)[classes]
    light = contrast * texture[0] + slope_light(above)
    tint = np.array([0.35, 0.0, -0.35], np.float32)[:, None, None] * contrast * texture[1]
    grain = 1.5 * random.standard_normal((3, BLOCK, BLOCK), np.float32)
    image = COLORS[classes].transpose(2, 0, 1) + light + tint + grain
    bumps = np.array([0.02, 0.04, 0.05, 0.5], np.float32)[classes] * texture[1]
    matching = 0.01 * random.standard_normal((BLOCK, BLOCK), np.float32)
    heights = terrain(col, row) + above + bumps + matching
    return image.clip(0, 255).astype(np.uint8), heights, classes


def terrain(col: int, row: int) -> Array:
    """Return the metres of the bare ground of the block that starts there: (BLOCK, BLOCK)."""
    return 420 + 6 * fractal(col, row, 3, range(7, 12))


def fractal(col: int, row: int, seed: int, octaves: range) -> Array:
    """Return noise in which every octave, of 2**octave pixels, is equally strong: (BLOCK, BLOCK).

    That is the spectrum of natural images: power falls with the square of the frequency.
    """
    total = np.zeros((BLOCK, BLOCK), np.float32)
    for octave in octaves:
        table = np.random.default_rng((seed, octave)).standard_normal((PERIOD, PERIOD), np.float32)
        rows, across_rows = between(row, 2**octave)
        cols, across_cols = between(col, 2**octave)
        total += across_rows @ table[np.ix_(rows, cols)] @ across_cols.T
    return total


def between(start: int, step: int) -> tuple[NDArray[np.int64], Array]:
    """Return the grid points around a block, and the weights (BLOCK, points) between them."""
    place = np.arange(start, start + BLOCK) / step
    first = np.floor(place).astype(np.int64)
    share = (place - first).astype(np.float32)
    weights = np.zeros((BLOCK, first[-1] - first[0] + 2), np.float32)
    pixels = np.arange(BLOCK)
    weights[pixels, first - first[0]] = 1 - share
    weights[pixels, first - first[0] + 1] = share
    return np.arange(first[0], first[-1] + 2) % PERIOD, weights


def slope_light(above: Array) -> Array:
    """Return what a sun in the west adds to slopes."""
    return (40 * np.diff(above, axis=1, prepend=above[:, :1])).clip(-40, 40)


@dataclass(frozen=True)
class Shape:
    """A house (half length and width, ridge along its length) or a crown: pixels, metres."""

    kind: int
    x: float
    y: float
    angle: float
    length: float
    width: float
    top: float


def place_things(col: int, row: int) -> tuple[NDArray[np.uint8], Array]:
    """Return classes and heights above ground of a block."""
    y, x = np.mgrid[row : row + BLOCK, col : col + BLOCK].astype(np.float32)
    road = np.minimum(to_street(x), to_street(y)) < STREET
    classes = np.where(road, PAVED, GRASS).astype(np.uint8)
    above = np.zeros((BLOCK, BLOCK), np.float32)
    reach = PLOT // 2  # what stands on a plot may lean over its rim
    for plot_row in range((row - reach) // PLOT, (row + BLOCK + reach) // PLOT + 1):
        for plot_col in range((col - reach) // PLOT, (col + BLOCK + reach) // PLOT + 1):
            for thing in on_plot(plot_col, plot_row):
                if part := around(thing, col, row):
                    put(thing, x[part] - thing.x, y[part] - thing.y, classes[part], above[part])
    return classes, above


def to_street(along: Array) -> Array:
    """Return pixels to the middle of the next street."""
    return np.abs((along + 2 * PLOT) % (4 * PLOT) - 2 * PLOT)


def on_plot(col: int, row: int) -> list[Shape]:
    random = np.random.default_rng((col + 9, row + 9))  # a seed may not be negative
    left, top = col * PLOT, row * PLOT
    things = []
    if random.random() < 0.7:
        x, y = left + random.uniform(100, 156), top + random.uniform(100, 156)
        angle = random.choice([0, np.pi / 2]) + random.normal(0, 0.1)
        sides = random.uniform(50, 80), random.uniform(35, 55)
        things.append(Shape(BUILDING, x, y, angle, *sides, random.uniform(4, 9)))
    for _ in range(random.integers(0, 5)):
        x, y = left + random.uniform(0, PLOT), top + random.uniform(0, PLOT)
        radius = random.uniform(15, 40)
        things.append(Shape(TREE, x, y, 0, radius, radius, radius / 5))
    return things


def around(thing: Shape, col: int, row: int) -> tuple[slice, slice] | None:
    """Return the part of a block that a shape may reach, None where it does not."""
    reach = thing.length + thing.width
    sides = [
        slice(max(int(middle - reach - start), 0), max(int(middle + reach - start), 0))
        for middle, start in ((thing.y, row), (thing.x, col))
    ]
    rows, cols = sides
    return (rows, cols) if rows.start < min(rows.stop, BLOCK) and cols.stop else None


def put(thing: Shape, x: Array, y: Array, classes: NDArray[np.uint8], above: Array) -> None:
    """Draw a shape whose middle is the origin of x and y."""
    along = (x * np.cos(thing.angle) + y * np.sin(thing.angle)) / thing.length
    across = (y * np.cos(thing.angle) - x * np.sin(thing.angle)) / thing.width
    if thing.kind == TREE:
        height = thing.top * np.sqrt((1 - along**2 - across**2).clip(0))
    else:
        inside = np.maximum(np.abs(along), np.abs(across)) <= 1
        height = inside * (thing.top + 0.06 * thing.width * (1 - np.abs(across)))
    higher = height > above
    above[higher] = height[higher]
    classes[higher] = thing.kind


if __name__ == "__main__":
    main()
