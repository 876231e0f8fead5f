"""``cafe heights``: the heights that networks are given, as a GeoTIFF."""

import logging
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cafe_cli.config.provenance import dump_settings, provenance_tags, settings_path
from cafe_cli.config.schema import HeightSettings
from cafe_cli.findings import Finding, Report, log_warnings
from cafe_cli.raster.grid import Grid, describe_crs, parse_crs
from cafe_cli.raster.joining import Stream
from cafe_cli.raster.mosaic_view import Member, inspect_rasters
from cafe_cli.raster.output_files import check_rasters
from cafe_cli.raster.window import blocks
from cafe_cli.raster.writer import HEIGHT_NODATA, create_height_cog
from cafe_cli.scenes.height_rasters import HeightRasters, inspect_heights
from cafe_cli.scenes.heights import HeightReader
from cafe_cli.scenes.inspection import joint_grid, judge_coverage
from cafe_cli.scenes.pixel_size import check_pixel_size
from cafe_cli.scenes.scene_ground import SceneGround
from cafe_cli.scenes.valley_floor import UNKNOWN
from cafe_cli.scenes.vertical_datum import check_vertical_datum
from cafe_cli.system.output_group import claim_outputs
from cafe_cli.system.threads import ProgressCallback

log = logging.getLogger("cafe")

_WINDOW = 1024  # pixels along each side; a multiple of the blocks of a COG

ABOVE = {
    "dtm": "height above the terrain model",
    "estimate": "height above the estimated ground",
    "none": "height as it was given",
}
"""What is written, by the source of the ground."""

_VALLEYS = "height of the ground above the floor of its valley"


@dataclass(frozen=True)
class HeightSource:
    """The rasters to take heights from.

    Parameters
    ----------
    elevation, dtm : tuple of str
        Surface models and terrain models.
    optical : tuple of str
        Orthophotos, whose grid the heights take; that of the surface models if there are none.
    crs : str, optional
        CRS of rasters without one.
    pixel_size : float, optional
        Metres per pixel of rasters without georeference.
    """

    elevation: tuple[str, ...]
    dtm: tuple[str, ...] = ()
    optical: tuple[str, ...] = ()
    crs: str | None = None
    pixel_size: float | None = None

    @property
    def paths(self) -> list[str]:
        """All files to read."""
        return [*self.elevation, *self.dtm, *self.optical]


@dataclass(frozen=True)
class HeightSummary:
    """What was written.

    Attributes
    ----------
    description : str
        What the heights are.
    lowest, highest : float
        Metres; NaN where every pixel is void.
    void : float
        Share of pixels without a height, 0 to 1.
    """

    description: str
    lowest: float
    highest: float
    void: float


@dataclass(frozen=True)
class _HeightPlan:
    rasters: HeightRasters
    grid: Grid
    findings: tuple[Finding, ...]


