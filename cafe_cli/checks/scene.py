"""Diagnosis of one scene: what is wrong with it, found without training or predicting.

Every look is bounded: some windows or a decimated view of each raster, however large it is. What is
seen there, `cafe_cli.checks.rules` judges.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.io import DatasetReader

from cafe_cli.checks.coregistration import OffsetConsensus, combine_offsets, estimate_offset
from cafe_cli.checks.rules import (
    check_above_ground,
    check_grid,
    check_heights,
    check_image,
    check_labels,
    check_margins,
    check_registration,
    check_storage,
    check_voids,
    margin_shares,
    pixel_shift,
    void_shares,
)
from cafe_cli.classes import NODATA
from cafe_cli.config.schema import Config, HeightSettings
from cafe_cli.findings import Finding, Report
from cafe_cli.raster.grid import Grid, describe_crs
from cafe_cli.raster.mosaic_view import (
    Member,
    covered_share,
    inspect_rasters,
    parse_crs,
    union_grid,
)
from cafe_cli.raster.reader import (
    image_bands,
    open_raster,
    read_decimated,
    read_valid,
    read_window,
    shows_an_image,
)
from cafe_cli.raster.window import Window, spread
from cafe_cli.scenes.discovery import SceneFiles
from cafe_cli.scenes.heights import ground_source, metres_per_unit
from cafe_cli.scenes.inspection import inspect_scene
from cafe_cli.scenes.scene import Patch, Scene, open_scene
from cafe_cli.vector.features import is_vector

Pixels = NDArray[Any]
Mask = NDArray[np.bool_]

STREAMS = ("optical", "elevation", "dtm", "labels")

_MOST_FILES = 16  # of a stream that are looked at; the others are counted
_PROBE = 1024  # pixels along each side of the decimated look at heights
_MOST_CELLS = 4_000_000  # of the ground filter that a check waits for: about ten seconds
_LISTED = 8


def diagnose(files: SceneFiles, config: Config) -> Report:
    """Look at all that belongs to a scene; what is wrong with it is in the report.

    Parameters
    ----------
    files : SceneFiles
    config : Config
        Says what the files hold: bands, heights, labels, classes.
    """
    report = Report(files.id)
    for stream in STREAMS:
        _look_at_files(report, stream, _paths(files, stream), config)
    _look_at_grids(report, files, config)
    if not _failed(report, files, STREAMS[:3]):
        _look_through(report, files, config)
    if not _failed(report, files, ("optical", "labels")):
        _look_at_labels(report, files, config)
    return report


def describe_raster(dataset: DatasetReader) -> dict[str, Any]:
    """Return what a raster says of itself, as values that JSON knows."""
    grid, place = Grid.of(dataset), dataset.transform
    kinds = zip(dataset.colorinterp, dataset.descriptions, strict=True)
    types = list(dict.fromkeys(dataset.dtypes))
    return {
        "path": dataset.name,
        "width": dataset.width,
        "height": dataset.height,
        "crs": describe_crs(dataset.crs),
        "pixel": [math.hypot(place.a, place.d), math.hypot(place.b, place.e)],
        "gsd": grid.gsd if dataset.crs else None,
        "rotation": math.degrees(math.atan2(place.d, place.a)),
        "dtype": types[0] if len(types) == 1 else list(dataset.dtypes),
        "bands": [f"{kind.name} ({text})" if text else kind.name for kind, text in kinds],
        "nodata": _plain(dataset.nodata),
        "mask": _mask_kind(dataset),
        "compression": dataset.tags(ns="IMAGE_STRUCTURE").get("COMPRESSION"),
        "block": list(dataset.block_shapes[0]),
        "overviews": list(dataset.overviews(1)),
    }


def _look_at_files(report: Report, stream: str, paths: Sequence[str], config: Config) -> None:
    if not paths:
        return
    report.facts[stream] = {"files": len(paths), "rasters": []}
    for path in _some(paths):
        if is_vector(path):
            report.facts[stream]["rasters"].append({"path": path})
            continue
        with report.noting(path), open_raster(path) as dataset:
            facts = describe_raster(dataset)
            report.facts[stream]["rasters"].append(facts)
            _add(report, path, check_storage(facts))
            if stream == "optical":
                facts |= _look_at_image(report, dataset, config)
            elif stream in ("elevation", "dtm"):
                facts |= _look_at_heights(report, stream, dataset, config)


def _look_at_image(report: Report, dataset: DatasetReader, config: Config) -> dict[str, Any]:
    """Look at 16 windows of an optical raster."""
    wanted = config.bands
    bands = image_bands(dataset, wanted)
    pixels: list[Pixels] = []
    known: list[float] = []
    margins = Counter[float]()
    windows = spread(dataset.width, dataset.height, 256, 4)
    for window in windows:
        values = read_window(dataset, window, bands)
        valid = read_valid(dataset, window, bands)
        if values.dtype.kind == "f":
            valid &= np.isfinite(values).all(axis=0)
        pixels.append(values[:, valid])
        known.append(float(valid.mean()))
        margins.update(margin_shares(values, valid, _sides(window, dataset)))
    if wanted is None:
        _add(report, dataset.name, _doubts_on_alpha(dataset))
    _add(report, dataset.name, check_image(np.concatenate(pixels, axis=1), bands))
    shares = {value: total / len(windows) for value, total in margins.items()}
    _add(report, dataset.name, check_margins(shares))
    return {"valid_percent": round(100 * float(np.mean(known)), 2)}


def _doubts_on_alpha(dataset: DatasetReader) -> Iterator[Finding]:
    for band, kind in enumerate(dataset.colorinterp, start=1):
        if kind == ColorInterp.alpha and shows_an_image(dataset, band):
            yield Finding(
                "warning",
                f"band {band} is marked as alpha and taken for a mask, but looks like an image; to "
                "use it, name the bands (--bands or scenes.bands)",
            )


def _look_at_heights(
    report: Report, stream: str, dataset: DatasetReader, config: Config
) -> dict[str, Any]:
    """Look at a height raster through a decimated view."""
    settings = config.height
    if stream == "dtm":
        settings = settings.model_copy(update={"kind": "dsm", "ground": "none"})
    if (count := len(image_bands(dataset, None))) > 1:
        message = f"has {count} bands, the first is taken for heights: check that it is the file"
        _add(report, dataset.name, [Finding("warning", message)])
    member = inspect_rasters([dataset.name], parse_crs(config.crs))[0]
    metres = metres_per_unit(member, settings)
    view = member.scaled(read_decimated(dataset, _PROBE, settings.nodata))
    values = view[np.isfinite(view)]
    if values.size or report.facts[stream]["files"] == 1:  # of many files, one may be all sea
        units = _units(member)
        doubts = check_heights(values, settings, metres, dtype=member.dtype, **units)
        _add(report, dataset.name, doubts)
    share, largest = void_shares(~np.isfinite(view))
    width = math.sqrt(largest * dataset.width * dataset.height) * member.grid.gsd
    void = float(np.isnan(view).mean())
    _add(report, dataset.name, check_voids(void, share, width, settings.fill))
    return {
        "unit": member.unit or None,
        "metres_per_unit": metres,
        "lowest": _plain(values.min() * metres if values.size else None),
        "highest": _plain(values.max() * metres if values.size else None),
        "void_percent": round(100 * void, 2),
        "largest_gap_percent": round(100 * largest, 2),
    }


def _units(member: Member) -> dict[str, Any]:
    """Return what a height raster says of its units, as `judge_heights` wants to know it."""
    crs = member.grid.crs
    vertical = crs is not None and ("VERT_CS[" in crs.to_wkt() or "VERTCRS[" in crs.to_wkt())
    crs_unit = crs.linear_units if crs is not None and crs.is_projected else "metre"
    return {"unit_known": bool(member.unit) or vertical, "crs_unit": crs_unit}


def _look_at_grids(report: Report, files: SceneFiles, config: Config) -> None:
    """Compare the grids of heights and labels with that of the image."""
    optical = _paths(files, "optical")
    with report.noting(optical[0]):
        crs = parse_crs(config.crs)
        reference = union_grid(inspect_rasters(optical, crs))
        report.facts["grid"] = {"width": reference.width, "height": reference.height}
        for stream in STREAMS[1:]:
            paths = _paths(files, stream)
            if not paths or any(map(is_vector, paths)):
                continue
            with report.noting(paths[0]):
                members = inspect_rasters(paths, crs, reference)
                share = covered_share(members, files.id, reference)
                report.facts[stream] |= _place(members, reference, share)
                _add(report, paths[0], check_grid(stream, union_grid(members), reference, share))


def _place(members: Sequence[Member], reference: Grid, share: float) -> dict[str, Any]:
    grid = members[0].grid
    shift = pixel_shift(grid, reference)
    return {
        "overlap_percent": round(100 * share, 2),
        "shift_pixels": [round(x, 4) for x in shift] if shift else None,
        "gsd_ratio": round(grid.gsd / reference.gsd, 4),
    }


def _look_through(report: Report, files: SceneFiles, config: Config) -> None:
    """Look at image and heights together, above ground if that can be had."""
    if not _paths(files, "elevation"):
        return
    files = replace(files, labels=())
    plain = config.height.model_copy(update={"ground": "none"})
    attempts = [config.height, plain]
    with report.noting(files.id):
        if (cells := _ground_cells(files, config)) > _MOST_CELLS:
            text = f"{cells:,.0f} cells of the ground filter would take a while"
            message = f"heights above ground were not looked at: {text}"
            _add(report, files.id, [Finding("note", message)])
            attempts = [plain]
    for settings in attempts:
        with report.noting(files.id), _open(files, config, settings) as scene:
            _look_at_windows(report, scene, settings)
            return


def _look_at_windows(report: Report, scene: Scene, settings: HeightSettings) -> None:
    elevation = report.facts["elevation"]
    factor = _look_factor(scene.grid, elevation["gsd_ratio"])
    width, height = scene.grid.width // factor, scene.grid.height // factor
    count = min(3, max(1, min(width, height) // 160))
    side = min(512, math.ceil(max(width, height) / count)) * factor
    hints, heights = [], []
    for window in spread(scene.grid.width, scene.grid.height, side, count):
        patch = scene.read(window)
        heights.append(patch.height[patch.height_valid][:: factor**2])
        hints.append(estimate_offset(*_coarser(patch, factor)))
    name = scene.inspection.files.id
    _add(report, name, _register(report, combine_offsets(hints), factor, scene.grid))
    values = np.concatenate(heights)
    heights_of = scene.inspection.heights
    above_ground = heights_of is not None and heights_of.ground != "none"
    if values.size and (above_ground or settings.kind == "ndsm"):
        percentiles = [float(p) for p in np.percentile(values, (1, 50, 99))]
        names = ("p1", "p50", "p99")
        elevation["above_ground"] = {
            name: round(p, 2) for name, p in zip(names, percentiles, strict=True)
        }
        if settings.kind == "dsm":
            _add(report, name, check_above_ground(*percentiles))


def _register(
    report: Report, together: OffsetConsensus | None, factor: int, grid: Grid
) -> Iterable[Finding]:
    report.facts["registration"] = None
    if together is None:
        return ()
    columns, rows = together.columns * factor, together.rows * factor
    metres = math.hypot(columns, rows) * grid.gsd if grid.crs else None
    report.facts["registration"] = {
        "columns": round(columns, 2),
        "rows": round(rows, 2),
        "metres": _plain(metres and round(metres, 2)),
        "correlation_at_zero": round(together.at_zero, 3),
        "correlation_at_peak": round(together.at_peak, 3),
        "windows": together.windows,
        "agree_percent": round(100 * together.agree),
        "shifted_percent": round(100 * together.shifted),
    }
    return check_registration(together, columns, rows, metres)


def _look_at_labels(report: Report, files: SceneFiles, config: Config) -> None:
    """Count the classes in up to 25 windows: all of a small raster, a part of a large one."""
    if not _paths(files, "labels") or not config.classes:
        return
    with report.noting(_paths(files, "labels")[0]):
        classes = config.class_table
        counts, odd, seen = np.zeros(NODATA + 1, np.int64), Counter[int | str](), 0
        with _open(replace(files, elevation=(), dtm=()), config, config.height) as scene:
            for window in spread(scene.grid.width, scene.grid.height, 512, 5):
                decoded = scene.read_labels(window, classes, config.labels)
                counts += np.bincount(decoded.ids.ravel(), minlength=NODATA + 1)
                odd.update(decoded.odd)
                seen += decoded.ids.size
            pixels = scene.grid.width * scene.grid.height
        labelled = counts[: len(classes)]
        report.facts["labels"] |= {
            "looked_at_percent": round(min(100.0, 100 * seen / pixels), 2),
            "unlabelled_percent": round(100 * float(1 - labelled.sum() / seen), 2),
            "classes": {c.name: int(labelled[c.id]) for c in classes},
            "unknown": {str(value): n for value, n in odd.most_common(_LISTED)},
        }
        where = _paths(files, "labels")[0]
        _add(report, where, check_labels(labelled, odd, classes, config.labels))


def _open(
    files: SceneFiles, config: Config, settings: HeightSettings
) -> AbstractContextManager[Scene]:
    return open_scene(
        inspect_scene(files, settings, config.bands, labels=config.labels, crs=config.crs)
    )


def _paths(files: SceneFiles, stream: str) -> tuple[str, ...]:
    paths: tuple[str, ...] = getattr(files, stream)
    return paths


def _failed(report: Report, files: SceneFiles, streams: Sequence[str]) -> bool:
    paths = {path for stream in streams for path in _paths(files, stream)}
    return any(f.level == "error" and f.where in paths for f in report.findings)


def _some(paths: Sequence[str]) -> Sequence[str]:
    """Return the paths to look at, spread over all of them."""
    step = max(1, math.ceil(len(paths) / _MOST_FILES))
    return paths[::step]


def _add(report: Report, where: str, findings: Iterable[Finding]) -> None:
    report.add(*(replace(finding, where=where) for finding in findings))


def _sides(window: Window, dataset: DatasetReader) -> tuple[bool, bool, bool, bool]:
    left, top, right, bottom = window.bounds
    return top == 0, bottom == dataset.height, left == 0, right == dataset.width


def _look_factor(grid: Grid, ratio: float) -> int:
    """Return how much coarser to look for edges: as the heights, and not finer than 20 cm."""
    if grid.crs is None:
        return 1
    return int(np.clip(round(max(ratio, 0.2 / grid.gsd)), 1, 4))


def _coarser(patch: Patch, factor: int) -> tuple[Pixels, Mask, Pixels, Mask]:
    """Average brightness and height over blocks of pixels that are valid as a whole."""
    rows, cols = (n // factor for n in patch.height.shape)

    def blocks(values: Pixels) -> Pixels:
        cut = values[: rows * factor, : cols * factor].reshape(rows, factor, cols, factor)
        return cut.transpose(0, 2, 1, 3).reshape(rows, cols, -1)

    brightness = blocks(patch.optical.mean(axis=0, dtype=np.float32)).mean(axis=-1)
    height = blocks(patch.height).mean(axis=-1)
    lit: Mask = np.logical_and.reduce(blocks(patch.optical_valid), axis=-1)
    known: Mask = np.logical_and.reduce(blocks(patch.height_valid), axis=-1)
    return brightness[None], lit, height, known


def _ground_cells(files: SceneFiles, config: Config) -> float:
    """Return how many cells the ground filter would take; 0 where it has nothing to do."""
    if ground_source(config.height, bool(files.dtm)) != "estimate":
        return 0.0
    grid = union_grid(inspect_rasters(files.elevation, parse_crs(config.crs)))
    return grid.width * grid.height * (grid.gsd / config.height.cell) ** 2


def _mask_kind(dataset: DatasetReader) -> str:
    flags = dataset.mask_flag_enums[0]
    if ColorInterp.alpha in dataset.colorinterp:
        return "alpha"
    if MaskFlags.per_dataset in flags:
        return "mask"
    return "nodata" if MaskFlags.nodata in flags else "none"


def _plain(value: float | None) -> float | int | str | None:
    """Return a number as JSON knows it: whole where it is, and NaN as a word."""
    if value is None:
        return None
    if not math.isfinite(value):
        return str(float(value))
    return int(value) if float(value).is_integer() and abs(value) < 1e15 else float(value)
