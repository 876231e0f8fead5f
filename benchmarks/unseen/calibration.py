"""How sure the maps of other sites are, and how often they are right, before and after calibration.

A training fits its temperature on validation blocks of its own sites. Whether that holds elsewhere,
only other sites tell.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import rasterio

from benchmarks.unseen.runs import Run, make_map
from benchmarks.unseen.scoring import map_path
from benchmarks.unseen.sites import Site
from cafe_cli.classes import NODATA
from cafe_cli.config.schema import Config
from cafe_cli.errors import InputError
from cafe_cli.inference.job import ComputeOptions
from cafe_cli.model import model_file
from cafe_cli.model.calibration import BINS, Reliability, add_to_bins, reliability
from cafe_cli.model.card import ModelCard
from cafe_cli.raster.window import blocks
from cafe_cli.scenes.discovery import SceneFiles
from cafe_cli.scenes.inspection import inspect_scene
from cafe_cli.scenes.scene import open_scene
from cafe_cli.training.report.run import FINAL

_BLOCK = 1024


class SiteCalibration(NamedTuple):
    """The reliability of the maps of a site without and with the model's temperature."""

    site: str
    before: Reliability
    after: Reliability


def measure(run: Run, out: Path, device: str, threads: int) -> Iterator[SiteCalibration]:
    """Yield the calibration of a run that is done: of its validation blocks, then of each site.

    Raises
    ------
    InputError
        The training is not there, or had no validation.
    """
    model = out / "trainings" / run.trained / FINAL
    if not model.exists():
        raise InputError(f"{model} is not there: do the run first")
    network, card = model_file.load(model)
    if (own := card.calibration) is None:
        raise InputError(f"{model} has no temperature: its training had no validation tiles")
    name = f"own validation blocks, temperature {own.temperature:g}"
    yield SiteCalibration(name, own.before, own.after)
    folder = out / "runs" / run.key.name / "calibration"
    folder.mkdir(parents=True, exist_ok=True)
    plain = folder / "plain.safetensors"
    without = card.model_copy(update={"calibration": None})
    model_file.save(plain, network.deployed(1 / own.temperature), without)
    compute = ComputeOptions(device, threads)
    for site in run.scored:
        after = _of_site(model, site, folder / "calibrated", run.config, compute, card)
        before = after
        if own.temperature != 1:
            before = _of_site(plain, site, folder / "plain", run.config, compute, card)
        yield SiteCalibration(site.name, before, after)


def _of_site(
    model: Path, site: Site, folder: Path, config: Config, compute: ComputeOptions, card: ModelCard
) -> Reliability:
    """Map the plots of a site, and compare the probability of the label with how often it holds."""
    bins = np.zeros((BINS, 3))
    for plot in site.plots:
        sure = folder / f"{plot.id}_confidence.tif"
        make_map(model, plot, folder, config, compute, sure)
        _add_plot(bins, plot, (map_path(folder, plot.id), sure), config, card.gsd)
    return reliability(bins)


def _add_plot(
    bins: np.ndarray, plot: SceneFiles, maps: tuple[Path, Path], config: Config, gsd: float
) -> None:
    inspection = inspect_scene(plot, config.height, gsd=gsd)
    labels, sure = maps
    with (
        open_scene(inspection) as scene,
        rasterio.open(labels) as predicted,
        rasterio.open(sure) as confidence,
    ):
        for window in blocks(scene.grid.width, scene.grid.height, _BLOCK):
            place = ((window.row, window.bottom), (window.col, window.right))
            ids = scene.read_labels(window, config.class_table, config.labels).ids
            found, percent = (raster.read(1, window=place) for raster in (predicted, confidence))
            known = (ids != NODATA) & (found != NODATA)
            add_to_bins(bins, percent[known] / 100, (found == ids)[known])


def table(rows: Sequence[SiteCalibration]) -> Iterator[str]:
    """Yield a Markdown table in per cent: how sure and how right, and the calibration error."""
    yield "| | probability of the label, before | after | right | error before | error after |"
    yield "|---|---:|---:|---:|---:|---:|"
    for site, before, after in rows:
        values = (_mean(before.confidence, before), _mean(after.confidence, after))
        values += (_mean(after.accuracy, after), before.error, after.error)
        yield f"| {site} | {' | '.join(f'{100 * value:.1f}' for value in values)} |"


def _mean(values: Sequence[float | None], bins: Reliability) -> float:
    pairs = zip(bins.shares, values, strict=True)
    return sum(share * value for share, value in pairs if value is not None)
