"""Pictures of the whole map, all of one size, and of single places."""

import math
from collections.abc import Iterator
from contextlib import ExitStack, closing

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from rasterio.enums import Resampling

from cafe_cli.classes import NODATA
from cafe_cli.map_report.gather import DIFFERS, DOUBT, KNOWN, LABELLED, MapSummary, open_confidence
from cafe_cli.map_report.source import Subject
from cafe_cli.pages.pictures import Panel, make_panel
from cafe_cli.plotting import error_map, shade, to_rgb
from cafe_cli.raster.mosaic_view import MosaicView
from cafe_cli.raster.overview import read_overview
from cafe_cli.raster.window import Window
from cafe_cli.system.threads import ProgressCallback

Picture = NDArray[np.uint8]

_BANDS = 3  # of an image that are shown
_STEPS = 16  # shades, so that a picture stays small
_SIDE = 256  # pixels along each side of the picture of a place
_RIGHT, _WRONG, _UNKNOWN = ((247, 247, 247), (215, 25, 28), (176, 176, 176))


def overview_panels(
    subject: Subject,
    summary: MapSummary,
    progress: ProgressCallback = lambda done, total: None,
) -> list[Panel]:
    """Return pictures of the whole map: image, heights, map, reference, errors, confidence."""
    return [*_photographs(subject, progress), *_maps(subject, summary)]


def _photographs(subject: Subject, progress: ProgressCallback) -> Iterator[Panel]:
    grid, factor, config = subject.grid, subject.factor, subject.source.config
    if subject.image:
        values, valid = read_overview(
            subject.image, grid, factor, bands=_BANDS, nodata=config.optical_nodata,
            progress=progress,
        )  # fmt: skip
        yield make_panel("image", _draw_image(values, valid), "jpeg")
    if subject.heights:
        values, valid = read_overview(
            subject.heights, grid, factor, bands=1, nodata=config.height.nodata,
            progress=progress,
        )  # fmt: skip
        yield _height_panel(subject, values[0], valid)


def _maps(subject: Subject, summary: MapSummary) -> Iterator[Panel]:
    paint = subject.classes.paint
    yield make_panel("map", paint(summary.ids), "png")
    if summary.truth is not None:
        yield make_panel("reference", paint(summary.truth), "png")
        wrong = summary.share(DIFFERS, LABELLED)
        note = ": the redder, the more pixels differ; grey has no label"
        yield make_panel("errors", _blend(wrong), "png", note if subject.factor > 1 else _ERRORS)
    if summary.has_confidence:
        confidence = 1 - summary.share(DOUBT, KNOWN)
        yield make_panel("confidence", _draw_confidence(confidence), "png", _CONFIDENCE)


_ERRORS = ": red differs from the reference, grey has no label"
_CONFIDENCE = ": from dark, 0 %, to yellow, 100 %"


def _draw_image(values: NDArray[np.generic], valid: NDArray[np.bool_]) -> Picture:
    """Return an image (bands, height, width) in colour; white where there is none."""
    white = np.full((*valid.shape, 3), 255, np.uint8)
    if not valid.any():
        return white
    shown = values[: _BANDS if len(values) >= _BANDS else 1]
    if shown.dtype != np.uint8:  # voids have no part in the stretch
        shown = np.where(valid, shown.astype(np.float64), np.nan)
    return np.where(valid[..., None], to_rgb(shown), white)


def _height_panel(subject: Subject, values: NDArray[np.generic], valid: NDArray[np.bool_]) -> Panel:
    member = subject.heights[0]
    known = valid & np.isfinite(values)
    heights = (values.astype(np.float64) * member.scale + member.offset) * subject.metres
    shaded = shade(np.where(known, heights, np.nan).astype(np.float32))
    note = ""
    if known.any():
        low, high = heights[known].min(), heights[known].max()
        note = f", {low:.1f} to {high:.1f} m"
    return make_panel("heights", (shaded[..., :3] * 255).astype(np.uint8), "jpeg", note)


def _blend(share: NDArray[np.float64]) -> Picture:
    """Return shares (height, width), 0 to 1, from white to red; grey where they are NaN."""
    steps = np.ceil(np.nan_to_num(share) * _STEPS)[..., None] / _STEPS
    mixed = np.array(_RIGHT) * (1 - steps) + np.array(_WRONG) * steps
    return np.where(np.isnan(share)[..., None], _UNKNOWN, mixed).astype(np.uint8)


def _draw_confidence(confidence: NDArray[np.float64]) -> Picture:
    """Return confidences (height, width), 0 to 1, in colour; white where they are NaN."""
    steps = np.round(np.nan_to_num(confidence) * _STEPS) / _STEPS
    colored = colormaps["cividis"](steps)[..., :3] * 255
    return np.where(np.isnan(confidence)[..., None], 255, colored).astype(np.uint8)


class PlaceReader:
    """Reads places of a map at its own pixels, as pictures. Not thread-safe."""

    def __init__(self, subject: Subject, stack: ExitStack) -> None:
        self._subject, grid, config = subject, subject.grid, subject.source.config
        self._map = stack.enter_context(subject.map.open(grid, subject.classes))
        self._views = {
            role: stack.enter_context(
                closing(MosaicView(members, grid, Resampling.bilinear, nodata=nodata))
            )
            for role, members, nodata in (
                ("image", subject.image, config.optical_nodata),
                ("heights", subject.heights, config.height.nodata),
            )
            if members
        }
        self._read_truth = None
        if subject.reference is not None:
            self._read_truth = stack.enter_context(subject.reference.opened())
        self._read_doubt = open_confidence(subject, stack)

    def read_ids(self, window: Window) -> tuple[Picture, Picture]:
        """Return the class ids of the map and of the reference, (height, width); 255 is none."""
        ids = self._map.read(window).ids
        if self._read_truth is None:
            return ids, np.full_like(ids, NODATA)
        return ids, self._read_truth(window).ids

    def panels(self, window: Window) -> Iterator[Panel]:
        """Yield the pictures of a place, of at most 256 pixels a side."""
        here = np.ix_(*(_subsample(n) for n in (window.height, window.width)))
        if view := self._views.get("image"):
            values, valid = view.read(window)
            yield make_panel(
                "image", _draw_image(np.stack([band[here] for band in values]), valid[here]), "jpeg"
            )
        if view := self._views.get("heights"):
            values, valid = view.read(window)
            yield _height_panel(self._subject, values[0][here], valid[here])
        ids, truth = (values[here] for values in self.read_ids(window))
        paint = self._subject.classes.paint
        yield make_panel("map", paint(ids), "png")
        if self._read_truth is not None:
            yield make_panel("reference", paint(truth), "png")
            errors = error_map(np.where(ids == NODATA, np.uint8(NODATA), truth), ids)
            yield make_panel("errors", errors, "png")
        if self._read_doubt is not None:
            doubt, known = (values[here] for values in self._read_doubt(window))
            shown = np.where(known, 1 - doubt, np.nan)
            yield make_panel("confidence", _draw_confidence(shown), "png")


def _subsample(length: int) -> NDArray[np.intp]:
    step = math.ceil(length / _SIDE)
    return np.arange(0, length, step)
