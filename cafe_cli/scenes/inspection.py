"""Inspect the rasters of a scene: grids, bands and units, and whether they fit together."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import numpy as np
from rasterio.enums import ColorInterp, Resampling
from rasterio.io import DatasetReader

from cafe_cli.config.schema import HeightSettings, LabelSettings
from cafe_cli.errors import BandError, GridError, InputError
from cafe_cli.findings import Finding
from cafe_cli.raster.grid import Grid, parse_crs
from cafe_cli.raster.header import read_descriptions
from cafe_cli.raster.joining import Stream, common_dtype
from cafe_cli.raster.mosaic_view import (
    Member,
    covered_share,
    inspect_rasters,
    union_grid,
)
from cafe_cli.raster.proximity import find_distant
from cafe_cli.raster.reader import open_raster, shows_an_image
from cafe_cli.raster.skipped import Skipped, try_read
from cafe_cli.scenes.discovery import SceneFiles
from cafe_cli.scenes.height_rasters import (
    HeightRasters,
    inspect_heights,
    samples_per_side,
    spread_files,
)
from cafe_cli.scenes.image_voids import find_image_voids
from cafe_cli.scenes.pixel_size import check_pixel_size
from cafe_cli.scenes.vertical_datum import check_vertical_datum
from cafe_cli.text import percent
from cafe_cli.vector.layers import is_vector

_ALL = 0.995  # share of a scene that is taken for all of it: grids differ by parts of a pixel

_DECODED = 1_000_000_000  # bytes of decoded blocks that all threads may hold

_DOUBTFUL_ALPHA = (
    "is marked as alpha and read as a mask, but looks like an image; to use it, name the bands "
    "(--bands or scenes.bands)"
)


@dataclass(frozen=True)
class SceneInspection:
    """The checked metadata of a scene, from which any number of threads may open it.

    Attributes
    ----------
    files : SceneFiles
    native : Grid
        Grid of the optical rasters as they were delivered.
    grid : Grid
        Grid that the scene is read on; `native` unless the scene is resampled.
    resampling : Resampling
        How optical rasters are warped to `grid` if their pixels differ.
    optical : tuple of Member
    bands : tuple of int
        Bands read from the optical rasters, from 1.
    dtype : str
        Data type of these bands.
    band_names : tuple of str
        Description of each band, or its colour, or its number.
    heights : HeightRasters or None
        None without a surface model.
    labels : tuple of Member
        Label rasters; empty where there are no labels or where they are vectors.
    corrections : tuple of (Member or str)
        Corrections of the labels, rasters and paths of vector files, the last on top.
    label_settings : LabelSettings
        Layer and attribute of vector labels.
    findings : tuple of Finding
        Warnings and notes about what the files hold. ``check`` reports them, the other commands
        log the warnings: messages have to name the file themselves.
    optical_nodata : float or None
        Value that marks voids in the optical rasters, in place of what they declare.
    optical_span : (float, float) or None
        Lowest and highest value of the pixels that were sampled; see
        `cafe_cli.scenes.image_voids.ImageVoids`.
    height_planes : int
        Planes of heights that are read, see `HeightSettings.planes`; also without a surface model.
    skipped : Skipped or None
        Collects what cannot be read; if None, that is an error.
    """

    files: SceneFiles
    native: Grid
    grid: Grid
    resampling: Resampling
    optical: tuple[Member, ...]
    bands: tuple[int, ...]
    dtype: str
    band_names: tuple[str, ...]
    heights: HeightRasters | None
    labels: tuple[Member, ...]
    label_settings: LabelSettings
    findings: tuple[Finding, ...] = ()
    corrections: tuple[Member | str, ...] = ()
    optical_nodata: float | None = None
    optical_span: tuple[float, float] | None = None
    height_planes: int = 1
    skipped: Skipped | None = field(default=None, compare=False)

    @property
    def block(self) -> int:
        """Width in pixels of the largest blocks that a raster of the scene is stored in."""
        heights = self.heights
        partners = (*heights.surface, *heights.terrain) if heights else ()
        return max(member.block_width for member in (*self.optical, *partners, *self.labels))

    @property
    def block_bytes(self) -> int:
        """Bytes that a thread holds when it has decoded a block of every stream, about."""
        heights = self.heights
        streams = (self.optical, *((heights.surface, heights.terrain) if heights else ()))
        return sum(
            m.block_width * m.block_height * len(m.bands or (1,)) * np.dtype(m.dtype).itemsize
            for m in (members[0] for members in streams if members)
        )

    def bound_readers(self, jobs: int) -> int:
        """Return how many of `jobs` threads may read at a time, so that memory is bounded."""
        return max(min(jobs, _DECODED // max(self.block_bytes, 1)), 1)

    @property
    def optical_block(self) -> tuple[int, int]:
        """Width and height in pixels of the blocks that the optical raster is stored in."""
        return self.optical[0].block_width, self.optical[0].block_height


def inspect_scene(
    files: SceneFiles,
    settings: HeightSettings,
    bands: tuple[int, ...] | None = None,
    *,
    labels: LabelSettings | None = None,
    gsd: float | None = None,
    crs: str | None = None,
    pixel_size: float | None = None,
    optical_nodata: float | None = None,
    skipped: Skipped | None = None,
) -> SceneInspection:
    """Inspect the rasters of a scene and check that they fit together.

    Parameters
    ----------
    files : SceneFiles
        Files to inspect; without `elevation` every height is invalid.
    settings : HeightSettings
        Meaning of the values of the height raster.
    bands : tuple of int, optional
        Bands of the optical raster from 1; all but alpha if None.
    labels : LabelSettings, optional
        Layer and attribute of vector labels, which are not read here.
    gsd : float, optional
        Resample the scene to this ground sampling distance in metres.
    crs : str, optional
        CRS of the rasters that have none.
    pixel_size : float, optional
        Metres per pixel of rasters without georeference.
    optical_nodata : float, optional
        Value that marks voids in the optical rasters, in place of what they declare.
    skipped : Skipped, optional
        Collects what cannot be read of the scene, which is an error without it.

    Raises
    ------
    InputError
        A file is missing or unreadable, or pixels mark voids that nobody declared.
    BandError
        The optical raster lacks a band.
    GridError
        Only some rasters have a CRS, they do not overlap or lie far apart, or the pixel size has to
        be known and is not.
    ConfigError
        The CRS is invalid, or the ground is to come from a missing terrain model.
    """
    assumed = parse_crs(crs)
    optical = tuple(inspect_rasters(files.optical, assumed, bands=bands, pixel_size=pixel_size))
    findings = [finding for member in optical for finding in member.findings]
    names = _inspect_bands(optical[0], bands, findings, skipped)
    native = joint_grid(optical, findings)
    found, span = _inspect_values(optical, optical_nodata, skipped)
    findings += found
    factor = 1.0 if gsd is None else gsd / native.gsd
    grid = native if gsd is None else native.rescaled(factor)

    def partner(paths: Sequence[str], stream: Stream) -> tuple[Member, ...]:
        found = inspect_rasters(paths, assumed, native, stream=stream, pixel_size=pixel_size)
        members = tuple(found)
        findings.extend(finding for member in members for finding in member.findings)
        findings.extend(judge_coverage(members, files.name, native))
        return members

    heights = None
    if files.elevation:
        surface = partner(files.elevation, "heights")
        terrain = partner(files.dtm, "heights") if files.dtm else ()
        heights = inspect_heights(surface, terrain, settings, skipped)
        findings += heights.findings
        findings += check_vertical_datum(heights, native)
    findings += check_pixel_size(files.name, native, heights, gsd=gsd, pixel_size=pixel_size)
    label_rasters = partner(files.labels, "labels") if _are_rasters(files.labels) else ()
    corrections = tuple(
        path if is_vector(path)
        else inspect_rasters([path], assumed, native, stream="labels", pixel_size=pixel_size)[0]
        for path in files.corrections
    )  # fmt: skip
    return SceneInspection(
        files=files,
        native=native,
        grid=grid,
        resampling=Resampling.average if factor > 1 else Resampling.bilinear,
        optical=optical,
        bands=optical[0].bands,
        dtype=common_dtype(optical) or optical[0].dtype,
        band_names=names,
        heights=heights,
        labels=label_rasters,
        label_settings=labels or LabelSettings(),
        findings=tuple(findings),
        corrections=corrections,
        optical_nodata=optical_nodata,
        optical_span=span,
        height_planes=settings.planes,
        skipped=skipped,
    )


def joint_grid(optical: Sequence[Member], findings: list[Finding]) -> Grid:
    """Return the grid that encloses the optical rasters of a scene; doubts go to `findings`.

    Raises
    ------
    GridError
        The rasters lie so far apart that the grid would never be finished, or they cannot be
        brought onto one grid.
    """
    if found := _find_distant(optical):
        if found.level == "error":
            raise GridError(found.message)
        findings.append(found)
    return union_grid(optical)


def _find_distant(members: Sequence[Member]) -> Finding | None:
    if len(members) == 1:
        return None
    return find_distant([m.path for m in members], [m.grid for m in members], members[0].grid)


def _are_rasters(paths: Sequence[str]) -> bool:
    return bool(paths) and not any(map(is_vector, paths))


def _inspect_bands(
    first: Member,
    bands: tuple[int, ...] | None,
    findings: list[Finding],
    skipped: Skipped | None,
) -> tuple[str, ...]:
    """Return the names of the bands that are read from the first optical raster.

    Doubts are added to `findings`.
    """
    if not first.bands:
        raise BandError(f"{first.path} has no band besides alpha")
    with open_raster(first.path, first.view) as image:
        if bands is None:
            for band in _find_doubtful_alpha(image, skipped):
                message = f"band {band} of {image.name} {_DOUBTFUL_ALPHA}"
                findings.append(Finding("warning", message, image.name))
        chosen = first.bands
        texts = read_descriptions(image)
        about = [(b, texts[b - 1], image.colorinterp[b - 1].name) for b in chosen]
        plain = ("undefined", "gray", "palette", "alpha")
        return tuple(text or (f"band {b}" if kind in plain else kind) for b, text, kind in about)


def _inspect_values(
    optical: Sequence[Member], nodata: float | None, skipped: Skipped | None
) -> tuple[list[Finding], tuple[float, float] | None]:
    """Look for undeclared voids in samples of up to 16 rasters; return the span of values, too.

    Raises
    ------
    InputError
        Values cannot be anything but voids.
    """
    some = spread_files(optical)
    findings: list[Finding] = []
    spans = []
    for member in some:
        with open_raster(member.path, member.view) as image:
            count = samples_per_side(len(some))
            voids = find_image_voids(image, member.bands, nodata, count, skipped)
        for finding in voids.findings:
            if finding.level == "error":
                raise InputError(finding.message)
        findings += voids.findings
        spans += [voids.span] if voids.span else []
    lows, highs = zip(*spans, strict=True) if spans else ((), ())
    return findings, (min(lows), max(highs)) if spans else None


def _find_doubtful_alpha(optical: DatasetReader, skipped: Skipped | None) -> list[int]:
    """Return the bands, mostly infrared, that are marked as alpha although they hold an image."""
    return [
        band
        for band, color in enumerate(optical.colorinterp, start=1)
        if color == ColorInterp.alpha
        and try_read(skipped, optical.name, partial(shows_an_image, optical, band))
    ]


def judge_coverage(members: Sequence[Member], scene: str, grid: Grid) -> Iterator[Finding]:
    """Say which part of a scene heights or labels cover, if it is not all of it.

    What counts are the extents of the files, with their voids.
    """
    share = covered_share(members, scene, grid)
    if share >= _ALL:
        return
    if found := _find_distant(members):
        yield replace(found, level="warning")
    first = members[0].path
    more = f" and {len(members) - 1} more cover" if len(members) > 1 else " covers"
    message = f"{first}{more} {percent(share)} of {scene}"
    yield Finding("warning", message, first, badness=1 - share)
