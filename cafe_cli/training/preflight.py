"""Checks of output, tile set and settings before training begins."""

from pathlib import Path

from cafe_cli.config.schema import STRIDE, AugmentSettings, Config, TrainSettings
from cafe_cli.errors import ConfigError, InputError, OutputError
from cafe_cli.system.atomic_write import (
    LOCK,
    check_outputs,
    is_temporary,
    refuse_others,
)
from cafe_cli.tilesets.plan import check_training_classes
from cafe_cli.tilesets.tileset import TileSet, is_tileset_path
from cafe_cli.training.data.augment import crop_side

_FILES = {
    LOCK, "best.safetensors", "config.toml", "curves.png", "final.safetensors", "history.csv",
    "last.safetensors", "report.html", "scores.json", "validation.csv",
}  # fmt: skip
"""Files of a run, besides those of TensorBoard."""


def check_output(output: Path, tileset: Path, overwrite: bool) -> None:
    """Refuse an existing output without `overwrite`, and one that is not the folder of a run.

    Raises
    ------
    OutputError
        The output exists without `overwrite`, is not a run, or holds the tile set.
    """
    if is_tileset_path(tileset, output):
        raise OutputError(f"{output} belongs to the tile set {tileset}; name another folder")
    if is_unused(output):
        return
    if not overwrite:
        raise OutputError(
            f"{output} exists; pass --resume to continue it, or --overwrite to replace it"
        )
    if tileset.resolve().is_relative_to(output.resolve()):
        raise OutputError(f"{output} holds the tile set {tileset}; name another folder")
    if not (output / "config.toml").exists():
        raise OutputError(
            f"{output} is not the folder of a run; remove it yourself or name another"
        )
    refuse_others(output, "a run", _is_own)


def is_unused(output: Path) -> bool:
    """Whether an output does not exist, or is a folder that holds nothing but a lock."""
    return not output.exists() or (
        output.is_dir() and {path.name for path in output.iterdir()} <= {LOCK}
    )


def check_weights(output: Path, config: Config) -> None:
    """Refuse to replace a run whose folder holds the weights or the model to begin with.

    Raises
    ------
    ConfigError
        The message names the file.
    """
    model, start = config.model, config.train.from_model
    weights = [name for name in (model.weights, model.height_weights, start) if name]
    check_outputs([output], weights, overwrite=True)


def _is_own(parts: tuple[str, ...]) -> bool:
    """Whether a run writes a file in its folder."""
    first = parts[0]
    if len(parts) > 1:
        return is_temporary(first) or (
            first == "tensorboard" and parts[-1].startswith("events.out.tfevents")
        )
    return first in _FILES or is_temporary(first)


def check_tiles(folder: Path, tileset: TileSet) -> None:
    """Refuse a tile set whose training labels show no or one class, or whose rasters have changed.

    Raises
    ------
    InputError
        There is no training tile, no training pixel has a label, or a raster that a virtual tile
        set refers to has changed.
    LabelError
        The training tiles show one class only.
    """
    training = len(tileset.of("train"))
    if not training:
        raise InputError(f"{folder} has no training tiles")
    if not any(_training_pixels(tileset).values()):
        raise InputError(f"{folder}: no pixel of its {training} training tiles has a label")
    check_training_classes(tileset.pixels["train"])
    for scene in tileset.virtual.scenes.values() if tileset.virtual else ():
        scene.check_unchanged()


def check_shares(training: int, settings: TrainSettings, processes: int) -> None:
    """Refuse a batch that cannot be divided among processes, or into parts.

    Raises
    ------
    ConfigError
        The batch cannot be divided; the message says how to change the settings.
    """
    if settings.batch_size == "auto":
        return
    if processes > 1 and (settings.batch_size % processes or training < processes):
        raise ConfigError(
            f"{training} training tiles in batches of {settings.batch_size} cannot be shared among "
            f"{processes} devices: make train.batch_size a multiple of train.devices, and that no "
            "more than there are tiles"
        )
    share = min(settings.batch_size, training) // processes
    if share < settings.accumulate:
        raise ConfigError(
            f"train.accumulate is {settings.accumulate}, but a step has {share} tile(s) on a "
            "device: lower it, or raise train.batch_size"
        )


def check_normalisation(tileset: TileSet, settings: TrainSettings, processes: int) -> None:
    """Refuse batches of one crop of `STRIDE` pixels: BatchNorm would get one value per channel.

    Raises
    ------
    ConfigError
        A batch consists of one such crop.
    """
    size, side = settings.batch_size, crop_side(settings, tileset.size)
    if size == "auto" or side > STRIDE or processes > 1:
        return
    if min(size, len(tileset.of("train"))) // settings.accumulate == 1:
        raise ConfigError(
            f"one tile of {side} px at a time cannot be normalised: raise train.batch_size (now "
            f"{size}, in {settings.accumulate} part(s)) or train.crop"
        )


def check_patience(tileset: TileSet, settings: TrainSettings) -> None:
    """Refuse early stopping without validation tiles.

    Raises
    ------
    ConfigError
        `patience` is set, but there are no validation tiles.
    """
    if settings.patience and not tileset.of("validation"):
        raise ConfigError(
            f"train.patience is {settings.patience}, but there are no validation tiles: leave it "
            "out, or run cafe tile with ground for validation"
        )


def check_augmentation(tileset: TileSet, settings: AugmentSettings) -> None:
    """Refuse an augmentation of a class that the tile set does not have.

    Raises
    ------
    ConfigError
        `class_light_of` names another class.
    """
    names = tileset.classes.names
    if unknown := [name for name in settings.class_light_of if name not in names]:
        raise ConfigError(
            f"augment.class_light_of names {unknown[0]!r}, but the classes of the tile set are "
            f"{', '.join(names)}: name one of them"
        )


def warnings(folder: Path, tileset: TileSet, settings: TrainSettings) -> list[str]:
    """Return warnings about settings and tiles that may make the result poor."""
    found = []
    training, validation = len(tileset.of("train")), len(tileset.of("validation"))
    if not validation:
        found.append(f"{folder} has no validation tiles: the last epoch counts as the best")
    if settings.batch_size != "auto" and settings.batch_size > training:
        found.append(
            f"train.batch_size is {settings.batch_size}, but there are {training} training tiles: "
            "every step uses all of them"
        )
    for name, pixels in _training_pixels(tileset).items():
        if not pixels and (others := _pixels_in_all_splits(tileset, name)):
            found.append(
                f"class {name} has no pixel in the training tiles ({others:,} elsewhere) and "
                "cannot be learnt: change the split, or remove it from the classes"
            )
    return found


def _training_pixels(tileset: TileSet) -> dict[str, int]:
    counts = tileset.pixels["train"]
    return {name: counts.get(name, 0) for name in tileset.classes.names}


def _pixels_in_all_splits(tileset: TileSet, name: str) -> int:
    return sum(counts.get(name, 0) for counts in tileset.pixels.values())
