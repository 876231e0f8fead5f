"""Judge a plan of tiles: what it lacks, and which other settings would help."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from cafe_cli.config.schema import STRIDE, Config
from cafe_cli.errors import CafeError, LabelError
from cafe_cli.findings import Finding
from cafe_cli.splits.assign import SPLITS, Split
from cafe_cli.splits.tiling import training_starts
from cafe_cli.tilesets.plan import TilePlan, block_side, check_training_classes, replan

Change: TypeAlias = Mapping[str, Mapping[str, Any]]
"""Other values of settings, by section and key."""

_COSTLY = 0.5  # share of the training tiles promised by the split; with less, it costs too much
_BETTER = 0.1  # share of all tiles that other settings have to win
_NAMED = 3  # changes in a message
_MOST_PIXELS = 100_000_000  # of all scenes, whose labels are counted again for another tile size
_LOWER = (0.25, 0.1, 0.05, 0.02, 0.01)  # shares of pixels to ask of a tile


def judge_tiles(planned: TilePlan, config: Config, jobs: int = 1) -> Iterator[Finding]:
    """Say which split has no tile, and whether held-out ground costs most of the training tiles.

    Only then are other settings planned, to say which of them help: see `replan`. Settings that
    need the labels counted again are left out for scenes of more than 100 million pixels.
    """
    number = planned.number
    if not number["train"]:
        yield Finding("error", _no_training(planned, config) + _advice(planned, config, jobs))
        return
    empty = [split for split in SPLITS[1:] if not number[split] and _is_wanted(split, config)]
    for split in empty:
        yield Finding("warning", f"no tile for {split}" + _advice(planned, config, jobs, split))
    left = planned.candidates - planned.near_held_out
    if not empty and left < _COSTLY * planned.promised:
        yield Finding(
            "warning",
            f"{left} of {planned.candidates} training tiles are left: {_near(planned, config)}"
            + _advice(planned, config, jobs),
        )


def judge_classes(planned: TilePlan, config: Config) -> Iterator[Finding]:
    """Say which classes no tile, or no training tile, shows, and whether all show but one."""
    names, absent = config.class_table.names, config.labels.absent
    if unknown := [name for name in absent if name not in names]:
        yield Finding("error", f"labels.absent names {unknown[0]!r}, which is not a class")
    in_tiles = np.sum(list(planned.pixels.values()), axis=0)[:-1]
    rows = list(zip(names, planned.counts, in_tiles, planned.pixels["train"], strict=False))
    if missing := [name for name, known, _, _ in rows if not known and name not in absent]:
        yield Finding(
            "error",
            f"no scene shows {_quoted(missing)}: check the label values of that class, remove it "
            "from the classes, or name it in labels.absent",
        )
    if lost := [name for name, known, found, _ in rows if known and not found]:
        yield Finding(
            "error",
            f"no tile shows {_quoted(lost)}, which the labels do: all of it lies in the buffer or "
            "in tiles with too few pixels; lower split.buffer or tile.size, or name it in "
            "labels.absent",
        )
    try:
        check_training_classes(dict(zip(names, planned.pixels["train"].tolist(), strict=False)))
    except LabelError as error:
        yield Finding("error", str(error))
        return
    unlearnt = [name for name, _, found, trained in rows if found and not trained]
    if unlearnt and planned.number["train"]:
        yield Finding(
            "warning", f"no training tile shows {', '.join(unlearnt)}: it will not be learnt"
        )


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))


def _is_wanted(split: Split, config: Config) -> bool:
    """Whether a split without tiles is worth a warning: validation always is."""
    return split == "validation" or bool(config.split.test or config.split.test_scenes)


def _no_training(planned: TilePlan, config: Config) -> str:
    """Say why there is no training tile."""
    tile, total = config.tile, sum(_cover(planned, config).values())
    reasons = []
    if thin := planned.thin["train"]:
        reasons.append(
            f"{thin} have too few valid or labelled pixels (tile.min_valid = {tile.min_valid:g}, "
            f"tile.min_labelled = {tile.min_labelled:g})"
        )
    if planned.near_held_out:
        reasons.append(_near(planned, config))
    if planned.shared:
        reasons.append(f"{planned.shared} show ground that another scene validates or tests on")
    why = " and ".join(reasons) or "all ground is named for validation or test in [split]"
    return f"none of {total} tiles of {tile.size} px is left for training: {why}"


def _near(planned: TilePlan, config: Config) -> str:
    held = [split for split in SPLITS[1:] if planned.number[split]]
    return (
        f"{planned.near_held_out} touch ground for {' or '.join(held) or 'validation'}, or its "
        f"buffer of {config.split.buffer} px"
    )


@dataclass(frozen=True)
class _Outcome:
    """What settings give: tiles per split, and those that cover all scenes."""

    number: Mapping[Split, int]
    cover: int

    @property
    def share(self) -> float:
        """Share of the ground that trains."""
        return self.number["train"] / self.cover

    @classmethod
    def of(cls, planned: TilePlan, config: Config) -> "_Outcome":
        return cls(planned.number, sum(_cover(planned, config).values()))

    def is_better(self, now: "_Outcome", split: Split) -> bool:
        """Whether it has tiles of a split, or many more for training, and lacks no other."""
        kept = all(self.number[s] or not now.number[s] for s in SPLITS)
        if split != "train":
            return kept and bool(self.number[split])
        return kept and self.share >= now.share + _BETTER


def _cover(planned: TilePlan, config: Config) -> dict[str, int]:
    """Return the number of training tiles that would cover each scene."""
    found = {}
    for name, grid in planned.grids.items():
        rows, cols = training_starts(grid.extent, config.tile.size, config.tile.stride)
        found[name] = len(rows) * len(cols)
    return found


def _advice(planned: TilePlan, config: Config, jobs: int, split: Split = "train") -> str:
    """Name the settings that help a split, with the tiles that they give."""
    now = _Outcome.of(planned, config)
    better: list[tuple[Change, _Outcome]] = []
    for family in _changes(planned, config):
        for change in family:
            outcome = _try(planned, config, change, jobs)
            if outcome is not None and outcome.is_better(now, split):
                better.append((change, outcome))
                break
    if not better:
        return (
            "; no other value of split.unit, split.block, split.buffer, tile.size, tile.min_valid "
            "or tile.min_labelled that was tried helps: give more scenes, or name some in [split]"
        )
    better.sort(key=lambda pair: -pair[1].share)
    words = [_describe(change, outcome) for change, outcome in better[:_NAMED]]
    return "; " + ", or ".join(words)


def _try(planned: TilePlan, config: Config, change: Change, jobs: int) -> _Outcome | None:
    other = config.model_copy(
        update={
            section: getattr(config, section).model_copy(update=dict(values))
            for section, values in change.items()
        }
    )
    try:
        return _Outcome.of(replan(planned, other, jobs), other)
    except CafeError:
        return None


def _describe(change: Change, outcome: _Outcome) -> str:
    values = [
        f"{section}.{key} = {value!r}"
        for section, own in change.items()
        for key, value in own.items()
    ]
    held = [f"{n} for {s}" for s, n in outcome.number.items() if s != "train" and n]
    left = f"leaves {outcome.number['train']} of {outcome.cover} tiles for training"
    return f"{' with '.join(values)} {left}" + (f" and {' and '.join(held)}" if held else "")


def _changes(planned: TilePlan, config: Config) -> Iterator[list[Change]]:
    """Yield changes, those of one kind together, the smallest first."""
    split, tile = config.split, config.tile
    yield [
        {"split": {"buffer": n}}
        for n in sorted({split.buffer // 2, split.buffer // 4, 0}, reverse=True)
        if n < split.buffer
    ]
    yield [{"tile": {"min_valid": share}} for share in _LOWER if share < tile.min_valid]
    yield [{"tile": {"min_labelled": share}} for share in _LOWER if share < tile.min_labelled]
    if planned.polygons:
        return
    if split.unit == "block" and len(planned.scenes) > 1:
        yield [{"split": {"unit": "scene"}}]
    if not split.validation and not split.validation_scenes:
        yield [{"split": {"validation": 0.2}}]
    if sum(grid.width * grid.height for grid in planned.grids.values()) > _MOST_PIXELS:
        return
    if split.unit == "block":
        side = block_side(config)
        sides = [s for s in (2 * side, max(side // 2, tile.size), tile.size) if s != side]
        yield [{"split": {"block": s}} for s in dict.fromkeys(sides)]
    sizes = [s for n in (2, 4, 8) if (s := tile.size // n // STRIDE * STRIDE)]
    yield [
        {"tile": {"size": s, "overlap": tile.overlap * s // tile.size}}
        for s in dict.fromkeys(sizes)
        if s < tile.size
    ]
