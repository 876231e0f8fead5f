"""Validation tiles as pictures: image, height, labels, prediction, errors."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyogrio.errors
import pyogrio.raw
import shapely
import torch
from numpy.typing import NDArray

from cafe_cli.classes import ClassTable
from cafe_cli.model.cafe import CaFE
from cafe_cli.model.inputs import to_tensors
from cafe_cli.plotting import error_map, shade, side_by_side, to_rgb
from cafe_cli.scenes.scene import Patch
from cafe_cli.tilesets.tile_rasters import TileReader
from cafe_cli.tilesets.tileset import Tile, TileSet

_WATCHED = 4  # tiles
_TIMES = 12  # per run, at which pictures are drawn
_SIDE = 256  # largest side of a picture in pixels
_WHITE = np.uint8(255)


def choose_watched(tiles: int, processes: int = 1) -> tuple[int, ...]:
    """Return the numbers of a few tiles, spread evenly over those of rank 0."""
    own = range(0, tiles, processes)
    count = min(_WATCHED, len(own))
    return tuple(own[(2 * i + 1) * len(own) // (2 * count)] for i in range(count))


def is_due(epoch: int, epochs: int) -> bool:
    """Whether pictures are drawn after an epoch (the first is 1): about twelve times a run."""
    return epoch in (1, epochs) or epoch % math.ceil(epochs / _TIMES) == 0


@dataclass(frozen=True)
class Example:
    """A tile with its labels and its prediction.

    Attributes
    ----------
    patch : Patch
    truth, predicted : ndarray of uint8, (height, width)
        Class ids; 255 in `truth` where there is no label.
    """

    patch: Patch
    truth: NDArray[np.uint8]
    predicted: NDArray[np.uint8]

    def panels(self, classes: ClassTable) -> dict[str, NDArray[np.uint8]]:
        """Return pictures (rows, columns, 3) of one size by title.

        The pictures are subsampled to at most 256 pixels a side. Nodata is white; a tile without
        any height has no picture of heights.
        """
        rows, columns = map(_subsample, self.truth.shape)
        here = np.ix_(rows, columns)
        known, height = self.patch.height_valid[here], self.patch.height[here]
        image = to_rgb(self.patch.optical[:, rows[:, None], columns])
        pictures = {"image": np.where(self.patch.optical_valid[here][..., None], image, _WHITE)}
        if known.any():
            shaded = shade(np.where(known, height, np.float32(np.nan)))
            pictures["height"] = (shaded[..., :3] * 255).astype(np.uint8)
        return pictures | {
            "truth": classes.paint(self.truth[here]),
            "prediction": classes.paint(self.predicted[here]),
            "errors": error_map(self.truth[here], self.predicted[here]),
        }


def _subsample(count: int) -> NDArray[np.intp]:
    """Return the indices of at most 256 rows or columns, spread evenly over `count`."""
    kept = min(count, _SIDE)
    return np.arange(kept) * count // kept


def draw_strips(
    folder: Path, tileset: TileSet, predictions: Mapping[int, NDArray[np.uint8]]
) -> dict[str, NDArray[np.uint8]]:
    """Return the pictures of validation tiles, each a strip (rows, columns, 3), by tile name.

    Parameters
    ----------
    folder : Path
        Folder of the tile set.
    tileset : TileSet
    predictions : dict of ndarray of uint8, (height, width)
        Class ids, by the index of the tile among the validation tiles.
    """
    strips, tiles = {}, tileset.of("validation")
    with TileReader(folder, tileset) as reader:
        for number, predicted in sorted(predictions.items()):
            example = Example(*reader.read(tiles[number]), predicted)
            panels = example.panels(tileset.classes)
            strips[tiles[number].name] = side_by_side(list(panels.values()))
    return strips


def predict_tiles(
    folder: Path, tileset: TileSet, tiles: Sequence[Tile], network: CaFE
) -> Iterator[Example]:
    """Read and predict tiles one by one, on the device of the network."""
    device = network.eval().optical_mean.device
    with TileReader(folder, tileset) as reader, torch.inference_mode():
        for tile in tiles:
            patch, truth = reader.read(tile)
            inputs = (part[None].to(device) for part in to_tensors(*patch))
            ids = network(*inputs).argmax(dim=1)[0]
            yield Example(patch, truth, ids.cpu().numpy().astype(np.uint8))


def read_centres(folder: Path) -> tuple[str, dict[str, tuple[float, float]]]:
    """Return the CRS of ``index.gpkg`` of a tile set, and the centre (x, y) of each tile by name.

    Both are empty without an index, which a tile set may lack.
    """
    try:
        info, _, outlines, columns = pyogrio.raw.read(folder / "index.gpkg", columns=["name"])
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError):
        return "", {}
    points = shapely.get_coordinates(shapely.centroid(shapely.from_wkb(outlines)))
    return info["crs"] or "", dict(zip(columns[0], map(tuple, points.tolist()), strict=True))
