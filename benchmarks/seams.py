"""How a map and its accuracy depend on the places of the windows.

    seams.py MODEL TILES --optical ORTHO [--elevation DSM]

TILES is a tile set of the scene, whose validation area is scored. For every window size, overlap
and kind of weights, the scene is predicted twice by an overlap-add of this script, independent of
the package: on a grid of windows that starts at the first pixel of the scene, and on one that is
half a window stride before it (a multiple of the network's stride). A JSON line per setting, then a
table:

miou, accuracy  on the validation area, mean of both grids, every pixel counted once
whole           share of pixels with another label than in one pass over the whole scene
shifted         share of pixels with different labels on the two grids
seam            rate of label changes across the edges of windows, over the rate elsewhere
work            pixels of all windows over pixels of the scene; in brackets, of a very large one
"""

import argparse
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cafe_cli.classes import NODATA, ClassTable
from cafe_cli.config.schema import STRIDE
from cafe_cli.evaluation.metrics import Confusion, Scores, compute_scores
from cafe_cli.model import model_file
from cafe_cli.model.cafe import CaFE, ChannelAttention
from cafe_cli.model.card import ModelCard
from cafe_cli.model.inputs import to_tensors
from cafe_cli.raster.window import Window
from cafe_cli.scenes.discovery import SceneFiles
from cafe_cli.scenes.inspection import inspect_scene
from cafe_cli.scenes.scene import Patch, open_scene
from cafe_cli.tilesets.tile_rasters import TileReader
from cafe_cli.tilesets.tileset import load_tileset

KINDS = ("flat", "margin", "hann", "gaussian")
RIM = 1e-6  # weight of a window's rim, which counts only where no other window lies
Labels = NDArray[np.uint8]


def main() -> None:
    options = parse()
    torch.set_grad_enabled(False)
    model, card = model_file.load(options.model)
    network = with_attention(model, options.attention)
    patch = read_scene(options, card)
    truth = validation_labels(options.tiles, patch.optical_valid.shape)
    if options.part:
        part = Window(*options.part)
        patch, truth = patch.at(part.slices()), truth[part.slices()]
    scene = ReferenceScene(patch, truth, card.classes)
    with ExitStack() as stack:
        if options.descriptors == "scene":
            stack.enter_context(scene_attention(network, scene, options.windows[0]))
        run = Runner(network, scene, torch.device(options.device))
        whole = run.labels([scene.extent], None)
        rows = [reference_row(scene, whole)]
        for size in options.windows:
            rows += list(measure(run, size, options.overlaps, whole))
    print_table(rows)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("tiles", type=Path)
    parser.add_argument("--optical", required=True)
    parser.add_argument("--elevation")
    parser.add_argument("--windows", type=int, nargs="+", default=[256, 512, 1024])
    parser.add_argument("--overlaps", type=float, nargs="+", default=[0, 1 / 8, 1 / 4, 1 / 2])
    parser.add_argument("--attention", type=int, help="pixels, instead of the model's own")
    parser.add_argument(
        "--descriptors",
        choices=["window", "scene"],
        default="window",
        help="scene: every window gets the attention of the mean window of the first size",
    )
    parser.add_argument("--part", type=int, nargs=4, metavar=("COL", "ROW", "WIDTH", "HEIGHT"))
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


# ---------------------------------------------------------------------- the scene


@dataclass(frozen=True)
class ReferenceScene:
    """A scene in memory, with reference labels in its validation area (255 elsewhere)."""

    patch: Patch
    truth: Labels
    classes: ClassTable

    @property
    def extent(self) -> Window:
        height, width = self.truth.shape
        return Window(0, 0, width, height)

    def read(self, window: Window) -> Patch:
        """Return the pixels of a window; pixels beyond the scene are not valid."""
        inside = window.intersection(self.extent)
        if inside is None:
            raise ValueError(f"{window} lies beyond the scene")
        part = self.patch.at(inside.slices())
        rows, columns = inside.slices(window)
        rim = (
            (rows.start, window.height - rows.stop), (columns.start, window.width - columns.stop),
        )  # fmt: skip
        return Patch(
            np.pad(part.optical, ((0, 0), *rim)),
            np.pad(part.optical_valid, rim),
            np.pad(part.heights, ((0, 0), *rim)),
            np.pad(part.height_valid, rim),
        )

    def score(self, labels: Labels) -> Scores:
        confusion = Confusion(len(self.classes))
        confusion.add(self.truth, labels)
        return compute_scores(confusion, self.classes)

    def differ(self, one: Labels, other: Labels) -> float:
        """Return the share of the scene's pixels that two maps label differently."""
        return float((one != other)[self.patch.optical_valid].mean())


