"""``cafe predict``: a scene and a model to a georeferenced label raster, by rows of windows."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from rasterio.io import DatasetWriter
from rasterio.windows import Window as RasterioWindow
from torch import Tensor

from cafe_cli import __version__, checkpoint
from cafe_cli.blend import RowBlender
from cafe_cli.checkpoint import ModelCard
from cafe_cli.classes import NODATA
from cafe_cli.config import (
    Config,
    HeightSettings,
    PredictSettings,
    SceneSettings,
    Unit,
    save_beside,
)
from cafe_cli.dataset import Inputs, to_tensors
from cafe_cli.device import choose
from cafe_cli.diagnosis import diagnose
from cafe_cli.errors import BandError, ConfigError
from cafe_cli.files import check_outputs
from cafe_cli.geotiff import create_map
from cafe_cli.grid import Grid
from cafe_cli.model import CaFE
from cafe_cli.pairing import SceneFiles
from cafe_cli.report import Report
from cafe_cli.scene import Patch, Scene, open_scene
from cafe_cli.windows import Window, offsets

log = logging.getLogger("cafe")

STRIDE = 32
"""Windows lie on multiples of the network's stride: off it, labels differ by several per cent."""

_BAND = 8192  # columns whose scores are in memory at a time
_GSD_TOLERANCE = 0.1
_PROCESS = 600_000_000  # bytes that torch and GDAL take to begin with


@dataclass(frozen=True)
class Source:
    """What to predict from.

    Parameters
    ----------
    optical : tuple of str
        Orthophotos, joined into one scene.
    elevation, dtm : tuple of str
        Surface models and terrain models.
    bands : tuple of int, optional
        Bands of the optical raster, from 1, in the model's order; all but alpha if None.
    height_unit, height_nodata : optional
        Replace those of the model's training data.
    crs : str, optional
        Of rasters that do not say theirs.
    gsd : {'own', 'model'}
        Predict on the optical raster's grid, or resample to the model's ground sampling distance.
    """

    optical: tuple[str, ...]
    elevation: tuple[str, ...] = ()
    dtm: tuple[str, ...] = ()
    bands: tuple[int, ...] | None = None
    height_unit: Unit | None = None
    height_nodata: float | None = None
    crs: str | None = None
    gsd: Literal["own", "model"] = "own"


