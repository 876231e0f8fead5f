"""Whether surface and terrain model count their heights from the same vertical datum.

Ellipsoidal and orthometric heights of a place differ by up to 106 m, and by nearly the same over
all of a scene: the ground itself then seems to lie far above, or below, the ground.
"""

import functools
from collections.abc import Hashable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS

from cafe_cli.findings import Finding
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.window import spread
from cafe_cli.scenes.height_rasters import HeightRasters
from cafe_cli.scenes.heights import HeightReader
from cafe_cli.system.atomic_write import file_stamps
from cafe_cli.text import percent

_HIGH = 5.0  # metres above ground that nothing covers a whole scene with, but trees
_TALLEST = 60.0  # metres above ground of the lowest tree tops
_LEVEL = 1.0  # metres within which much of the ground lies above its lowest part, as no canopy does
_LEVEL_SHARE = 0.05
_DEEP = -3.0  # metres below ground where more than a tenth of a scene never lies

_REMEDY = (
    "ellipsoidal and orthometric heights differ in this way: convert one of them, with gdalwarp "
    "-s_srs and -t_srs that name the vertical datum (such as EPSG:25832+7837), or by adding the "
    "geoid"
)


def check_vertical_datum(rasters: HeightRasters, grid: Grid) -> Iterator[Finding]:
    """Compare the surface model of a scene with its terrain model, on a sample of its pixels.

    Parameters
    ----------
    rasters : HeightRasters
    grid : Grid
        Grid of the scene.

    Raises
    ------
    InputError
        A file is damaged, or there are undeclared voids.
    """
    if rasters.ground != "dtm":
        return
    one, other = rasters.surface[0], rasters.terrain[0]
    paths = [member.path for member in (*rasters.surface, *rasters.terrain)]
    shift = describe_shift(_sample(rasters, grid, (*file_stamps(paths).items(),)))
    if shift:
        yield Finding("warning", f"{one.path}, minus {other.path}: {shift}; {_REMEDY}", one.path)
        return
    names = [_vertical_name(member.grid.crs) for member in (one, other)]
    if None not in names and names[0] != names[1]:
        message = (
            f"{one.path} counts its heights in {names[0]}, {other.path} in {names[1]}: heights "
            f"above ground are wrong by the difference of the two; {_REMEDY}"
        )
        yield Finding("note", message, one.path)


def describe_shift(heights: NDArray[np.floating]) -> str:
    """Describe the shift between two vertical datums, from heights above ground; empty if none.

    A closed canopy is rough, and there is a gap of one pixel in a hundred somewhere: the lowest
    heights tell it from ground that is shifted.

    Parameters
    ----------
    heights : ndarray, (n,)
        Metres; n may be 0.
    """
    if not heights.size:
        return ""
    low, tenth = (float(p) for p in np.percentile(heights, (1, 10)))
    level = float(((heights >= low) & (heights <= low + _LEVEL)).mean())
    if low > _TALLEST or (low > _HIGH and level > _LEVEL_SHARE):
        return f"{percent(0.99, 0)} of the pixels lie more than {low:.1f} m above ground"
    if tenth < _DEEP:
        return f"{percent(0.1, 0)} of the pixels lie more than {-tenth:.1f} m below ground"
    return ""


@functools.lru_cache(maxsize=16)
def _sample(rasters: HeightRasters, grid: Grid, changes: Hashable) -> NDArray[np.float32]:
    """Return heights above ground (n,) in 16 windows spread over a scene, until files change."""
    # Neither has to be computed: what is far from the ground is so without them.
    plain = rasters.settings.model_copy(update={"fill": 0.0, "valley_radius": 0.0})
    aside = rasters.skipped and rasters.skipped.aside()
    sampled = replace(rasters, settings=plain, skipped=aside)
    with closing(HeightReader(sampled, grid)) as reader:
        found = [reader.read(window) for window in spread(grid.width, grid.height, 128, 4)]
    return np.concatenate([heights[valid] for heights, valid in found])


def _vertical_name(crs: CRS | None) -> str | None:
    """Return the name of the vertical datum that a CRS declares, None if there is none."""
    described = crs.to_dict(projjson=True) if crs else {}
    for part in described.get("components", []):
        if part.get("type") == "VerticalCRS":
            return str(part["name"])
    axes: Sequence[object] = described.get("coordinate_system", {}).get("axis", [])
    return "ellipsoidal heights" if len(axes) == 3 else None