def read_scene(options: argparse.Namespace, card: ModelCard) -> Patch:
    elevation = (options.elevation,) if options.elevation else ()
    with open_scene(
        inspect_scene(SceneFiles("scene", (options.optical,), elevation), card.height)
    ) as scene:
        return scene.read(scene.grid.extent)


def validation_labels(folder: Path, shape: tuple[int, ...]) -> Labels:
    """Return the labels of the validation tiles at their places in the scene."""
    tileset = load_tileset(folder)
    reader = TileReader(folder, tileset)
    labels = np.full(shape, NODATA, np.uint8)
    for tile in tileset.of("validation"):
        here = labels[tile.row : tile.row + tileset.size, tile.col : tile.col + tileset.size]
        own = reader.read(tile)[1][: here.shape[0], : here.shape[1]]
        here[own != NODATA] = own[own != NODATA]
    return labels


# ---------------------------------------------------------------------- the network


def with_attention(model: CaFE, attention: int | None) -> CaFE:
    """Return the network for inference, with another attention window and the same weights."""
    if attention is not None:
        state = model.state_dict()
        model = CaFE(replace(model.architecture, attention=attention))
        model.load_state_dict(state)
    return model.deployed().to(memory_format=torch.channels_last)


@contextmanager
def scene_attention(network: CaFE, scene: ReferenceScene, size: int) -> Iterator[None]:
    """Replace the attention descriptors of every window by their mean over the scene."""
    parts = [m for m in network.modules() if isinstance(m, ChannelAttention)]
    seen: dict[ChannelAttention, list[Tensor]] = {part: [] for part in parts}

    def keep(part: ChannelAttention, args: tuple[Tensor]) -> None:
        seen[part].append(args[0])

    hooks = [part.register_forward_pre_hook(keep) for part in parts]
    for window in windows(scene.extent, size, size, 0):
        network(*(tensor[None] for tensor in to_tensors(*scene.read(window))))
    for hook in hooks:
        hook.remove()
    means = {part: torch.stack(kept).mean(dim=0) for part, kept in seen.items()}
    hooks = [part.register_forward_pre_hook(lambda p, args: (means[p],)) for part in parts]
    yield
    for hook in hooks:
        hook.remove()


