"""Check the files of one stream, each by itself: its header, and a sample of its pixels."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.io import DatasetReader

from cafe_cli.checks.facts import (
    HeightFacts,
    ImageFacts,
    RasterFacts,
    StreamFacts,
    VectorFacts,
    json_number,
)
from cafe_cli.checks.height_rules import check_heights, check_voids, void_shares
from cafe_cli.checks.rules import check_image, check_margins, check_storage, margin_shares
from cafe_cli.config.schema import Config
from cafe_cli.findings import Finding, Report
from cafe_cli.raster.grid import Grid, describe_crs, parse_crs
from cafe_cli.raster.image_view import find_view
from cafe_cli.raster.mosaic_view import Member, inspect_rasters
from cafe_cli.raster.reader import (
    image_bands,
    open_raster,
    read_decimated,
    read_valid,
    read_window,
)
from cafe_cli.raster.window import Window, spread
from cafe_cli.scenes.height_rasters import metres_per_unit
from cafe_cli.vector.layers import is_vector

_MOST_FILES = 16  # files of a stream that are checked; the others are counted
_PROBE = 1024  # pixels along each side of the decimated view of heights


def check_files(report: Report, stream: str, paths: Sequence[str], config: Config) -> StreamFacts:
    """Check up to 16 files of a stream, spread over all of them; findings go to the report."""
    facts = StreamFacts(len(paths))
    step = max(1, math.ceil(len(paths) / _MOST_FILES))
    for path in paths[::step]:
        if stream == "labels" and is_vector(path):
            facts.rasters.append(VectorFacts(path))
            continue
        with report.capture_errors(path), open_raster(path) as dataset:
            raster = describe_raster(dataset, config.pixel_size)
            facts.rasters.append(raster)
            report.add_all(check_storage(raster), path)
            if stream == "optical":
                with _open_image(dataset, path, config) as image:
                    facts.rasters[-1] = replace(raster, pixels=_check_image(report, image, config))
            elif stream in ("elevation", "dtm"):
                alone = len(paths) == 1
                heights = _check_heights(report, dataset, config, stream == "dtm", alone)
                facts.rasters[-1] = replace(raster, pixels=heights)
    return facts


@contextmanager
def _open_image(dataset: DatasetReader, path: str, config: Config) -> Iterator[DatasetReader]:
    """Open the view through which an open raster is an image, or give the raster back."""
    view = find_view(dataset, config.bands)
    if view is None:
        yield dataset
        return
    with open_raster(path, view) as image:
        yield image


def describe_raster(dataset: DatasetReader, pixel_size: float | None = None) -> RasterFacts:
    """Return the facts in the header of a raster; `pixel_size` is what the user says of it."""
    grid, place = Grid.of(dataset), dataset.transform
    colors = zip(dataset.colorinterp, dataset.descriptions, strict=True)
    types = list(dict.fromkeys(dataset.dtypes))
    return RasterFacts(
        path=dataset.name,
        width=dataset.width,
        height=dataset.height,
        crs=describe_crs(dataset.crs),
        pixel=[math.hypot(place.a, place.d), math.hypot(place.b, place.e)],
        gsd=grid.gsd if dataset.crs else None if grid.has_pixel_size else pixel_size,
        rotation=math.degrees(math.atan2(place.d, place.a)),
        dtype=types[0] if len(types) == 1 else list(dataset.dtypes),
        bands=[f"{color.name} ({text})" if text else color.name for color, text in colors],
        nodata=json_number(dataset.nodata),
        mask=_mask_kind(dataset),
        compression=dataset.tags(ns="IMAGE_STRUCTURE").get("COMPRESSION"),
        block=list(dataset.block_shapes[0]),
        overviews=list(dataset.overviews(1)),
    )


def _check_image(report: Report, dataset: DatasetReader, config: Config) -> ImageFacts:
    """Check 16 windows of an optical raster."""
    bands = image_bands(dataset, config.bands)
    pixels: list[NDArray[Any]] = []
    valid_shares: list[float] = []
    margins = Counter[float]()
    windows = spread(dataset.width, dataset.height, 256, 4)
    for window in windows:
        values = read_window(dataset, window, bands)
        valid = read_valid(dataset, window, bands)
        if values.dtype.kind == "f":
            valid &= np.isfinite(values).all(axis=0)
        pixels.append(values[:, valid])
        valid_shares.append(float(valid.mean()))
        margins.update(margin_shares(values, valid, _raster_sides(window, dataset)))
    report.add_all(check_image(np.concatenate(pixels, axis=1), bands), dataset.name)
    shares = {value: total / len(windows) for value, total in margins.items()}
    report.add_all(check_margins(shares), dataset.name)
    return ImageFacts(round(100 * float(np.mean(valid_shares)), 2))


def _check_heights(
    report: Report, dataset: DatasetReader, config: Config, is_terrain: bool, alone: bool
) -> HeightFacts:
    """Check a height raster on a decimated view; it may be void unless it is `alone`."""
    settings = config.height
    if is_terrain:
        settings = settings.model_copy(update={"kind": "dsm", "ground": "none"})
    if (count := len(image_bands(dataset, None))) > 1:
        message = f"has {count} bands, the first is taken for heights: check that it is the file"
        report.add(Finding("warning", message, dataset.name))
    crs, size = parse_crs(config.crs), config.pixel_size
    member = inspect_rasters([dataset.name], crs, stream="heights", pixel_size=size)[0]
    metres = metres_per_unit(member, settings)
    view = member.scaled(read_decimated(dataset, _PROBE, settings.nodata))
    values = view[np.isfinite(view)]
    if values.size or alone:
        doubts = check_heights(values, settings, metres, dtype=member.dtype, **_units(member))
        report.add_all(doubts, dataset.name)
    share, largest = void_shares(~np.isfinite(view))
    width = math.sqrt(largest * dataset.width * dataset.height) * member.grid.gsd
    void = float(np.isnan(view).mean())
    report.add_all(check_voids(void, share, width, settings.fill), dataset.name)
    return HeightFacts(
        unit=member.unit or None,
        metres_per_unit=metres,
        lowest=json_number(values.min() * metres if values.size else None),
        highest=json_number(values.max() * metres if values.size else None),
        void_percent=round(100 * void, 2),
        largest_gap_percent=round(100 * largest, 2),
    )


def _units(member: Member) -> dict[str, Any]:
    """Return the units that a height raster declares, as keywords of `check_heights`."""
    crs = member.grid.crs
    vertical = crs is not None and ("VERT_CS[" in crs.to_wkt() or "VERTCRS[" in crs.to_wkt())
    crs_unit = crs.linear_units if crs is not None and crs.is_projected else "metre"
    return {"unit_known": bool(member.unit) or vertical, "crs_unit": crs_unit}


def _raster_sides(window: Window, dataset: DatasetReader) -> tuple[bool, bool, bool, bool]:
    """Return which sides of a window are sides of the raster: top, bottom, left, right."""
    left, top, right, bottom = window.bounds
    return top == 0, bottom == dataset.height, left == 0, right == dataset.width


def _mask_kind(dataset: DatasetReader) -> str:
    flags = dataset.mask_flag_enums[0]
    if ColorInterp.alpha in dataset.colorinterp:
        return "alpha"
    if MaskFlags.per_dataset in flags:
        return "mask"
    return "nodata" if MaskFlags.nodata in flags else "none"
