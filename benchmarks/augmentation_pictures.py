"""The picture of docs/augmentation.md: a tile of the sample town under each augmentation.

``python benchmarks/augmentation_pictures.py [OUTDIR]`` draws docs/augmentation.png. Each pair shows
the optical image and the heights, shaded, under one augmentation at its default strength, of all
others nothing; a tile is drawn again until the augmentation has changed it clearly.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LightSource
from matplotlib.figure import Figure
from numpy.typing import NDArray

from cafe_cli.config.load import load_config
from cafe_cli.config.schema import AugmentSettings, Config
from cafe_cli.model.inputs import Inputs
from cafe_cli.tilesets.make import tile as make_tileset
from cafe_cli.tilesets.tileset import TileSet
from cafe_cli.training.data.dataset import TileDataset
from cafe_cli.training.data.sampler import SampleKey

ROOT = Path(__file__).parents[1]
COLUMNS = 5
CROP = 96
OPTICAL = (
    "brightness", "color_jitter", "contrast", "gamma", "haze", "saturation", "hue", "grey", "blur",
    "noise", "jpeg", "shadow", "class_light", "optical_dropout",
)  # fmt: skip
BOTH = ("flips", "turns", "scale")
CERTAIN = {"grey", "ground_error", "height_voids", "height_dropout", "optical_dropout"}
"""Probabilities, which are 1 in the picture."""
NOT_SHOWN = ("class_light_of", "valley_dropout")
"""What a picture of a tile of the sample town cannot show."""
OFF_BY_DEFAULT = 0.5
"""What the picture shows of a strength whose default is 0."""


def main() -> None:
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs"
    config = load_config(ROOT / "configs" / "sample.toml", {"scenes.only": ["a"]})
    with tempfile.TemporaryDirectory() as temporary:
        tiles = Path(temporary) / "tiles"
        tileset = make_tileset(config, tiles)
        busy = busiest(tiles, tileset)
        names = [None, *(name for name in AugmentSettings.model_fields if name not in NOT_SHOWN)]
        pairs = [(name or "as it is", sample(tiles, tileset, config, busy, name)) for name in names]
    draw(pairs).savefig(folder / "augmentation.png", dpi=110)


def sample(folder: Path, tileset: TileSet, config: Config, tile: int, name: str | None) -> Inputs:
    """Return a tile under one augmentation: of a few draws the one that changes it most."""
    values = AugmentSettings.off()
    if name:
        values[name] = 1 if name in CERTAIN else getattr(AugmentSettings(), name) or OFF_BY_DEFAULT
    train = config.train.model_copy(update={"crop": CROP})
    changed = config.model_copy(update={"augment": AugmentSettings(**values), "train": train})
    plain = config.model_copy(
        update={"augment": AugmentSettings(**AugmentSettings.off()), "train": train}
    )
    before = TileDataset(folder, tileset, "train", plain)
    after = TileDataset(folder, tileset, "train", changed)
    best, most = None, -1.0
    for seed in range(12):
        inputs, still = (tiles[SampleKey(tile, seed)].inputs for tiles in (after, before))
        change = sum(
            float((a.float() - b.float()).abs().mean()) for a, b in zip(inputs, still, strict=True)
        )
        if change > most:
            best, most = inputs, change
    assert best is not None  # noqa: S101
    return best


def busiest(folder: Path, tileset: TileSet) -> int:
    """Return the number of the tile whose heights vary most."""
    whole = TileDataset(folder, tileset, "train")
    spread = [float(whole[SampleKey(n, 0)].inputs.height.std()) for n in range(len(whole))]
    return int(np.argmax(spread))


def draw(pairs: list[tuple[str, Inputs]]) -> Figure:
    rows = -(-len(pairs) // COLUMNS)
    figure = Figure(figsize=(COLUMNS * 2.3, rows * 1.4), layout="constrained")
    axes = figure.subplots(rows, COLUMNS * 2)
    for ax in axes.flat:
        ax.set_axis_off()
    highest = float(pairs[0][1].height.max())
    for number, (name, inputs) in enumerate(pairs):
        row, column = divmod(number, COLUMNS)
        left, right = axes[row, 2 * column : 2 * column + 2]
        show(
            left, name, inputs.optical.permute(1, 2, 0).numpy() / 255, inputs.optical_valid.numpy()
        )
        height = inputs.height[0].numpy()
        shaded = LightSource().shade(
            height, colormaps["cividis"], vmin=0, vmax=highest, vert_exag=1.0, dx=0.25, dy=0.25,
            blend_mode="soft",
        )[..., :3]  # fmt: skip
        show(right, "", shaded, inputs.height_valid.numpy())
    return figure


def show(ax: Axes, title: str, image: NDArray[np.floating], valid: NDArray[np.bool_]) -> None:
    """Show an image (height, width, 3), white where it is not valid."""
    ax.imshow(np.where(valid[..., None], np.clip(image, 0, 1), 1))
    ax.set_title(title, fontsize=9, loc="left")
    ax.set_axis_on()
    ax.set_xticks([])
    ax.set_yticks([])


if __name__ == "__main__":
    main()
