"""Check the files of one stream, each by itself: its header, and a sample of its pixels."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
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
from cafe_cli.checks.height_rules import check_heights, largest_gap
from cafe_cli.checks.rules import check_image, check_storage
from cafe_cli.config.schema import Config
from cafe_cli.errors import InputError
from cafe_cli.findings import Finding, Report
from cafe_cli.raster.grid import Grid, describe_crs, parse_crs
from cafe_cli.raster.header import read_descriptions, read_tags
from cafe_cli.raster.image_view import find_view
from cafe_cli.raster.input_files import describe_missing, missing_sources
from cafe_cli.raster.mosaic_view import Member, inspect_rasters
from cafe_cli.raster.reader import image_bands, open_raster, read_decimated
from cafe_cli.raster.samples import read_samples
from cafe_cli.scenes.height_rasters import (
    find_height_voids,
    metres_per_unit,
    read_height_parts,
    samples_per_side,
    spread_files,
    terrain_settings,
)
from cafe_cli.scenes.image_voids import find_image_voids
from cafe_cli.vector.layers import is_vector

_PROBE = 1024  # pixels along each side of the decimated view of heights


def check_files(
    report: Report, stream: str, paths: Sequence[str], config: Config, in_full: bool = True
) -> StreamFacts:
    """Check up to 16 files of a stream, spread over all of them; findings go to the report.

    Files that a virtual raster names and that do not exist are an error if all of it is needed
    (`in_full`), else a warning.
    """
    facts = StreamFacts(len(paths))
    some = spread_files(paths)
    for path in some:
        if stream in ("labels", "corrections") and is_vector(path):
            facts.rasters.append(VectorFacts(path))
            continue
        with report.capture_errors(path), open_raster(path) as dataset:
            raster = describe_raster(dataset, config.pixel_size)
            facts.rasters.append(raster)
            report.add_all(check_storage(raster), path)
            if missing := missing_sources(path):
                found = describe_missing(path, missing)
                if in_full:
                    raise InputError(found)
                report.add(Finding("warning", found, path))
            if stream == "optical":
                with _open_image(dataset, path, config) as image:
                    pixels = _check_image(report, image, config, len(some))
                facts.rasters[-1] = replace(raster, pixels=pixels)
            elif stream in ("elevation", "dtm"):
                heights = _check_heights(report, dataset, config, stream == "dtm", len(some))
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
    colors = zip(dataset.colorinterp, read_descriptions(dataset), strict=True)
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
        compression=read_tags(dataset, "IMAGE_STRUCTURE").get("COMPRESSION"),
        block=list(dataset.block_shapes[0]),
        overviews=list(dataset.overviews(1)),
    )


def _check_image(report: Report, dataset: DatasetReader, config: Config, files: int) -> ImageFacts:
    """Check up to 16 windows of an optical raster, one of `files`."""
    bands, nodata = image_bands(dataset, config.bands), config.optical_nodata
    count = samples_per_side(files)
    report.add(*find_image_voids(dataset, bands, nodata, count).findings)
    samples = list(read_samples(dataset, bands, nodata, count))
    pixels = np.concatenate([s.values[:, s.valid] for s in samples], axis=1)
    report.add_all(check_image(pixels, bands), dataset.name)
    return ImageFacts(round(100 * float(np.mean([s.valid.mean() for s in samples])), 2))


def _check_heights(
    report: Report, dataset: DatasetReader, config: Config, is_terrain: bool, files: int
) -> HeightFacts:
    """Check a height raster on a decimated view; it may be void unless it is the only one."""
    settings = config.height
    if is_terrain:
        changes = {"kind": "dsm", "ground": "none"}
        settings = terrain_settings(settings).model_copy(update=changes)
    if (count := len(image_bands(dataset, None))) > 1:
        message = (
            f"has {count} bands; the first is read as heights: check that it is the right file"
        )
        report.add(Finding("warning", message, dataset.name))
    crs, size = parse_crs(config.crs), config.pixel_size
    member = inspect_rasters([dataset.name], crs, stream="heights", pixel_size=size)[0]
    metres = metres_per_unit(member, settings)
    view = read_decimated(dataset, _PROBE, settings.nodata)
    parts = [*read_height_parts(dataset, settings.nodata, files), view]
    voids = find_height_voids(dataset, member, settings, parts, not is_terrain)
    errors = [finding for finding in voids.findings if finding.level == "error"]
    report.add(*errors)  # the inspection of the scene finds the others
    void = ~np.isfinite(view) | np.isin(view, voids.codes)
    values = member.scaled(view[~void])
    if not errors and (values.size or files == 1):
        doubts = check_heights(values, settings, metres, dtype=member.dtype, **_units(member))
        report.add_all(doubts, dataset.name)
    return HeightFacts(
        unit=member.unit or None,
        metres_per_unit=metres,
        lowest=json_number(values.min() * metres if values.size else None),
        highest=json_number(values.max() * metres if values.size else None),
        void_percent=round(100 * float(void.mean()), 2),
        largest_gap_percent=round(100 * largest_gap(void), 4),
    )


def _units(member: Member) -> dict[str, Any]:
    """Return the units that a height raster declares, as keywords of `check_heights`."""
    crs = member.grid.crs
    vertical = crs is not None and ("VERT_CS[" in crs.to_wkt() or "VERTCRS[" in crs.to_wkt())
    crs_unit = crs.linear_units if crs is not None and crs.is_projected else "metre"
    return {"unit_known": bool(member.unit) or vertical, "crs_unit": crs_unit}


def _mask_kind(dataset: DatasetReader) -> str:
    flags = dataset.mask_flag_enums[0]
    if ColorInterp.alpha in dataset.colorinterp:
        return "alpha"
    if MaskFlags.per_dataset in flags:
        return "mask"
    return "nodata" if MaskFlags.nodata in flags else "none"
