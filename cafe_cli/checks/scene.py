"""Check one scene: its grids, heights and labels together.

The time is bounded however large the rasters are: some windows or a decimated view of each are
read. The rules are in `cafe_cli.checks.rules` and
`cafe_cli.checks.height_rules`.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TypeAlias

import numpy as np

from cafe_cli.checks.coregistration import (
    OffsetConsensus,
    check_registration,
    combine_offsets,
    estimate_offset,
)
from cafe_cli.checks.facts import (
    AboveGroundFacts,
    GridFacts,
    HeightFacts,
    LabelFacts,
    RasterFacts,
    RegistrationFacts,
    SceneFacts,
    StreamFacts,
    json_number,
)
from cafe_cli.checks.height_rules import check_above_ground, check_voids
from cafe_cli.checks.raster import check_files
from cafe_cli.checks.rules import check_grid, check_labels, pixel_shift
from cafe_cli.classes import NODATA
from cafe_cli.config.schema import Config, HeightSettings
from cafe_cli.findings import Finding, Report, count_as_said
from cafe_cli.raster.grid import Grid, parse_crs
from cafe_cli.raster.joining import Stream
from cafe_cli.raster.mosaic_view import (
    Member,
    covered_share,
    inspect_rasters,
    union_grid,
)
from cafe_cli.raster.reader import Array, Mask
from cafe_cli.raster.window import spread
from cafe_cli.scenes.discovery import SceneFiles
from cafe_cli.scenes.height_rasters import ground_source
from cafe_cli.scenes.inspection import SceneInspection, inspect_scene, joint_grid
from cafe_cli.scenes.label_coding import MOST_UNKNOWN, LabelTally
from cafe_cli.scenes.label_values import Key
from cafe_cli.scenes.scene import Patch, Scene, find_scene_ground, open_scene
from cafe_cli.scenes.scene_ground import SceneGround
from cafe_cli.scenes.vertical_datum import describe_shift
from cafe_cli.vector.layers import is_vector

EstimateGround: TypeAlias = Callable[[SceneInspection], SceneGround | None]

STREAMS = ("optical", "elevation", "dtm", "labels", "corrections")

_FOR_LABELS = ("optical", "labels", "corrections")

_MOST_CELLS = 4_000_000  # of the ground filter; they take about ten seconds


def diagnose(
    files: SceneFiles,
    config: Config,
    estimate: EstimateGround = find_scene_ground,
    in_full: bool = True,
) -> Report:
    """Check the files of a scene, each by itself and together.

    Parameters
    ----------
    files : SceneFiles
    config : Config
        Describes the content of the files: bands, heights, labels, classes.
    estimate : callable
        Estimates the ground; not called if that takes more than about ten seconds.
    in_full : bool
        Whether every pixel is needed: then no source of a virtual raster may be missing.

    Returns
    -------
    Report
        Its facts are `cafe_cli.checks.facts.SceneFacts.as_json`; errors become findings.
    """
    report, facts = Report(files.id), SceneFacts()
    for stream in STREAMS:
        if paths := _paths(files, stream):
            facts.streams[stream] = check_files(report, stream, paths, config, in_full)
    with report.capture_errors(files.optical[0]):
        _check_grids(report, facts, files, config)
    if not _has_error(report, files, STREAMS):
        _check_inspection(report, files, config)
    if files.elevation and not _has_error(report, files, STREAMS[:3]):
        _check_heights(report, facts, files, config, estimate)
    if files.labels and config.classes and not _has_error(report, files, _FOR_LABELS):
        with report.capture_errors(files.labels[0]):
            _check_labels(report, facts, files, config)
    report.facts = facts.as_json()
    return report


def _check_inspection(report: Report, files: SceneFiles, config: Config) -> None:
    """Report what the other commands warn of when they open the scene."""
    with report.capture_errors(files.id):
        found = _inspect(files, config, config.height).findings
        report.add(*found)
        count_as_said(found)


def _check_grids(report: Report, facts: SceneFacts, files: SceneFiles, config: Config) -> None:
    """Compare the grids of heights and labels with that of the image."""
    crs, size = parse_crs(config.crs), config.pixel_size
    optical = inspect_rasters(files.optical, crs, bands=config.bands, pixel_size=size)
    reference = joint_grid(optical, [])
    facts.size = reference.width, reference.height
    for stream in STREAMS[1:4]:  # corrections need not lie in every scene
        paths = _paths(files, stream)
        if not paths or (stream == "labels" and any(map(is_vector, paths))):
            continue
        with report.capture_errors(paths[0]):
            kind: Stream = "labels" if stream == "labels" else "heights"
            members = inspect_rasters(paths, crs, reference, stream=kind, pixel_size=size)
            share = covered_share(members, files.id, reference)
            facts.streams[stream].grid = _compare_grids(members[0], reference, share)
            found = check_grid(stream, union_grid(members), reference)
            report.add_all(found, paths[0])


def _compare_grids(member: Member, reference: Grid, share: float) -> GridFacts:
    shift = pixel_shift(member.grid, reference)
    return GridFacts(
        overlap_percent=round(100 * share, 2),
        shift_pixels=[round(x, 4) for x in shift] if shift else None,
        gsd_ratio=round(member.grid.gsd / reference.gsd, 4),
    )


def _check_heights(
    report: Report,
    facts: SceneFacts,
    files: SceneFiles,
    config: Config,
    estimate: EstimateGround,
) -> None:
    """Check image and heights together; heights above ground if these take little time."""
    files = replace(files, labels=())
    above_ground = config.height.model_copy(update={"valley_radius": 0.0})
    plain = above_ground.model_copy(update={"ground": "none"})
    attempts = [above_ground, plain]
    with report.capture_errors(files.id):
        if (cells := _ground_cells(files, config)) > _MOST_CELLS:
            text = f"the ground filter would need {cells:,.0f} cells, which takes a while"
            message = f"heights above ground were not checked: {text}"
            report.add(Finding("note", message, files.id))
            attempts = [plain]
    for settings in attempts:
        with report.capture_errors(files.id), _open(files, config, settings, estimate) as scene:
            _check_windows(report, facts, scene, settings)
            return


def _check_windows(
    report: Report, facts: SceneFacts, scene: Scene, settings: HeightSettings
) -> None:
    """Check up to nine windows for the offset of the heights and for their range."""
    elevation, grid, name = facts.streams["elevation"], scene.grid, scene.inspection.files.id
    factor = _coarsening(grid, elevation.grid)
    width, height = grid.width // factor, grid.height // factor
    count = min(3, max(1, min(width, height) // 160))
    side = min(512, math.ceil(max(width, height) / count)) * factor
    offsets, samples, shown, known = [], [], 0, 0
    for window in spread(grid.width, grid.height, side, count):
        patch = scene.read(window)
        samples.append(patch.height[patch.height_valid][:: factor**2])
        shown += int(patch.optical_valid.sum())
        known += int((patch.optical_valid & patch.height_valid).sum())
        offsets.append(estimate_offset(*_downsample(patch, factor)))
    facts.compared = True
    if (consensus := combine_offsets(offsets)) is not None:
        facts.registration, found = _register(consensus, factor, grid)
        report.add_all(found, name)
    values, heights = np.concatenate(samples), scene.inspection.heights
    if shown:
        share = 1 - known / shown
        elevation.without_height_percent = round(100 * share, 2)
        report.add_all(check_voids(share, _largest_gap(elevation), settings.fill), name)
    above_ground = heights is not None and heights.ground != "none"
    if values.size and (above_ground or settings.kind == "ndsm"):
        p1, p50, p99 = (float(p) for p in np.percentile(values, (1, 50, 99)))
        elevation.above_ground = AboveGroundFacts(round(p1, 2), round(p50, 2), round(p99, 2))
        shifted = heights is not None and heights.ground == "dtm" and describe_shift(values)
        if settings.kind == "dsm" and heights is not None and not shifted:  # which was told
            given = bool(scene.inspection.files.dtm)
            report.add_all(check_above_ground(p1, p50, p99, heights.ground, given), name)


def _largest_gap(elevation: StreamFacts) -> float:
    """Return the width in metres of the largest gap between the heights of a file."""
    widths = [
        math.sqrt(raster.pixels.largest_gap_percent / 100 * raster.width * raster.height)
        * (raster.gsd or 1)
        for raster in elevation.rasters
        if isinstance(raster, RasterFacts) and isinstance(raster.pixels, HeightFacts)
    ]
    return max(widths, default=0.0)


def _register(
    consensus: OffsetConsensus, factor: int, grid: Grid
) -> tuple[RegistrationFacts, Iterable[Finding]]:
    """Return the offset in pixels of the image, and the findings about it."""
    columns, rows = consensus.columns * factor, consensus.rows * factor
    metres = math.hypot(columns, rows) * grid.gsd if grid.has_pixel_size else None
    facts = RegistrationFacts(
        columns=round(columns, 2),
        rows=round(rows, 2),
        metres=None if metres is None else json_number(round(metres, 2)),
        correlation_at_zero=round(consensus.at_zero, 3),
        correlation_at_peak=round(consensus.at_peak, 3),
        windows=consensus.windows,
        agree_percent=round(100 * consensus.agree),
        shifted_percent=round(100 * consensus.shifted),
    )
    return facts, check_registration(consensus, columns, rows, metres)


def _check_labels(report: Report, facts: SceneFacts, files: SceneFiles, config: Config) -> None:
    """Count the classes in up to 25 windows: all of a small raster, a part of a large one."""
    classes = config.class_table
    counts, seen = np.zeros(NODATA + 1, np.int64), 0
    tally = LabelTally()
    with _open(replace(files, elevation=(), dtm=()), config, config.height) as scene:
        for window in spread(scene.grid.width, scene.grid.height, 512, 5):
            decoded = scene.read_labels(window, classes, config.labels)
            counts += np.bincount(decoded.ids.ravel(), minlength=NODATA + 1)
            tally.add(decoded.tally)
            seen += decoded.ids.size
            if len(tally.unknown) > MOST_UNKNOWN:
                break
        if tally.unknown:  # an error, whose list is to be complete
            tally.unknown.update(dict.fromkeys(scene.unknown_features(classes, config.labels), 0))
        pixels = scene.grid.width * scene.grid.height
    labelled = counts[: len(classes)]
    facts.streams["labels"].labels = LabelFacts(
        looked_at_percent=round(min(100.0, 100 * seen / pixels), 2),
        unlabelled_percent=round(100 * float(1 - labelled.sum() / seen), 2),
        classes={c.name: int(labelled[c.id]) for c in classes},
        unknown=_pixels_by_value(tally.unknown),
        ignored=_pixels_by_value(tally.ignored),
        nodata_of_classes=_pixels_by_value(tally.declared),
    )
    report.add_all(check_labels(labelled, tally, classes, config.labels), files.labels[0])
    if tally.corrected:
        message = f"the corrections label {tally.corrected:,} of the {seen:,} sampled pixels"
        report.add(Finding("note", message, files.corrections[0]))


def _pixels_by_value(values: "Counter[Key]") -> dict[str, int]:
    return {str(value): n for value, n in values.most_common(MOST_UNKNOWN)}


def _open(
    files: SceneFiles,
    config: Config,
    settings: HeightSettings,
    estimate: EstimateGround = find_scene_ground,
) -> AbstractContextManager[Scene]:
    inspection = _inspect(files, config, settings)
    return open_scene(inspection, estimate(inspection))


def _inspect(files: SceneFiles, config: Config, settings: HeightSettings) -> SceneInspection:
    return inspect_scene(
        files, settings, config.bands, labels=config.labels, crs=config.crs,
        pixel_size=config.pixel_size, optical_nodata=config.optical_nodata,
    )  # fmt: skip


def _paths(files: SceneFiles, stream: str) -> tuple[str, ...]:
    paths: tuple[str, ...] = getattr(files, stream)
    return paths


def _has_error(report: Report, files: SceneFiles, streams: Sequence[str]) -> bool:
    """Whether an error was found in a file of these streams."""
    paths = {path for stream in streams for path in _paths(files, stream)}
    return any(f.level == "error" and f.where in paths for f in report.findings)


def _coarsening(grid: Grid, heights: GridFacts | None) -> int:
    """Return the factor by which the image is downsampled before edges are compared.

    The result is as coarse as the heights, and not finer than 20 cm.
    """
    if not grid.has_pixel_size or heights is None:
        return 1
    return int(np.clip(round(max(heights.gsd_ratio, 0.2 / grid.gsd)), 1, 4))


def _downsample(patch: Patch, factor: int) -> tuple[Array, Mask, Array, Mask]:
    """Average brightness and height over blocks of pixels that are valid as a whole.

    Returns
    -------
    brightness : (1, H, W)
    brightness_valid : (H, W) bool
    height : (H, W)
    height_valid : (H, W) bool
    """
    rows, cols = (n // factor for n in patch.height.shape)

    def blocks(values: Array) -> Array:
        cut = values[: rows * factor, : cols * factor].reshape(rows, factor, cols, factor)
        return cut.transpose(0, 2, 1, 3).reshape(rows, cols, -1)

    brightness = blocks(patch.optical.mean(axis=0, dtype=np.float32)).mean(axis=-1)
    height = blocks(patch.height).mean(axis=-1)
    optical_valid: Mask = np.logical_and.reduce(blocks(patch.optical_valid), axis=-1)
    height_valid: Mask = np.logical_and.reduce(blocks(patch.height_valid), axis=-1)
    return brightness[None], optical_valid, height, height_valid


def _ground_cells(files: SceneFiles, config: Config) -> float:
    """Return the number of cells that the ground filter would process; 0 if it is not needed."""
    if ground_source(config.height, bool(files.dtm)) != "estimate":
        return 0.0
    crs, size = parse_crs(config.crs), config.pixel_size
    members = inspect_rasters(files.elevation, crs, stream="heights", pixel_size=size)
    grid = union_grid(members)
    return grid.width * grid.height * (grid.gsd / config.height.cell) ** 2
