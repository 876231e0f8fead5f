"""Small rasters for tests, written and read with plain rasterio; only `warped` uses `raster`.

The fixture `write` in conftest.py writes into the test's own folder.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import ArrayLike, NDArray
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, Resampling
from rasterio.warp import transform

from cafe_cli.classes import ClassTable, LandClass
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.reader import open_raster
from cafe_cli.raster.warp import open_warped, read_warped
from cafe_cli.raster.window import Window
from cafe_cli.scenes.discovery import SceneFiles

Values: TypeAlias = NDArray[Any]
Names: TypeAlias = str | Path | Sequence[str | Path] | None

UTM = CRS.from_epsg(32632)
LAMBERT = CRS.from_epsg(2154)
"""Another projection in metres, valid at the same place as `UTM` and rotated by 4.5° there."""
TABLE = ClassTable(
    (
        LandClass(0, "ground", "#ffffff"),
        LandClass(1, "tree", "#00ff00"),
        LandClass(2, "building", "#0000ff"),
    )
)
HOLE = np.zeros((6, 8), bool)
"""Pixels of a hole in a raster on `grid()`, (height, width)."""
HOLE[1:4, 2:5] = True


def grid(
    width: int = 8,
    height: int = 6,
    pixel: float = 0.5,
    left: float = 300_000.0,
    top: float = 5_200_000.0,
    crs: CRS | None = UTM,
) -> Grid:
    """Return a north-up grid whose upper left corner is at `left`, `top`."""
    return Grid(crs, Affine(pixel, 0, left, 0, -pixel, top), width, height)


def moved(
    where: Grid,
    columns: float,
    rows: float,
    factor: float = 1.0,
    width: int | None = None,
    height: int | None = None,
) -> Grid:
    """Return a grid shifted by pixels, with pixels `factor` times as large, and another size."""
    place = where.transform @ Affine.translation(columns, rows) @ Affine.scale(factor)
    return Grid(where.crs, place, width or where.width, height or where.height)


def around(
    x: float, y: float, size: float, pixel: float, crs: CRS = UTM, angle: float = 0.0, flip: int = 1
) -> Grid:
    """Return a square grid of `size` units of `crs` around a point in `UTM`; flip -1: south-up."""
    (left,), (top,) = transform(UTM, crs, [x], [y])
    count = round(size / pixel)
    place = (
        Affine.translation(left, top)
        @ Affine.rotation(angle)
        @ Affine.scale(pixel, -pixel * flip)
        @ Affine.translation(-count / 2, -count / 2)
    )
    return Grid(crs, place, count, count)


def centres(where: Grid, crs: CRS | None = None) -> tuple[Values, ...]:
    """Return x and y of the pixel centres, (height, width) each, in another CRS if given.

    Exact: every point is transformed, without the approximation of a warp.
    """
    columns, rows = np.meshgrid(np.arange(where.width) + 0.5, np.arange(where.height) + 0.5)
    place: Any = where.transform  # affine is typed for single points only
    x, y = place @ (columns, rows)
    if crs in (None, where.crs):
        return x, y
    flat = transform(where.crs, crs, x.ravel().tolist(), y.ravel().tolist())
    return tuple(np.array(a).reshape(x.shape) for a in flat)


def warped(
    path: str,
    where: Grid,
    resampling: Resampling = Resampling.nearest,
    window: Window | None = None,
    **options: Any,
) -> tuple[Values, Values]:
    """Return values and validity of a raster on another grid, as `raster.warp` has them."""
    with open_raster(path) as dataset, open_warped(dataset, where, resampling, **options) as view:
        return read_warped(view, window or where.extent)


def nearest(values: Values, where: Grid, target: Grid) -> Values:
    """Resample values (height, width) to another grid by nearest neighbour, -1 outside."""
    column, row = (np.floor(a).astype(int) for a in ~where.transform @ centres(target, where.crs))
    inside = (column >= 0) & (column < where.width) & (row >= 0) & (row < where.height)
    found = values[np.clip(row, 0, where.height - 1), np.clip(column, 0, where.width - 1)]
    return np.where(inside, found.astype(int), -1)


def noise(count: int, where: Grid, dtype: str = "uint8", seed: int = 0) -> Values:
    """Return random values (count, height, width) that fill the range of an integer type."""
    shape = (count, where.height, where.width)
    random = np.random.default_rng(seed)
    if np.dtype(dtype).kind == "f":
        return random.normal(100, 30, shape).astype(dtype)
    return random.integers(0, np.iinfo(dtype).max, shape, np.dtype(dtype), endpoint=True)


def write(
    path: Path,
    values: ArrayLike,
    where: Grid,
    *,
    mask: Values | None = None,
    alpha: int | None = None,
    units: str | None = None,
    **profile: Any,
) -> str:
    """Write (bands, height, width) or (height, width) as GeoTIFF; `alpha` is a number of a band."""
    stack = np.asarray(values)
    stack = stack[None] if stack.ndim == 2 else stack
    marked = {"photometric": "minisblack", "alpha": "no"}
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(
            path, "w", driver="GTiff", count=len(stack), width=where.width, height=where.height,
            dtype=stack.dtype, crs=where.crs, transform=where.transform, **{**marked, **profile},
        ) as dataset,
    ):  # fmt: skip
        if alpha:
            kinds = list(dataset.colorinterp)
            kinds[alpha - 1] = ColorInterp.alpha
            dataset.colorinterp = kinds
        dataset.write(stack)
        if mask is not None:
            dataset.write_mask(mask)
        if units:
            dataset.units = [units] * len(stack)
    return str(path)


def package(path: Path, tables: Sequence[str], where: Grid) -> str:
    """Write an image to each of several tables of a GeoPackage."""
    options = {"driver": "GPKG", "width": where.width, "height": where.height, "count": 3}
    place = {"crs": where.crs, "transform": where.transform, "dtype": "uint8"}
    for number, table in enumerate(tables):
        more = {"RASTER_TABLE": table, "APPEND_SUBDATASET": "YES" if number else "NO"}
        with rasterio.open(path, "w", **options, **place, **more) as dataset:
            dataset.write(noise(3, where))
    return str(path)


def scene_files(
    name: str,
    optical: Names,
    elevation: Names = None,
    labels: Names = None,
    dtm: Names = None,
) -> SceneFiles:
    """Return the files of a scene; each is one name, a list, or None."""
    streams = {"optical": optical, "elevation": elevation, "labels": labels, "dtm": dtm}
    given = {k: (v,) if isinstance(v, str | Path) else v or () for k, v in streams.items()}
    return SceneFiles(name, **{k: tuple(map(str, v)) for k, v in given.items()})


def read(path: str | Path) -> Values:
    """Return all bands of a raster."""
    with rasterio.open(path) as dataset:
        values: Values = dataset.read()
    return values
