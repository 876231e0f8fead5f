"""Surface and terrain models of a scene: their units, and whether their values can be heights."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS

from cafe_cli.config.schema import HeightSettings
from cafe_cli.errors import BandError, ConfigError, InputError
from cafe_cli.raster.joining import UNIT_NAMES
from cafe_cli.raster.mosaic_view import Member
from cafe_cli.raster.reader import image_bands, open_raster, read_decimated, sample_band

GroundSource: TypeAlias = Literal["dtm", "estimate", "none"]

METRES = {
    "metre": 1.0,
    "foot": 0.3048,
    "us-foot": 1200 / 3937,
    "decimetre": 0.1,
    "centimetre": 0.01,
}
PLAUSIBLE = (-1_000.0, 10_000.0)
"""Range of heights on Earth in metres; a height outside is an undeclared void."""

_PROBE = 1024  # pixels along each side of the decimated view, if the sample is void


@dataclass(frozen=True)
class HeightRasters:
    """Surface and terrain models that were inspected, and how their values become heights.

    Attributes
    ----------
    surface, terrain : tuple of Member
        Rasters of the surface model, and of the terrain model if there is one.
    settings : HeightSettings
    ground : {"dtm", "estimate", "none"}
        Where the ground below the heights comes from.
    metres, terrain_metres : float
        Metres per unit of both models.
    """

    surface: tuple[Member, ...]
    terrain: tuple[Member, ...]
    settings: HeightSettings
    ground: GroundSource
    metres: float
    terrain_metres: float = 1.0


def inspect_heights(
    surface: tuple[Member, ...], terrain: tuple[Member, ...], settings: HeightSettings
) -> HeightRasters:
    """Check units and values of surface and terrain models, the values on a sample of pixels.

    Raises
    ------
    InputError
        A unit is unknown, heights are implausible, or there are none.
    BandError
        The raster is an image.
    ConfigError
        ``ground = "dtm"`` without a terrain model.
    """
    ground = ground_source(settings, bool(terrain))
    metres = metres_per_unit(surface[0], settings)
    _check_values(surface, settings)
    if ground != "dtm":
        return HeightRasters(surface, terrain, settings, ground, metres)
    own = terrain_settings(settings)
    _check_values(terrain, own)
    return HeightRasters(
        surface, terrain, settings, ground, metres, metres_per_unit(terrain[0], own)
    )


def terrain_settings(settings: HeightSettings) -> HeightSettings:
    """Return the settings of a terrain model: the nodata value is that of the surface model."""
    return settings.model_copy(update={"nodata": None})


def ground_source(settings: HeightSettings, has_terrain: bool) -> GroundSource:
    """Return which ground is subtracted from the heights: ``dtm``, ``estimate`` or ``none``.

    Raises
    ------
    ConfigError
        ``ground = "dtm"`` without a terrain model.
    """
    if settings.kind == "ndsm":
        return "none"
    if settings.ground == "dtm" and not has_terrain:
        raise ConfigError(
            "height.ground is 'dtm', but there is no terrain model: name one with scenes.dtm "
            "(--dtm), or let the ground be estimated"
        )
    if settings.ground == "auto":
        return "dtm" if has_terrain else "estimate"
    return settings.ground


def metres_per_unit(member: Member, settings: HeightSettings) -> float:
    """Return metres per unit of the heights, from settings, raster or vertical CRS; else 1.

    Raises
    ------
    InputError
        The raster names an unknown unit.
    """
    if settings.unit != "auto":
        return METRES[settings.unit]
    named = member.unit.lower()
    if named and named not in UNIT_NAMES:
        raise InputError(
            f"{member.path} gives its heights in {named!r}, which is no unit known here; "
            f"set height.unit to one of {', '.join(METRES)}"
        )
    return METRES[UNIT_NAMES[named]] if named else _vertical_unit(member.grid.crs)


def says_unit(heights: HeightRasters) -> bool:
    """Whether settings, raster or vertical CRS say the unit of a surface model."""
    surface = heights.surface[0]
    vertical = surface.grid.crs is not None and "VERT" in surface.grid.crs.to_wkt()
    return heights.settings.unit != "auto" or bool(surface.unit) or vertical


def _vertical_unit(crs: CRS | None) -> float:
    """Return metres per unit of the vertical axis of a compound CRS, 1 where there is none."""
    parts = crs.to_dict(projjson=True).get("components", []) if crs else []
    for part in parts:
        axes = part.get("coordinate_system", {}).get("axis", [])
        if part.get("type") == "VerticalCRS" and axes:
            unit = axes[0].get("unit", "metre")
            return float(unit["conversion_factor"]) if isinstance(unit, dict) else 1.0
    return 1.0


def _check_values(members: Sequence[Member], settings: HeightSettings) -> None:
    """Refuse values that cannot be heights, such as voids marked by an undeclared number.

    A sample of the pixels is checked; `HeightReader.read` checks the others.

    Raises
    ------
    InputError
        There is an undeclared void, or no height at all.
    BandError
        The raster has several bands, so it is an image.
    """
    found = 0
    for member in members:
        metres = metres_per_unit(member, settings)
        with open_raster(member.path) as dataset:
            if len(bands := image_bands(dataset, None)) > 1:
                raise BandError(
                    f"{member.path} has {len(bands)} bands, heights have one; if it is no image, "
                    "take the band of the heights: gdal_translate -b N"
                )
            heights = sample_band(dataset, settings.nodata)
            if not np.isfinite(heights).any() and len(members) == 1:
                heights = read_decimated(dataset, _PROBE, settings.nodata).ravel()
        heights = member.scaled(heights[np.isfinite(heights)]) * metres
        check_plausible(member.path, heights, metres)
        found += heights.size
    if not found and len(members) == 1:
        raise InputError(f"{members[0].path} holds no valid height")


def check_plausible(name: str, heights: NDArray[np.floating], metres: float) -> None:
    """Refuse heights in metres outside the range on Earth; the message uses the raster's unit."""
    if not heights.size:
        return
    low, high = float(heights.min()), float(heights.max())
    if low < PLAUSIBLE[0] or high > PLAUSIBLE[1]:
        void = as_written((low if low < PLAUSIBLE[0] else high) / metres)
        raise InputError(
            f"{name} has voids that nobody declared: it holds heights from {low:.6g} to "
            f"{high:.6g} m; if {void} marks voids, say so with height.nodata = {void} "
            f"(--height-nodata) or gdal_edit.py -a_nodata {void} FILE; or set height.unit"
        )


def as_written(value: float) -> str:
    """Write a number so that it can be passed as nodata: as an integer, or as an exact float32."""
    whole = round(value)
    close = math.isclose(value, whole, rel_tol=1e-6)
    return str(whole) if close and abs(whole) < 10**7 else str(np.float32(value))
