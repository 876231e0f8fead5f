"""Plan polygons: check options, inputs and outputs, for the run and for the dry run."""

import logging
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from cafe_cli.classes import ClassTable
from cafe_cli.config.provenance import settings_path
from cafe_cli.errors import ConfigError, GridError
from cafe_cli.evaluation.land_cover_map import LandCoverMap, class_table, inspect_map
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.mosaic_view import inspect_rasters
from cafe_cli.scenes.discovery import expand_inputs
from cafe_cli.system.atomic_write import check_outputs, is_file_name
from cafe_cli.vectorization.attributes import GroundRaster, inspect_ground_raster
from cafe_cli.vectorization.formats import check_format, style_path

log = logging.getLogger("cafe")

_OWN_COLUMNS = ("class", "name", "area_m2", "confidence", "fid", "geom", "geometry")
_TOLERANCE = 1.5  # pixels: steps of one pixel go where the border is not level
_STYLE = 1_000_000  # bytes of a style that are looked at
_STATISTICS = ("mean", "min", "max")


@dataclass(frozen=True)
class VectorizeOptions:
    """How polygons are made.

    Attributes
    ----------
    min_area : float
        Square metres; smaller polygons go to a neighbour. 0 keeps all.
    simplify : float, optional
        Tolerance in metres: the side of a square, up to whose area a corner may be cut off. One
        and a half pixels if None; 0 keeps the outlines of the pixels.
    smooth : bool
        Whether corners are rounded.
    confidence, probabilities : str, optional
        Rasters that `cafe predict` wrote with the map; by default those beside it,
        ``MAP_confidence.tif`` and ``MAP_probabilities.tif``.
    statistics : mapping of str to str
        Rasters by the name of their attributes.
    crs : str, optional
        CRS of rasters that have none.
    pixel_size : float, optional
        Metres per pixel of a map without georeference.
    """

    min_area: float = 0.0
    simplify: float | None = None
    smooth: bool = False
    confidence: str | None = None
    probabilities: str | None = None
    statistics: Mapping[str, str] = field(default_factory=dict)
    crs: str | None = None
    pixel_size: float | None = None


@dataclass(frozen=True)
class VectorizePlan:
    """Polygons whose inputs and output were checked.

    Attributes
    ----------
    map : LandCoverMap
    grid : Grid
    classes : ClassTable
    tolerance : float
        Of the simplification, in pixels.
    confidence, probabilities : GroundRaster or None
    statistics : tuple of GroundRaster
    inputs : tuple of str
        All rasters to read.
    side_files : tuple of Path
        Files that are written with the output: its settings, and its style.
    """

    map: LandCoverMap
    grid: Grid
    classes: ClassTable
    tolerance: float
    confidence: GroundRaster | None
    probabilities: GroundRaster | None
    statistics: tuple[GroundRaster, ...]
    inputs: tuple[str, ...]
    side_files: tuple[Path, ...]


def plan(
    name: str,
    output: Path,
    options: VectorizeOptions,
    *,
    classes: ClassTable | None = None,
    overwrite: bool = False,
) -> VectorizePlan:
    """Check options, output and inputs; see `cafe_cli.vectorization.vectorize.vectorize`."""
    _check_options(options)
    map_ = inspect_map(name, options.crs)
    map_ = replace(map_, members=tuple(m.with_pixel_size(options.pixel_size) for m in map_.members))
    grid, paths = map_.grid, [member.path for member in map_.members]
    check_format(output, grid.crs)
    table = class_table(map_, classes)
    tolerance = _tolerance(options, grid, paths[0])
    confidence = options.confidence or _beside(paths, grid, "confidence")
    probabilities = options.probabilities or _beside(paths, grid, "probabilities")
    named = {"confidence": confidence, **options.statistics}
    found = {key: expand_inputs([value]) for key, value in named.items() if value}
    scores = expand_inputs([probabilities]) if probabilities and options.min_area else []
    inputs = (*paths, *scores, *(p for some in found.values() for p in some))
    sides = _side_files(output, overwrite)
    check_outputs([output], inputs, overwrite, dict.fromkeys(sides, output))
    rasters = {
        key: inspect_ground_raster(
            key, some, paths[0], grid, percent=key == "confidence", crs=options.crs
        )
        for key, some in found.items()
    }
    return VectorizePlan(
        map_,
        grid,
        table,
        tolerance,
        rasters.pop("confidence", None),
        inspect_ground_raster(
            "probabilities", scores, paths[0], grid, bands=len(table), percent=True,
            crs=options.crs,
        ) if scores else None,
        tuple(rasters.values()),
        inputs,
        sides,
    )  # fmt: skip


def _side_files(output: Path, overwrite: bool) -> tuple[Path, ...]:
    """Return the files that are written with an output: its settings, and its style.

    A style that is there, perhaps of polygons in another format, stays unless `overwrite`; that of
    a raster stays anyway.
    """
    style = style_path(output)
    wanted = style is not None and _may_write_style(style, overwrite)
    return (settings_path(output), style) if style and wanted else (settings_path(output),)


def _may_write_style(style: Path, overwrite: bool) -> bool:
    if not style.is_file():
        return True
    with style.open("rb") as file:
        raster = b"<rasterrenderer" in file.read(_STYLE)
    if raster:
        log.warning(
            "%s is the style of a raster and is kept: QGIS will show the polygons without "
            "colours; name them differently from the raster, or write a GeoPackage", style,
        )  # fmt: skip
    return overwrite and not raster


def _check_options(options: VectorizeOptions) -> None:
    for flag, value in (("--min-area", options.min_area), ("--simplify", options.simplify or 0)):
        if not 0 <= value < math.inf:
            raise ConfigError(f"{flag} {value:g}: give a number of at least 0")
    taken = set(_OWN_COLUMNS)
    for name in options.statistics:
        if not re.fullmatch(r"[A-Za-z_]\w{0,50}", name):
            raise ConfigError(
                f"--stats {name}=...: {name!r} becomes the name of attributes; write it with "
                "letters, digits and _, e.g. heights=dsm.tif"
            )
        columns = {column.lower() for column in statistic_columns(name)}
        if columns & taken or name == "confidence":
            raise ConfigError(f"--stats {name}=...: there are such attributes already; rename it")
        taken |= columns


def statistic_columns(name: str) -> tuple[str, str, str]:
    """Return the names of the attributes of a raster: its mean, minimum and maximum."""
    mean, low, high = (f"{name}_{what}" for what in _STATISTICS)
    return mean, low, high


def _tolerance(options: VectorizeOptions, grid: Grid, name: str) -> float:
    """Return the tolerance in pixels; refuse metres where nothing tells the size of a pixel."""
    metric = options.min_area or options.simplify
    if metric and not grid.has_pixel_size:
        raise GridError(
            f"{name} has no pixel size in metres, which --min-area and --simplify need; pass "
            "--pixel-size"
        )
    return _TOLERANCE if options.simplify is None else options.simplify / grid.gsd


def _beside(paths: list[str], grid: Grid, what: str) -> str | None:
    """Return a raster beside a map that is named after it and has its pixels."""
    if len(paths) != 1 or not is_file_name(paths[0]):
        return None
    path = Path(paths[0])
    other = path.with_name(f"{path.stem}_{what}{path.suffix}")
    if not other.is_file() or other == path:
        return None
    if not inspect_rasters([str(other)], reference=grid)[0].grid.same_pixels(grid):
        log.warning("%s is not used: it does not have the pixels of %s", other, path)
        return None
    log.info("%s: from %s", what, other)
    return str(other)
