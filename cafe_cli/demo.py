"""``cafe demo``: run every command on the sample data, and draw the resulting map."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from cafe_cli.config.load import dump_config, load_config
from cafe_cli.config.schema import Config, LabelSettings
from cafe_cli.errors import InputError, OutputError
from cafe_cli.evaluation.evaluate import evaluate
from cafe_cli.evaluation.metrics import Scores
from cafe_cli.inference.job import ComputeOptions, PredictInput, PredictOutput
from cafe_cli.inference.predict import predict
from cafe_cli.mosaic.job import MosaicInputs, MosaicOptions, MosaicOutputs
from cafe_cli.mosaic.mosaic import mosaic
from cafe_cli.plotting import draw_scene
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.reader import open_raster, read_window
from cafe_cli.raster.writer import read_classes
from cafe_cli.sample_data import SAMPLE_CONFIG, find_sample
from cafe_cli.scenes.discovery import SceneFiles
from cafe_cli.scenes.inspection import inspect_scene
from cafe_cli.scenes.scene import open_scene
from cafe_cli.system.atomic_write import (
    check_output,
    is_temporary,
    refuse_others,
    remove,
    write_text,
)
from cafe_cli.system.output_group import claim_outputs
from cafe_cli.tilesets.make import tile
from cafe_cli.training.report.run import BEST
from cafe_cli.training.train import TrainCallbacks, train


def demo(
    config_path: Path | None,
    output: Path,
    *,
    device: str = "auto",
    overwrite: bool = False,
    report: TrainCallbacks | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Scores:
    """Tile and train on two scenes; predict, mosaic and evaluate a third, delivered in pieces.

    Parameters
    ----------
    config_path : Path, optional
        Names the folder of the sample data; by default the config that is installed with them.
    output : Path
        Folder of all outputs; ``demo.png`` and ``scores.json`` in it are the result.
    device : str
        See `cafe_cli.training.train.train`.
    overwrite : bool
        Replace a folder that exists.
    report : TrainCallbacks, optional
        Called during training.
    say : callable
        Called with the command line of each step before it runs.

    Returns
    -------
    Scores
        Scores of the mosaic against the true labels of the third scene.

    Raises
    ------
    InputError
        The sample data are missing.
    OutputError
        `output` exists and may not be replaced.
    """
    config_path = config_path or find_sample() / SAMPLE_CONFIG
    config = load_config(config_path)
    data = Path(config.root)
    pieces = sorted(data.glob("town_*_ortho.tif"))
    if not pieces:
        raise InputError(f"no town_*_ortho.tif in {data}; cafe demo without -c uses its own data")
    check_output(output, overwrite)
    with claim_outputs([output], overwrite):
        _create_folder(output, config)
        return _run_commands(config_path, config, output, pieces, device, report, say)


def _run_commands(
    config_path: Path,
    config: Config,
    output: Path,
    pieces: Sequence[Path],
    device: str,
    report: TrainCallbacks | None,
    say: Callable[[str], None],
) -> Scores:
    data = pieces[0].parent
    heights, truth = data / "town_dsm.tif", data / "town_labels.tif"
    tiles, run, town = output / "tiles", output / "run", output / "town.tif"

    say(f"cafe tile -c {config_path} -o {tiles}")
    tile(config, tiles)
    say(f"cafe train {tiles} -c {config_path} -o {run}")
    train(tiles, run, config, device=device, report=report)
    maps, confidences = [], []
    for piece in pieces:
        labels = output / f"{piece.stem.removesuffix('_ortho')}.tif"
        confidence = labels.with_name(f"{labels.stem}_confidence.tif")
        say(
            f"cafe predict {run / BEST} --optical {piece} --elevation {heights} "
            f"-o {labels} --confidence {confidence}"
        )
        predict(
            [run / BEST], PredictInput((str(piece),), (str(heights),)),
            PredictOutput(labels, confidence), compute=ComputeOptions(device),
        )  # fmt: skip
        maps.append(str(labels))
        confidences.append(str(confidence))
    say(f"cafe mosaic {' '.join(maps)} --method confidence ... -o {town}")
    mosaic(
        MosaicInputs(tuple(maps), tuple(confidences)),
        MosaicOutputs(town),
        MosaicOptions(method="confidence"),
    )
    say(f"cafe evaluate {town} {truth}")
    scores = evaluate(str(town), str(truth))
    write_text(output / "scores.json", json.dumps(scores.as_json(), indent=1))
    draw_map(town, truth, [str(p) for p in pieces], str(heights), output / "demo.png")
    return scores


def _create_folder(output: Path, config: Config) -> None:
    """Create the folder of a demo with its config in it; only another demo's is replaced."""
    if output.exists() and not (output / "config.toml").exists():
        raise OutputError(
            f"{output} is not the folder of a demo; remove it yourself or name another"
        )
    refuse_others(output, "a demo", _is_own)
    remove(output)
    output.mkdir(parents=True)
    write_text(output / "config.toml", dump_config(config))


def _is_own(parts: tuple[str, ...]) -> bool:
    """Whether a demo makes a file in its folder."""
    first = parts[0]
    if len(parts) > 1:
        return first in ("tiles", "run") or is_temporary(first) or first.endswith(".strips")
    return first.startswith(("town", ".")) or first in ("config.toml", "scores.json", "demo.png")


def draw_map(town: Path, truth: Path, optical: list[str], elevation: str, picture: Path) -> None:
    """Draw image, heights, truth and prediction of the third scene, which share one grid."""
    with open_raster(str(town)) as labels:
        grid, classes = Grid.of(labels), read_classes(labels)
        predicted = read_window(labels, grid.extent, [1])[0]
    if classes is None:
        raise InputError(f"{town} has no class table")
    files = SceneFiles("town", tuple(optical), (elevation,), (), (str(truth),))
    with open_scene(inspect_scene(files, Config().height)) as scene:
        patch = scene.read(grid.extent)
        known = scene.read_labels(grid.extent, classes, LabelSettings()).ids
    height = np.where(patch.height_valid, patch.height, np.float32(np.nan))
    draw_scene(patch.optical, height, {"truth": known, "prediction": predicted}, classes, picture)