def write_heights(
    source: HeightSource,
    output: Path,
    settings: HeightSettings | None = None,
    *,
    overwrite: bool = False,
    progress: ProgressCallback = lambda done, total: None,
) -> HeightSummary:
    """Write the heights of a scene in metres, by the code that tiles and maps get theirs from.

    With ``height.valley_radius`` a second band has the heights of `_VALLEYS`.

    Parameters
    ----------
    source : HeightSource
    output : Path
        COG, float32, nodata -9999; its settings are written to a file with ``.toml`` appended to
        the name.
    settings : HeightSettings, optional
        Unit, nodata and ground among others.
    overwrite : bool
        Replace an output that exists.
    progress : callable
        Called with the number of windows done and in total.

    Raises
    ------
    ConfigError
        The output is an input or is not named like a GeoTIFF, or the ground is to come from a
        missing terrain model.
    InputError, GridError, BandError
        See `cafe_cli.scenes.inspection.inspect_scene`.
    OutputError
        The output exists or cannot be written.
    """
    settings = settings or HeightSettings()
    _check_output(source, output, overwrite)
    plan = _plan(source, settings)
    log_warnings(plan.findings)
    description = ABOVE[plan.rasters.ground]
    bands = [description, _VALLEYS][: settings.planes]
    ground = SceneGround.of(plan.rasters, plan.grid)
    todo = list(blocks(plan.grid.width, plan.grid.height, _WINDOW))
    lowest, highest, known = np.inf, -np.inf, 0
    made = dump_settings({"source": vars(source), "height": settings.model_dump()})
    texts, tags = {settings_path(output): made}, provenance_tags(source.paths, [])
    with (
        claim_outputs([output], overwrite),
        create_height_cog(output, plan.grid, overwrite, bands, tags, texts) as dataset,
        closing(HeightReader(plan.rasters, plan.grid, ground)) as reader,
    ):
        for done, window in enumerate(todo, start=1):
            pixels = reader.read_or_skip(window)
            if (valid := pixels.valid).any():  # blocks that are never written are nodata
                rows, cols = window.slices()
                place = ((rows.start, rows.stop), (cols.start, cols.stop))
                planes = pixels.planes()
                planes[:, ~valid] = HEIGHT_NODATA
                planes[1:][planes[1:] == UNKNOWN] = HEIGHT_NODATA
                dataset.write(planes, window=place)
                lowest = min(lowest, float(planes[0, valid].min()))
                highest = max(highest, float(planes[0, valid].max()))
                known += int(valid.sum())
            progress(done, len(todo))
    if not known:
        log.warning("%s has no valid height", output)
        lowest = highest = np.nan
    return HeightSummary(
        description, lowest, highest, 1 - known / (plan.grid.width * plan.grid.height)
    )


def dry_run(
    source: HeightSource,
    output: Path,
    settings: HeightSettings | None = None,
    *,
    overwrite: bool = False,
) -> Report:
    """Check everything that `write_heights` checks; report the output. Arguments as there."""
    report = Report("heights")
    with report.capture_errors(str(output)):
        _check_output(source, output, overwrite)
    with report.capture_errors():
        settings = settings or HeightSettings()
        plan = _plan(source, settings)
        report.add(*plan.findings)
        size = plan.grid.width * plan.grid.height * settings.planes
        report.facts |= {
            "output": str(output),
            "heights": ABOVE[plan.rasters.ground],
            "map": {
                "width": plan.grid.width,
                "height": plan.grid.height,
                "gsd": plan.grid.gsd,
                "crs": describe_crs(plan.grid.crs),
            },
            "estimate": {"disk_at_most": size * 4},
        }
    return report


def _check_output(source: HeightSource, output: Path, overwrite: bool) -> None:
    check_rasters([output], source.paths, overwrite, [settings_path(output)], styled=False)


def _plan(source: HeightSource, settings: HeightSettings) -> _HeightPlan:
    """Inspect the rasters as `inspect_scene` does, and choose the grid."""
    crs, size = parse_crs(source.crs), source.pixel_size
    base = source.optical or source.elevation
    stream: Stream = "image" if source.optical else "heights"
    first = tuple(inspect_rasters(base, crs, stream=stream, pixel_size=size))
    findings = [finding for member in first for finding in member.findings]
    grid = joint_grid(first, findings)

    def partner(paths: Sequence[str]) -> tuple[Member, ...]:
        found = inspect_rasters(paths, crs, grid, stream="heights", pixel_size=size)
        findings.extend(finding for member in found for finding in member.findings)
        findings.extend(judge_coverage(found, base[0], grid))
        return tuple(found)

    surface = partner(source.elevation) if source.optical else first
    terrain = partner(source.dtm) if source.dtm else ()
    rasters = inspect_heights(surface, terrain, settings)
    findings += rasters.findings
    findings += check_vertical_datum(rasters, grid)
    findings += check_pixel_size(base[0], grid, rasters, gsd=None, pixel_size=size)
    return _HeightPlan(rasters, grid, tuple(findings))