def predict(
    model_path: Path,
    source: Source,
    output: Path,
    *,
    confidence: Path | None = None,
    settings: PredictSettings | None = None,
    device: str = "auto",
    overwrite: bool = False,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write the label raster of a scene.

    Windows of the training size are run half overlapping, and their class probabilities are
    averaged with weights that fall towards a window's rim. Memory depends on the window and on the
    scene's width up to 8192 pixels, not on its height.

    Parameters
    ----------
    model_path : Path
        Made by ``cafe train``.
    source : Source
    output : Path
        Label raster (COG, uint8, nodata 255) on the grid of the optical raster; ``.toml`` is
        appended to its name for the settings it was made with.
    confidence : Path, optional
        Second output: probability of the label in per cent (COG, uint8, nodata 255).
    settings : PredictSettings, optional
        Window, overlap and batch size; from the model if None.
    device : str
        ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
    overwrite : bool
        Replace outputs that exist.
    progress : callable
        Called with the windows done and in total.

    Raises
    ------
    ModelFileError
        The model cannot be used.
    BandError
        Another number of bands than the model was trained on.
    InputError, GridError
        See `cafe_cli.scene.open_scene`.
    OutputError
        An output exists or cannot be written.
    """
    settings = settings or PredictSettings()
    outputs = [output] if confidence is None else [output, confidence]
    check_outputs(outputs, _inputs(model_path, source), overwrite)
    target = choose(device)
    model, card = checkpoint.load(model_path)
    window, step = _window(settings, card)
    files = SceneFiles("scene", source.optical, *_heights_used(source, card))
    gsd = card.gsd if source.gsd == "model" else None
    height = _height_settings(source, card)
    opened = open_scene(files, height, source.bands, gsd=gsd, crs=source.crs)
    with opened as scene, ExitStack() as stack:
        _check_scene(scene, card)
        tags = {"CAFE_MODEL": model_path.name, "CAFE_VERSION": __version__}
        create = create_map(output, confidence, scene.grid, overwrite, card.class_table, **tags)
        writers = [w for w in stack.enter_context(create) if w]
        engine = _Engine(model, target, window, step, settings.batch_size)
        engine.run(scene, writers, progress)
    sliding = {"window": window, "overlap": window - step, "batch_size": settings.batch_size}
    save_beside(output, {"model": str(model_path), "source": vars(source), "predict": sliding})


def rehearse(
    model_path: Path,
    source: Source,
    output: Path,
    *,
    confidence: Path | None = None,
    settings: PredictSettings | None = None,
    device: str = "auto",
    overwrite: bool = False,
) -> Report:
    """Check everything that `predict` would, and say what it would take; arguments as there."""
    settings = settings or PredictSettings()
    report = Report("predict")
    with report.noting(str(output)):
        check_outputs(
            [p for p in (output, confidence) if p], _inputs(model_path, source), overwrite
        )
    with report.noting(str(model_path)):
        target = choose(device)
        model, card = checkpoint.load(model_path)
        window, step = _window(settings, card)
        height = _height_settings(source, card)
        files = SceneFiles("scene", source.optical, *_heights_used(source, card))
        scenes = SceneSettings(optical=source.optical, bands=source.bands, crs=source.crs)
        found = diagnose(files, Config(scenes=scenes, height=height))
        report.facts["scenes"] = {files.id: found.facts}
        report.add(*found.findings)
        if not found.ok:
            return report
        gsd = card.gsd if source.gsd == "model" else None
        with open_scene(files, height, source.bands, gsd=gsd, crs=source.crs) as scene:
            _check_scene(scene, card)
            grid = scene.grid
        engine = _Engine(model, target, window, step, settings.batch_size)
        maps = 1 if confidence is None else 2
        seconds = engine.seconds(len(card.band_names))
        report.facts |= {
            "model": {"classes": list(card.class_table.names), "bands": list(card.band_names)},
            "map": {"width": grid.width, "height": grid.height, "gsd": grid.gsd},
            "windows": engine.count(grid),
            "window": window,
            "device": str(target),
            "estimate": {
                "seconds": float(f"{seconds * engine.count(grid):.2g}"),
                "memory": engine.memory(grid),
                "disk_at_most": grid.width * grid.height * maps,
            },
        }
    return report


def _inputs(model_path: Path, source: Source) -> list[str]:
    return [str(model_path), *source.optical, *source.elevation, *source.dtm]


class _Engine:
    """Runs a model over a scene, column band by column band, window row by window row."""

    def __init__(
        self, model: CaFE, device: torch.device, window: int, step: int, batch_size: int
    ) -> None:
        self.device, self.window, self.step, self.batch_size = device, window, step, batch_size
        self.classes = model.architecture.classes
        self.model = model.deployed().to(device).to(memory_format=torch.channels_last)

    def run(
        self,
        scene: Scene,
        writers: Sequence[DatasetWriter],
        progress: Callable[[int, int], None],
    ) -> None:
        """Write labels and, to a second writer, confidence."""
        bands = list(self._bands(scene.grid.width))
        rows = offsets(scene.grid.height, self.window, self.step)
        total, done = len(rows) * sum(len(columns) for _, _, columns in bands), 0
        for first, last, columns in bands:
            blender = RowBlender(self.classes, last - first, self.window, self.device)
            left, right = columns[0], columns[-1] + self.window
            for row in rows:
                strip = scene.read(Window(left, row, right - left, self.window))
                for column, scores in self._scores(strip, columns):
                    blender.add(column - first, scores)
                finished = (scene.grid.height if row == rows[-1] else row + self.step) - row
                valid = strip.optical_valid[:finished, first - left : last - left]
                _write(writers, _labels(*blender.finish(finished)), valid, (first, row))
                done += len(columns)
                progress(done, total)

    def count(self, grid: Grid) -> int:
        """Return how many windows a scene has."""
        columns = sum(len(columns) for _, _, columns in self._bands(grid.width))
        return columns * len(offsets(grid.height, self.window, self.step))

    def seconds(self, bands: int) -> float:
        """Measure the seconds that a window takes, without reading it."""
        shape = (self.window, self.window)
        valid = np.ones(shape, bool)
        part = Patch(np.zeros((bands, *shape), np.uint8), valid, np.zeros(shape, np.float32), valid)
        batch = [to_tensors(part)] * self.batch_size
        self._forward(batch)  # the first time is no measure
        start = time.perf_counter()
        self._forward(batch).sum().item()
        return (time.perf_counter() - start) / self.batch_size

    def memory(self, grid: Grid) -> int:
        """Estimate the bytes of the scores and the strip of a column band, and of the network."""
        width = min(grid.width, _BAND) + 2 * self.window
        scores = 2 * (self.classes + 1) * width * self.window * 4
        weights = sum(p.numel() * p.element_size() for p in self.model.parameters())
        return round(_PROCESS + weights * 2 + scores + width * self.window * 32)

    def _bands(self, width: int) -> Iterator[tuple[int, int, list[int]]]:
        """Yield bands of columns with the windows that touch them; the window grid is the scene's.

        Windows on the border of two bands are run for both.
        """
        columns = offsets(width, self.window, self.step)
        broad = max(_BAND // self.step, 1) * self.step
        for first in range(0, width, broad):
            last = min(first + broad, width)
            yield first, last, [c for c in columns if c < last and c + self.window > first]

    def _scores(self, strip: Patch, columns: list[int]) -> Iterator[tuple[int, Tensor]]:
        """Yield the class probabilities of a row's windows, (K, window, window)."""
        everything, left = slice(None), columns[0]
        parts = {
            c: strip.at((everything, slice(c - left, c - left + self.window))) for c in columns
        }
        # A window without a pixel to label is not run.
        used = [c for c in columns if parts[c].optical_valid.any()]
        for start in range(0, len(used), self.batch_size):
            batch = used[start : start + self.batch_size]
            yield from zip(batch, self._forward([to_tensors(parts[c]) for c in batch]), strict=True)

    def _forward(self, parts: Sequence[Inputs]) -> Tensor:
        inputs = [torch.stack(tensors).to(self.device) for tensors in zip(*parts, strict=True)]
        mixed = torch.autocast("cuda", torch.bfloat16, enabled=self.device.type == "cuda")
        with torch.inference_mode(), mixed:
            logits: Tensor = self.model(*inputs)
        return logits.float().softmax(dim=1)


def _labels(scores: Tensor, seen: Tensor) -> list[NDArray[np.uint8]]:
    """Return the best class of each pixel and its probability in per cent; 255 where unseen."""
    best = scores.max(dim=0)
    planes = (best.indices, (best.values * 100).round())
    return [plane.where(seen, NODATA).to(torch.uint8).cpu().numpy() for plane in planes]


def _write(
    writers: Sequence[DatasetWriter],
    planes: Sequence[NDArray[np.uint8]],
    valid: NDArray[np.bool_],
    origin: tuple[int, int],
) -> None:
    height, width = valid.shape
    place = RasterioWindow(*origin, width, height)
    for writer, plane in zip(writers, planes, strict=False):
        writer.write(np.where(valid, plane, np.uint8(NODATA)), 1, window=place)


def _window(settings: PredictSettings, card: ModelCard) -> tuple[int, int]:
    """Return window and step, both multiples of the network's stride."""
    window = settings.window or -(-card.window // STRIDE) * STRIDE
    overlap = _half(window) if settings.overlap is None else settings.overlap
    step = window - overlap
    if window % STRIDE or step % STRIDE or step < STRIDE:
        near = max(round(window / STRIDE), 1) * STRIDE
        raise ConfigError(
            f"window {window} and overlap {overlap} have to be multiples of {STRIDE} (the "
            "network's stride), the overlap the smaller one, e.g. "
            f"--window {near} --overlap {_half(near)}"
        )
    return window, step


def _half(window: int) -> int:
    """Return half of a window, less what exceeds a multiple of the network's stride."""
    return window // 2 // STRIDE * STRIDE


def _heights_used(source: Source, card: ModelCard) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the surface and terrain models that the model has a use for."""
    if source.dtm and not source.elevation:
        raise ConfigError("--dtm is the ground to take heights above: give --elevation too")
    if not card.has_height:
        if source.elevation:
            unused = ", ".join(source.elevation)
            log.warning("the model was trained without heights: %s will not be read", unused)
        return (), ()
    if not source.elevation:
        log.warning("the model was trained with heights and gets none: expect a poorer map")
        return (), ()
    if card.height.ground == "dtm" and not source.dtm:
        log.warning(
            "the model was trained with heights above a terrain model and gets none (--dtm): the "
            "ground is estimated"
        )
    return source.elevation, source.dtm


def _height_settings(source: Source, card: ModelCard) -> HeightSettings:
    """Return how heights are brought to what the model was trained on."""
    given = {"unit": source.height_unit, "nodata": source.height_nodata}
    changes: dict[str, object] = {k: v for k, v in given.items() if v is not None}
    if card.height.ground in ("dtm", "estimate"):
        changes["ground"] = "auto"
    return card.height.model_copy(update=changes)


def _check_scene(scene: Scene, card: ModelCard) -> None:
    wanted, given = card.band_names, scene.bands
    if len(given) != len(wanted):
        raise BandError(
            f"{scene.files.name} has {len(given)} bands, the model was trained on "
            f"{len(wanted)} ({', '.join(wanted)}); choose them with --bands"
        )
    if scene.dtype != card.dtype:
        log.warning(
            "%s is %s, the model was trained on %s: pixel values may mean something else",
            scene.files.name,
            scene.dtype,
            card.dtype,
        )
    ratio = scene.grid.gsd / card.gsd
    if abs(ratio - 1) > _GSD_TOLERANCE:
        log.warning(
            "the GSD of %s is %.3g m, the model was trained at %.3g m; --gsd model resamples",
            scene.files.name,
            scene.grid.gsd,
            card.gsd,
        )
