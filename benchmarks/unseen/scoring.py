"""Maps against the labels of a site: one confusion matrix, and the IoU of the classes it has."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.unseen.sites import Site
from cafe_cli.config.schema import Config
from cafe_cli.evaluation.evaluate import evaluate
from cafe_cli.evaluation.metrics import Confusion, compute_scores


def map_path(folder: Path, plot: str) -> Path:
    """Return where the map of a plot is written."""
    return folder / f"{plot}.tif"


def score_site(site: Site, folder: Path, config: Config) -> dict[str, Any]:
    """Score the maps of a site, all plots together, on the grid of the labels.

    Parameters
    ----------
    site : Site
    folder : Path
        Where the maps are, see `map_path`.
    config : Config
        Classes, and how the labels encode them.

    Returns
    -------
    dict
        As `summarise`.
    """
    found = [
        evaluate(
            str(map_path(folder, plot.id)),
            plot.labels[0],
            classes=config.class_table,
            labels=config.labels,
        )
        for plot in site.plots
    ]
    matrices = (Confusion.of(np.array(s.confusion, np.int64), s.unpredicted) for s in found)
    return summarise(sum(matrices, Confusion(len(config.classes))), config)


def summarise(confusion: Confusion, config: Config) -> dict[str, Any]:
    """Return the scores of a confusion matrix as plain values.

    Returns
    -------
    dict
        ``miou`` is the mean over the classes that the labels show: a class that only the map shows
        lowers the IoU of the classes it was taken for. ``iou`` by name, of those classes.
        ``pixels`` and ``unpredicted`` are labelled pixels with and without a prediction.
    """
    classes = compute_scores(confusion, config.class_table).classes
    iou = {name: round(row.iou, 5) for name, row in classes.items() if row.pixels}
    return {
        "miou": round(mean(iou.values()), 5),
        "iou": iou,
        "pixels": int(confusion.counts.sum()),
        "unpredicted": confusion.unpredicted,
        "confusion": confusion.counts.tolist(),
    }


def mean(values: Iterable[float]) -> float:
    """Return the mean of some values."""
    return float(np.mean(list(values)))
