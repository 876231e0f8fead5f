"""The random forest to beat: 60 trees on hand-made features of image and surface model, at 0.5 m.

It is trained and scored on the sites that a network would be. Needs scikit-learn, which
``pip install -e '.[benchmarks]'`` brings.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.unseen import features, records
from benchmarks.unseen.scoring import map_path, score_site
from benchmarks.unseen.sites import Site
from cafe_cli.classes import NODATA
from cafe_cli.config.schema import Config, HeightSettings
from cafe_cli.errors import ConfigError
from cafe_cli.raster.window import Window, blocks
from cafe_cli.raster.writer import create_cog
from cafe_cli.scenes.discovery import SceneFiles
from cafe_cli.scenes.inspection import inspect_scene
from cafe_cli.scenes.scene import Scene, open_scene

if TYPE_CHECKING:
    from sklearn.ensemble import RandomForestClassifier

GSD = 0.5
TREES = 60
LEAF = 5  # training pixels in a leaf, at least
SAMPLE = 100_000  # training pixels of all classes together
_BLOCK = 1024
_RAW = HeightSettings(kind="dsm", ground="none")
"""No ground is taken off: the forest gets the surface model as it was delivered."""


def identity() -> str:
    """Return a checksum of what makes a forest what it is."""
    scales = [features.COLOUR_METRES, features.HEIGHT_METRES, features.RELIEF_METRES]
    return records.identity([GSD, TREES, LEAF, SAMPLE, scales])


def run(
    training: Sequence[Site],
    scored: Sequence[Site],
    config: Config,
    folder: Path,
    seed: int,
    threads: int,
) -> dict[str, Any]:
    """Train a forest on some sites, and map and score others.

    Parameters
    ----------
    training, scored : sequence of Site
    config : Config
        Classes and encoding of the labels.
    folder : Path
        For the maps.
    seed : int
        Of the sample and of the trees.
    threads : int

    Returns
    -------
    dict
        ``sites``, scores by name, and the ``seconds`` that training took.
    """
    start = time.perf_counter()
    forest = train(training, config, seed, threads)
    seconds = time.perf_counter() - start
    folder.mkdir(parents=True, exist_ok=True)
    sites = {}
    for site in scored:
        for plot in site.plots:
            predict(forest, plot, config, map_path(folder, plot.id))
        sites[site.name] = score_site(site, folder, config)
    return {"sites": sites, "seconds": round(seconds, 1)}


def train(
    sites: Sequence[Site], config: Config, seed: int, threads: int
) -> "RandomForestClassifier":
    """Train a forest on a sample that holds as many pixels of every class and site, if they do."""
    try:
        from sklearn.ensemble import RandomForestClassifier
    except ImportError as error:
        raise ConfigError(
            "the random forest needs scikit-learn: pip install -e '.[benchmarks]'"
        ) from error
    forest = RandomForestClassifier(TREES, min_samples_leaf=LEAF, n_jobs=threads, random_state=seed)
    return forest.fit(*sample(sites, config, SAMPLE, seed))


def sample(
    sites: Sequence[Site], config: Config, count: int, seed: int
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Draw labelled pixels, as many of every class and, within a class, of every site.

    Returns
    -------
    ndarray of float32, (pixels, features)
    ndarray of uint8, (pixels,)
        Class ids.
    """
    shares = _shares(np.array([_count(site, config) for site in sites]), count)
    random = np.random.default_rng(seed)
    drawn = [
        (features_of(scene, window)[:, chosen].T, ids[chosen])
        for site, share in zip(sites, shares, strict=True)
        for scene, window, ids in _labelled(site, config)
        if (chosen := random.random(ids.shape) < share[ids]).any()
    ]
    pixels, ids = zip(*drawn, strict=True)
    return np.concatenate(pixels), np.concatenate(ids)


def _shares(counts: NDArray[np.int64], count: int) -> NDArray[np.float64]:
    """Return the share of pixels to draw, (sites, 256 label values), from pixels per class."""
    present = counts > 0
    classes = max(int(present.any(axis=0).sum()), 1)
    quota = count / classes / np.maximum(present.sum(axis=0), 1)
    shares = np.zeros((len(counts), NODATA + 1))
    shares[:, : counts.shape[1]] = np.minimum(quota / np.maximum(counts, 1), 1.0)
    return shares


def _count(site: Site, config: Config) -> NDArray[np.int64]:
    classes = len(config.classes)
    counts = np.zeros(NODATA + 1, np.int64)
    for _, _, ids in _labelled(site, config):
        counts += np.bincount(ids.ravel(), minlength=NODATA + 1)
    return counts[:classes]


def _labelled(site: Site, config: Config) -> Iterator[tuple[Scene, Window, NDArray[np.uint8]]]:
    """Yield the blocks of a site that have labels, and the class ids where there is an image."""
    for plot in site.plots:
        with _open(plot) as scene:
            for window in _windows(scene):
                ids = scene.read_labels(window, config.class_table, config.labels).ids
                ids = np.where(scene.read_valid(window), ids, np.uint8(NODATA))
                if (ids != NODATA).any():
                    yield scene, window, ids


def predict(forest: "RandomForestClassifier", plot: SceneFiles, config: Config, path: Path) -> None:
    """Write the map of a plot, block by block."""
    with _open(plot) as scene, create_cog(path, scene.grid, True, config.class_table) as dataset:
        for window in _windows(scene):
            valid = scene.read_valid(window)
            ids = np.full(valid.shape, NODATA, np.uint8)
            if valid.any():
                ids[valid] = forest.predict(features_of(scene, window)[:, valid].T)
            place = ((window.row, window.bottom), (window.col, window.right))
            dataset.write(ids, 1, window=place)


def features_of(scene: Scene, window: Window) -> NDArray[np.float32]:
    """Compute the features of a window, (features, height, width), with what lies around it."""
    around = window.expand(features.margin(GSD))
    return features.compute(scene.read(around), GSD)[:, *window.slices(around)]


def _windows(scene: Scene) -> Iterator[Window]:
    return blocks(scene.grid.width, scene.grid.height, _BLOCK)


@contextmanager
def _open(plot: SceneFiles) -> Iterator[Scene]:
    with open_scene(inspect_scene(plot, _RAW, gsd=GSD)) as scene:
        yield scene
