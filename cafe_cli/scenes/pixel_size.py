"""Whether it is known how many metres a pixel has, where something has to be measured in metres."""

from collections.abc import Iterator

from cafe_cli.errors import GridError
from cafe_cli.findings import Finding
from cafe_cli.raster.grid import Grid
from cafe_cli.scenes.height_rasters import HeightRasters

_SMALLEST = 1e-3  # metres of a pixel; without a CRS, smaller units are degrees


def check_pixel_size(
    name: str,
    native: Grid,
    heights: HeightRasters | None,
    *,
    gsd: float | None,
    pixel_size: float | None,
) -> Iterator[Finding]:
    """Check that a scene whose rasters do not say so has a pixel size from the user.

    Parameters
    ----------
    name : str
        The scene in messages.
    native : Grid
        Grid of its optical rasters.
    heights : HeightRasters or None
    gsd : float or None
        Ground sampling distance in metres that the scene is resampled to.
    pixel_size : float or None
        Metres per pixel that the user gives to rasters without georeference.

    Raises
    ------
    GridError
        Nobody knows the pixel size, and the scene is resampled, or the ground is estimated.
    """
    doubt = _describe_doubt(native)
    if doubt:
        if gsd is not None:
            raise GridError(f"{name} cannot be resampled to a GSD of {gsd:g} m: it {doubt}")
        if heights is not None and heights.ground == "estimate":
            raise GridError(f"the ground below {name} cannot be estimated: the image {doubt}")
        if heights is not None and heights.settings.shows_valleys:
            raise GridError(
                f"the floors of valleys (height.valley_radius) in {name} cannot be found: the "
                f"image {doubt}"
            )
        yield Finding(
            "warning", f"a pixel of {name} is assumed to measure {native.gsd:g} m: it {doubt}", name
        )
    elif native.pixel_size is None and pixel_size and abs(pixel_size / native.gsd - 1) > 0.01:
        message = (
            f"scenes.pixel_size (--pixel-size) is {pixel_size:g} m, but {name} is georeferenced: "
            f"its own pixels of {native.gsd:.3g} m are used"
        )
        yield Finding("warning", message, name)


def _describe_doubt(grid: Grid) -> str:
    """Describe why the pixel size of a raster is unknown, and what to do; empty if it is known."""
    if not grid.has_pixel_size:
        return (
            "has no georeference, so its pixel size is unknown; set it in metres with "
            "scenes.pixel_size (--pixel-size)"
        )
    if grid.crs is None and grid.gsd < _SMALLEST:
        return (
            f"has no CRS, and its pixels of {grid.gsd:.2g} units look like degrees; give the CRS "
            "with scenes.crs (--crs), e.g. EPSG:4326"
        )
    return ""
