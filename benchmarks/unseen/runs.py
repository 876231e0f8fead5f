"""A run: the tile set of its training sites, training, maps of the other sites, scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.unseen.records import Key, Row, identity, make_row
from benchmarks.unseen.scoring import map_path, score_site
from benchmarks.unseen.sites import ELEVATION, LABELS, OPTICAL, Site
from benchmarks.unseen.variants import VARIANTS
from cafe_cli.config.load import load_config
from cafe_cli.config.schema import Config
from cafe_cli.inference.job import ComputeOptions, PredictInput, PredictOutput
from cafe_cli.inference.predict import predict
from cafe_cli.scenes.discovery import SceneFiles
from cafe_cli.system.locks import exclusive_lock, wait_for_lock
from cafe_cli.tilesets.make import tile
from cafe_cli.training.history import HISTORY_FILE, EpochRecord, read_history
from cafe_cli.training.plan import LAST
from cafe_cli.training.report.run import FINAL
from cafe_cli.training.train import TrainCallbacks, train

_TILE_SECTIONS = ("scenes", "classes", "height", "labels", "split", "tile")
_RUN_SECTIONS = (*_TILE_SECTIONS, "model", "train", "augment", "predict")


@dataclass(frozen=True)
class Run:
    """A run to do.

    Attributes
    ----------
    key : Key
    training, scored : tuple of Site
    config : Config
        With the variant's settings and the seed.
    trained : str
        Name of the training, which runs share that differ in how maps are made only.
    """

    key: Key
    training: tuple[Site, ...]
    scored: tuple[Site, ...]
    config: Config
    trained: str


def plan(
    name: str,
    division: tuple[Sequence[Site], Sequence[Site]],
    config: Path,
    variant: str,
    seed: int,
    settings: dict[str, Any],
) -> Run:
    """Return the run of a variant and a seed.

    Parameters
    ----------
    name : str
        What ``--train`` says.
    division : pair of sequences of Site
        The sites that train, and those that are scored.
    config : Path
    variant : str
        A key of `VARIANTS`.
    seed : int
    settings : dict
        Dotted keys that replace those of the config, for all variants.

    Raises
    ------
    ConfigError
        The config or a setting is not valid.
    """
    training, scored = division
    overrides = {**settings, **VARIANTS[variant].config, **_scenes(training)}
    # A class that the training sites lack counts on the others all the same.
    overrides["labels.absent"] = load_config(config).class_table.names
    made = load_config(config, overrides)
    named = made.model_dump(mode="json", include=set(_RUN_SECTIONS))
    key = Key(name, variant, seed, identity(named))
    seeded = load_config(config, {**overrides, "train.seed": seed})
    del named["predict"]
    trained = f"{name}-{identity(named)}-seed{seed}"
    return Run(key, tuple(training), tuple(scored), seeded, trained)


def _scenes(training: Sequence[Site]) -> dict[str, Any]:
    return {
        "scenes.optical": f"{{id}}/{OPTICAL}",
        "scenes.elevation": f"{{id}}/{ELEVATION}",
        "scenes.labels": f"{{id}}/{LABELS}",
        "scenes.only": [plot.id for site in training for plot in site.plots],
    }


def carry_out(run: Run, out: Path, device: str, threads: int) -> Row:
    """Do a run, or go on with an interrupted one.

    Parameters
    ----------
    run : Run
    out : Path
        Folder of the bed; the run has a folder in ``runs``.
    device : str
    threads : int

    Returns
    -------
    dict
        Its row, see `records`.

    Raises
    ------
    OutputError
        Another process does the same run.
    """
    folder = out / "runs" / run.key.name
    folder.mkdir(parents=True, exist_ok=True)
    training = out / "trainings" / run.trained
    training.parent.mkdir(exist_ok=True)
    lock = training.with_name(f".{run.trained}.lock")
    with exclusive_lock(lock, f"{run.trained} is being done by another process"):
        tiles = make_tiles(run, out, threads)
        train(
            tiles,
            training,
            run.config,
            device=device,
            resume=(training / LAST).exists(),
            report=TrainCallbacks(epoch=_say_epoch),
        )
        # The best epoch is chosen by blocks between the training tiles, which flatter.
        model = training / FINAL
        seconds = sum(record.seconds or 0.0 for record in read_history(training / HISTORY_FILE))
        sites = {}
        for site in run.scored:
            for plot in site.plots:
                make_map(model, plot, folder / "maps", run.config, ComputeOptions(device, threads))
            sites[site.name] = score_site(site, folder / "maps", run.config)
    return make_row(run.key, [site.name for site in run.training], sites, seconds)


def make_tiles(run: Run, out: Path, threads: int) -> Path:
    """Make the tile set of a run unless it is there; variants that only train share it."""
    named = run.config.model_dump(mode="json", include=set(_TILE_SECTIONS))
    tiles = out / "tiles" / f"{run.key.train}-{identity(named)}"
    tiles.parent.mkdir(exist_ok=True)
    with wait_for_lock(out / ".tiles.lock", "another process makes tiles"):
        scenes = _link_scenes(run.training, out / "scenes")
        if not tiles.exists():
            tile(run.config.model_copy(update={"root": str(scenes)}), tiles, jobs=threads)
    return tiles


def _link_scenes(sites: Sequence[Site], folder: Path) -> Path:
    """Link the plots of all sites into folders side by side, as the patterns of a config need."""
    for plot in (plot for site in sites for plot in site.plots):
        place = folder / plot.id
        place.mkdir(parents=True, exist_ok=True)
        files = {OPTICAL: plot.optical, ELEVATION: plot.elevation, LABELS: plot.labels}
        for name, (path,) in files.items():
            if not (place / name).is_symlink():
                (place / name).symlink_to(Path(path).absolute())
    return folder.absolute()


def make_map(
    model: Path,
    plot: SceneFiles,
    folder: Path,
    config: Config,
    compute: ComputeOptions,
    confidence: Path | None = None,
) -> None:
    """Write the map of a plot, and where it is asked for the probability of its labels."""
    predict(
        [model],
        PredictInput(plot.optical, plot.elevation, gsd="model"),
        PredictOutput(map_path(folder, plot.id), confidence=confidence, overwrite=True),
        settings=config.predict,
        compute=compute,
    )


def _say_epoch(record: EpochRecord, best: bool) -> None:
    print(f"  epoch {record.epoch}: loss {record.losses['loss']:.4f}", flush=True)
