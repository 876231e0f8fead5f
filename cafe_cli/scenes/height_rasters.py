"""Surface and terrain models of a scene: their units, and whether their values can be heights."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.io import DatasetReader

from cafe_cli.config.schema import HeightSettings
from cafe_cli.errors import BandError, ConfigError, InputError
from cafe_cli.findings import Finding
from cafe_cli.raster.joining import UNIT_NAMES
from cafe_cli.raster.mosaic_view import Member
from cafe_cli.raster.reader import image_bands, open_raster, read_decimated
from cafe_cli.raster.samples import read_samples
from cafe_cli.raster.skipped import Skipped, try_read
from cafe_cli.scenes.height_voids import (
    FAR,
    PLAUSIBLE,
    as_written,
    declare_heights,
    describe_height_codes,
    find_height_codes,
    is_code,
)

GroundSource: TypeAlias = Literal["dtm", "estimate", "none"]

METRES = {
    "metre": 1.0,
    "foot": 0.3048,
    "us-foot": 1200 / 3937,
    "decimetre": 0.1,
    "centimetre": 0.01,
}

_Found: TypeAlias = "tuple[list[Finding], tuple[float, float] | None]"
File = TypeVar("File")

_PROBE = 1024  # pixels along each side of the decimated view
_MOST_PIXELS = 16_000_000  # of the rasters that are read as decimated views, too
_MOST_FILES = 16


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
    span : (float, float) or None
        Lowest and highest of the heights that were sampled, in metres; None if there is none.
    findings : tuple of Finding
        Warnings about values that may mark voids.
    skipped : Skipped or None
        Collects what cannot be read; if None, that is an error.
    """

    surface: tuple[Member, ...]
    terrain: tuple[Member, ...]
    settings: HeightSettings
    ground: GroundSource
    metres: float
    terrain_metres: float = 1.0
    span: tuple[float, float] | None = None
    findings: tuple[Finding, ...] = ()
    skipped: Skipped | None = field(default=None, compare=False)

    def without_valleys(self) -> "HeightRasters":
        """Return the same rasters, to read heights above ground alone."""
        settings = self.settings.model_copy(update={"valley_radius": 0.0})
        return replace(self, settings=settings)

    def stored(self, height: float, terrain: bool = False) -> float:
        """Return what the first raster stores for a height in metres."""
        member = self.terrain[0] if terrain else self.surface[0]
        unit = self.terrain_metres if terrain else self.metres
        return (height / unit - member.offset) / member.scale

    def is_far_code(self, height: float, terrain: bool = False) -> bool:
        """Whether a height in metres marks voids, far from the heights that were sampled."""
        if self.span is None or self.span[0] - FAR <= height <= self.span[1] + FAR:
            return False
        return height != 0 and is_code(self.stored(height, terrain))


class HeightVoids(NamedTuple):
    """What was found about voids in parts of a height raster.

    Attributes
    ----------
    findings : list of Finding
        Errors and warnings; `Finding.where` is the file.
    codes : list of float
        Stored values that mark voids, or may do so.
    heights : ndarray, (n,)
        The other heights in metres.
    """

    findings: list[Finding]
    codes: list[float]
    heights: NDArray[np.float64]


