"""The passes over the validation ground, and their scores."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.ablation.baselines import Network, mixed
from benchmarks.ablation.package import Inputs, Sample, SampleKey, Tiles
from benchmarks.ablation.records import Study
from cafe_cli.classes import NODATA
from cafe_cli.evaluation.metrics import Confusion, compute_scores
from cafe_cli.model.cafe import CaFE
from cafe_cli.tilesets.tile_rasters import TileReader
from cafe_cli.tilesets.tileset import TileSet, load_tileset

Prediction: TypeAlias = Callable[[Any, Sample, int], Tensor]
"""Class scores (B, K, H, W) of a batch; the number is that of its first tile."""


def plain(network: Network, batch: Sample, first: int) -> Tensor:
    """Predict as `cafe predict` does, without labels."""
    logits: Tensor = network(*batch.inputs)
    return logits


def guided(network: CaFE, batch: Sample, first: int) -> Tensor:
    """Predict by the path that sees the labels: an upper bound, not a result."""
    levels = network.encode(*batch.inputs)
    maps = network.decode(levels, batch.labels, guided=True)
    return network.head_logits(maps, batch.labels.shape[-2:])[-1]


def d4(network: Network, batch: Sample, first: int) -> Tensor:
    """Average the probabilities over the eight symmetries of a square."""
    answers = []
    for turns in range(4):
        for axes in ((), (-1,)):
            seen = Inputs(*(torch.rot90(x, turns, (-2, -1)).flip(axes) for x in batch.inputs))
            answer = network(*seen).softmax(dim=1).flip(axes)
            answers.append(torch.rot90(answer, -turns, (-2, -1)))
    return torch.stack(answers).sum(dim=0)


def without_heights(share: float) -> Prediction:
    """With this share of each tile's heights missing, in blobs that are the same for all runs."""

    def predict(network: Network, batch: Sample, first: int) -> Tensor:
        optical, optical_valid, height, height_valid = batch.inputs
        tiles = range(first, first + len(height))
        size = batch.labels.shape[-2:]
        gone = torch.stack([blobs(size, share, tile) for tile in tiles]).to(height.device)
        known = height_valid & ~gone
        inputs = Inputs(optical, optical_valid, torch.where(known[:, None], height, 0.0), known)
        return plain(network, batch._replace(inputs=inputs), first)

    return predict


def blobs(size: Sequence[int], share: float, seed: int) -> Tensor:
    """Draw where heights are missing: bool of this size, True on this share of the pixels."""
    rows, columns = size
    coarse = np.random.default_rng(seed).normal(size=(1, 1, rows // 32 + 2, columns // 32 + 2))
    field = F.interpolate(torch.from_numpy(coarse), (rows, columns), mode="bicubic").flatten()
    gone = torch.zeros(rows * columns, dtype=torch.bool)
    gone[field.argsort()[: round(share * rows * columns)]] = True
    return gone.view(rows, columns)


PASSES: dict[str, Prediction] = {
    "plain": plain,
    "guided": guided,
    "d4": d4,
    "void30": without_heights(0.3),
    "void100": without_heights(1.0),
}


def score(
    network: Network,
    study: Study,
    fold: int,
    tileset: TileSet,
    passes: list[str],
    device: torch.device,
) -> dict[str, Any]:
    """Score some passes on the strip of a fold; the plain one on sparse labels, too."""
    ground = Tiles(study.tiles(fold), tileset, "validation")
    other = _sparse_labels(study, fold)
    found = {name: Confusion(len(tileset.classes)) for name in passes}
    if other:
        found["sparse"] = Confusion(len(tileset.classes))
    side = 8 if device.type == "cuda" else 1
    order = [SampleKey(i, 0) for i in range(len(ground))]
    keys = [order[i : i + side] for i in range(0, len(order), side)]
    network.eval()
    with torch.inference_mode(), mixed(device):
        for batch, names in zip(ground.batches(keys, device), keys, strict=True):
            labels = batch.labels.cpu().numpy()
            for name in passes:
                answer = PASSES[name](network, batch, names[0].tile).argmax(dim=1).cpu().numpy()
                found[name].add(labels, answer)
                if name == "plain" and other:
                    empty = np.full(labels.shape[1:], NODATA, np.uint8)
                    here = [other.get(ground.tiles[k.tile].name, empty) for k in names]
                    found["sparse"].add(np.stack(here), answer)
    return {name: _as_json(confusion, tileset) for name, confusion in found.items()}


def _as_json(confusion: Confusion, tileset: TileSet) -> dict[str, Any]:
    result = compute_scores(confusion, tileset.classes).as_json()
    classes: Any = result["classes"]
    return {
        "miou": _rounded(result["miou"]),
        "overall_accuracy": _rounded(result["overall_accuracy"]),
        "iou": {name: _rounded(values["iou"]) for name, values in classes.items()},
        "confusion": result["confusion"],
    }


def _rounded(value: Any) -> float | None:
    return None if value is None else round(value, 5)


def _sparse_labels(study: Study, fold: int) -> dict[str, NDArray[np.uint8]]:
    folder = study.tiles(fold, "_sparse")
    if not folder.exists():
        return {}
    tileset = load_tileset(folder)
    reader = TileReader(folder, tileset)
    return {tile.name: reader.read(tile)[1] for tile in tileset.of("validation")}