@dataclass
class Runner:
    """Runs the network over windows and caches the probabilities of each."""

    network: CaFE
    scene: ReferenceScene
    device: torch.device
    kept: dict[Window, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.network.to(self.device)

    def labels(self, tiling: list[Window], weights: Tensor | None) -> Labels:
        """Return the best class of each pixel by weighted overlap-add of class probabilities."""
        extent = self.scene.extent
        total = torch.zeros(len(self.scene.classes), extent.height, extent.width)
        for window in tiling:
            inside = window.intersection(extent)
            assert inside is not None  # noqa: S101
            there, here = inside.slices(), inside.slices(window)
            scores = self.probabilities(window)[:, *here]
            total[:, *there] += scores if weights is None else scores * weights[here]
        # The sum of the weights would be the same divisor for every class.
        return total.max(dim=0).indices.to(torch.uint8).numpy()

    def probabilities(self, window: Window) -> Tensor:
        if window not in self.kept:
            inputs = [t[None].to(self.device) for t in to_tensors(*self.scene.read(window))]
            self.kept[window] = self.network(*inputs).softmax(dim=1)[0].cpu()
        return self.kept[window]


def windows(extent: Window, size: int, stride: int, shift: int) -> list[Window]:
    """Cover the scene with a grid of windows that starts `shift` pixels before it."""

    def starts(length: int) -> range:
        beyond = max(length + shift - size, 0)
        return range(-shift, -(-beyond // stride) * stride - shift + 1, stride)

    places = product(starts(extent.height), starts(extent.width))
    return [Window(col, row, size, size) for row, col in places]


def weights_of(kind: str, size: int, overlap: int) -> Tensor:
    """Return the weights of a window's pixels, (size, size).

    flat      1 everywhere
    margin    almost 0 along each side, on half of the overlap
    hann      sin^2, zero just outside the window
    gaussian  a standard deviation of an eighth of the window size
    """
    place = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    match kind:
        case "flat":
            line = torch.ones_like(place)
        case "margin":
            line = torch.full_like(place, RIM)
            line[overlap // 2 : size - overlap // 2] = 1
        case "hann":
            line = torch.sin(place * torch.pi) ** 2
        case _:
            line = torch.exp(-0.5 * ((place - 0.5) * 8) ** 2)
    return torch.outer(line, line).float()


# ---------------------------------------------------------------------- measuring


def measure(
    run: Runner, size: int, overlaps: list[float], whole: Labels
) -> Iterator[dict[str, object]]:
    """Yield the results of every overlap and kind of weights."""
    scene, run.kept = run.scene, {}
    for share in overlaps:
        overlap = round(size * share / STRIDE) * STRIDE
        stride = size - overlap
        shift = stride // 2 // STRIDE * STRIDE
        grids = [windows(scene.extent, size, stride, s) for s in (0, shift)]
        # Without an overlap the weights make no difference.
        for kind in KINDS if overlap else KINDS[:1]:
            maps = [run.labels(grid, weights_of(kind, size, overlap)) for grid in grids]
            results = [scene.score(labels) for labels in maps]
            row: dict[str, object] = {
                "window": size,
                "overlap": overlap,
                "weights": kind,
                "miou": mean(r.miou for r in results),
                "mious": [r.miou for r in results],
                "accuracy": mean(r.overall_accuracy for r in results),
                "whole": mean(scene.differ(labels, whole) for labels in maps),
                "shifted": scene.differ(*maps),
                "seam": seam(maps[0], lines(grids[0], kind, overlap)),
                "work": len(grids[0]) * size**2 / scene.truth.size,
                "work_inside": (size / stride) ** 2,
            }
            print(json.dumps(row), flush=True)
            yield row


def reference_row(scene: ReferenceScene, whole: Labels) -> dict[str, object]:
    result = scene.score(whole)
    row: dict[str, object] = {
        "window": "whole",
        "overlap": 0,
        "weights": "",
        "miou": result.miou,
        "accuracy": result.overall_accuracy,
        "whole": 0.0,
        "work": 1.0,
    }
    print(json.dumps(row), flush=True)
    return row


def mean(values: Iterator[float]) -> float:
    return float(np.mean(list(values)))


def lines(grid: list[Window], kind: str, overlap: int) -> tuple[list[int], list[int]]:
    """Return the rows and columns at which windows begin or end, less the margin."""
    inset = overlap // 2 if kind == "margin" else 0
    ends = [w.bounds for w in grid]
    rows = {r for _, top, _, bottom in ends for r in (top + inset, bottom - inset)}
    columns = {c for left, _, right, _ in ends for c in (left + inset, right - inset)}
    return sorted(rows), sorted(columns)


def seam(labels: Labels, cuts: tuple[list[int], list[int]]) -> float:
    """Return the rate of label changes across these lines, over the rate across all others."""
    on: list[NDArray[np.bool_]] = []
    off: list[NDArray[np.bool_]] = []
    for across, places in zip((labels, labels.T), cuts, strict=True):
        changes = across[1:] != across[:-1]  # change i lies between i and i + 1
        at = np.isin(np.arange(1, len(across)), places)
        on.append(changes[at].ravel())
        off.append(changes[~at].ravel())
    return float(np.concatenate(on).mean() / np.concatenate(off).mean())


def print_table(rows: list[dict[str, object]]) -> None:
    print()
    print("window overlap weights    mIoU  accuracy   whole shifted   seam  work (inside)")
    for row in rows:
        line = (
            f"{row['window']!s:>6} {row['overlap']:>7} {row['weights']:<9}"
            f" {row['miou']:.4f}    {row['accuracy']:.4f} {100 * row['whole']:6.2f}%"
        )
        if "shifted" in row:
            line += (
                f" {100 * row['shifted']:6.2f}% {row['seam']:6.2f} {row['work']:5.2f}"
                f" ({row['work_inside']:.2f})"
            )
        print(line)


if __name__ == "__main__":
    main()