def inspect_heights(
    surface: tuple[Member, ...],
    terrain: tuple[Member, ...],
    settings: HeightSettings,
    skipped: Skipped | None = None,
) -> HeightRasters:
    """Check units and values of surface and terrain models, the values on a sample of pixels.

    With `skipped`, pixels that cannot be read are left out.

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
    findings, span = _check_values(surface, settings, skipped, options=True)
    plain = HeightRasters(
        surface, terrain, settings, ground, metres, 1.0, span, (*findings,), skipped
    )
    if ground != "dtm":
        return plain
    own = terrain_settings(settings)
    more, own_span = _check_values(terrain, own, skipped, options=False)
    spans = [s for s in (span, own_span) if s is not None]
    return replace(
        plain,
        terrain_metres=metres_per_unit(terrain[0], own),
        span=(min(low for low, _ in spans), max(high for _, high in spans)) if spans else None,
        findings=(*findings, *more),
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
            f"{member.path} states its heights in {named!r}, an unknown unit; set height.unit to "
            f"one of {', '.join(METRES)}"
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


def _check_values(
    members: Sequence[Member], settings: HeightSettings, skipped: Skipped | None, options: bool
) -> _Found:
    """Look at samples of up to 16 rasters; `HeightReader.read` checks the other pixels.

    Raises
    ------
    InputError
        There is an undeclared void, or no height at all.
    BandError
        A raster has several bands, so it is an image.
    """
    findings: list[Finding] = []
    spans = []
    some = spread_files(members)
    for member in some:
        with open_raster(member.path) as dataset:
            if len(bands := image_bands(dataset, None)) > 1:
                raise BandError(
                    f"{member.path} has {len(bands)} bands, heights have one; if it is not an "
                    "image, extract the band with the heights: gdal_translate -b N"
                )
            parts = read_height_parts(dataset, settings.nodata, len(some), skipped)
            found = find_height_voids(dataset, member, settings, parts, options)
        for finding in found.findings:
            if finding.level == "error":
                raise InputError(finding.message)
        findings += found.findings
        if (heights := found.heights).size:
            spans.append((float(heights.min()), float(heights.max())))
    if not spans and len(members) == 1:
        raise InputError(f"{members[0].path} holds no valid height")
    lows, highs = zip(*spans, strict=True) if spans else ((), ())
    return findings, (min(lows), max(highs)) if spans else None


def spread_files(files: Sequence[File]) -> Sequence[File]:
    """Return up to 16 of the files of a stream, spread over all of them."""
    return files[:: max(1, math.ceil(len(files) / _MOST_FILES))]


def read_height_parts(
    dataset: DatasetReader,
    nodata: float | None,
    files: int = 1,
    skipped: Skipped | None = None,
) -> list[NDArray[np.float64]]:
    """Read parts of a height raster, (height, width) each, NaN where void.

    Parameters
    ----------
    dataset : DatasetReader
    nodata : float, optional
        Replaces the raster's own.
    files : int
        Number of rasters that are looked at; of each, less is read the more there are.
    skipped : Skipped, optional
        What cannot be read is NaN or left out, instead of an error.
    """
    samples = read_samples(dataset, [1], nodata, samples_per_side(files), skipped)
    parts = [np.where(s.valid, s.values[0].astype(np.float64), np.nan) for s in samples]
    pixels = dataset.width * dataset.height
    small = max(dataset.shape) <= 4 * _PROBE and pixels * files <= _MOST_PIXELS
    empty = files == 1 and not any(np.isfinite(part).any() for part in parts)
    if (small and max(dataset.shape) > _PROBE) or empty:
        decimated = try_read(
            skipped, dataset.name, partial(read_decimated, dataset, _PROBE, nodata)
        )
        parts += [] if decimated is None else [decimated]
    return parts


def samples_per_side(files: int) -> int:
    """Return how many windows along each side of a raster are looked at, the corners among them."""
    return 4 if files <= 4 else 2


def find_height_voids(
    dataset: DatasetReader,
    member: Member,
    settings: HeightSettings,
    parts: Sequence[NDArray[np.float64]],
    options: bool,
) -> HeightVoids:
    """Find undeclared voids in parts of a height raster.

    Parameters
    ----------
    dataset : DatasetReader
    member : Member
        Its metadata.
    settings : HeightSettings
    parts : sequence of ndarray
        From `read_height_parts`.
    options : bool
        Whether ``height.nodata`` applies to the raster.

    """
    unit = metres_per_unit(member, settings)

    def metres(values: Any) -> Any:
        return (values * member.scale + member.offset) * unit

    codes = find_height_codes(parts, metres, settings.kind == "ndsm")
    values = np.concatenate([part[np.isfinite(part)] for part in parts])
    heights: NDArray[np.float64] = metres(values[~np.isin(values, [c.value for c in codes])])
    declared = dataset.nodata if settings.nodata is None else settings.nodata
    marked = any(np.isnan(part).any() for part in parts)
    others = [declared] if marked and declared is not None and np.isfinite(declared) else []
    found = describe_height_codes(codes, heights, member.path, others, options)
    findings = [
        Finding("error" if certain else "warning", message, member.path)
        for certain, message in found
    ]
    return HeightVoids(findings, [code.value for code in codes], heights)


def check_plausible(
    name: str, heights: NDArray[np.floating], rasters: HeightRasters, terrain: bool = False
) -> None:
    """Refuse heights in metres that mark voids, among pixels that the samples did not show.

    Parameters
    ----------
    name : str
        The raster in the message.
    heights : ndarray
    rasters : HeightRasters
    terrain : bool
        Whether they are those of the terrain model.
    """
    if not heights.size:
        return
    low, high = float(heights.min()), float(heights.max())
    for height in (low, high):
        if not PLAUSIBLE[0] <= height <= PLAUSIBLE[1] or rasters.is_far_code(height, terrain):
            void = rasters.stored(height, terrain)
            raise InputError(
                f"{name} has heights that look like undeclared nodata: they range from {low:.6g} "
                f"to {high:.6g} m; if {as_written(void)} marks voids, "
                f"{declare_heights([void], 'FILE', [], not terrain)}, else set height.unit"
            )
