"""Pictures for people: training curves, and a scene beside its map."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LightSource
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.patches import Patch as Swatch
from numpy.typing import NDArray

from cafe_cli.classes import NODATA, ClassTable
from cafe_cli.system.atomic_write import replacing

_WRONG, _RIGHT, _UNKNOWN = (
    np.array(rgb, np.uint8) for rgb in ((215, 25, 28), (247, 247, 247), (176, 176, 176))
)
_GAP = 4  # pixels between pictures in a row


def draw_scene(
    image: NDArray[np.generic],
    height: NDArray[np.float32],
    maps: Mapping[str, NDArray[np.uint8]],
    classes: ClassTable,
    path: Path,
) -> None:
    """Draw image, height and label maps side by side, with a legend.

    Parameters
    ----------
    image : ndarray, (bands, height, width)
    height : ndarray of float32, (height, width)
        Metres, NaN where there is none.
    maps : dict of ndarray of uint8, (height, width)
        Class ids by title.
    """
    panels = 2 + len(maps)
    rows, columns = image.shape[1:]
    shape = min(max(rows / columns, 0.2), 5)  # a narrow strip is still to be seen
    figure = Figure(figsize=(4.2 * panels, 4.2 * shape + 1), layout="constrained")
    axes = figure.subplots(1, panels, squeeze=False)[0]
    axes[0].imshow(to_rgb(image))
    axes[0].set_title("orthophoto")
    axes[1].imshow(shade(height))
    axes[1].set_title("height above ground")
    for panel, (title, labels) in zip(axes[2:], maps.items(), strict=True):
        panel.imshow(classes.paint(labels), interpolation="nearest")
        panel.set_title(title)
    for panel in axes:
        panel.set_axis_off()
    swatches = [Swatch(facecolor=c.color, edgecolor="#555555", label=c.name) for c in classes]
    widest = 0.6 + 0.1 * max(map(len, classes.names))  # inches
    fit = min(max(int(4.2 * panels / widest), 1), len(classes))
    figure.legend(handles=swatches, loc="outside lower center", ncols=fit, frameon=False)
    save_figure(figure, path)


def to_rgb(image: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Stretch the first three bands (or the only one) from their 1st to 99th percentile."""
    bands = image[:3] if len(image) >= 3 else np.repeat(image[:1], 3, axis=0)
    if bands.dtype == np.uint8:
        return np.moveaxis(bands.astype(np.uint8), 0, -1)
    low, high = np.nanpercentile(bands.astype(np.float64), (1, 99))
    scaled = (bands.astype(np.float64) - low) / max(high - low, 1e-9)
    stretched: NDArray[np.uint8] = (np.nan_to_num(scaled).clip(0, 1) * 255).astype(np.uint8)
    return np.moveaxis(stretched, 0, -1)


def shade(height: NDArray[np.float32]) -> NDArray[np.float64]:
    """Colour heights and shade their slopes: (height, width, 3 or 4)."""
    known = np.isfinite(height)
    if not known.any() or min(height.shape) < 2:  # a single row has no slope
        return np.full((*height.shape, 3), 0.8)
    low, high = np.percentile(height[known], (1, 99))
    filled = np.where(known, height, low)
    light = LightSource(azdeg=315, altdeg=45)
    rgb: NDArray[np.float64] = light.shade(
        filled, cmap=colormaps["viridis"], vmin=low, vmax=max(high, low + 1), blend_mode="soft"
    )
    rgb[~known] = 1.0
    return rgb


def error_map(truth: NDArray[np.uint8], predicted: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Draw what is wrong: (height, width, 3), red where it is, grey without a label, else white."""
    known = (truth != NODATA)[..., None]
    wrong = (truth != predicted)[..., None]
    picture: NDArray[np.uint8] = np.select([known & wrong, known], [_WRONG, _RIGHT], _UNKNOWN)
    return picture


def side_by_side(pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Put pictures (height, width, 3) of one height into a row, with white between them."""
    gap = np.full((len(pictures[0]), _GAP, 3), 255, np.uint8)
    parts = [part for picture in pictures for part in (gap, picture)]
    return np.concatenate(parts[1:], axis=1)


def encode(picture: NDArray[np.uint8], kind: Literal["png", "jpeg"]) -> bytes:
    """Return a picture (height, width, 3) as a file: ``png`` for maps, ``jpeg`` for photographs."""
    file = io.BytesIO()
    options = {"quality": 80} if kind == "jpeg" else {"optimize": True}
    imsave(file, picture, format=kind, pil_kwargs=options)
    return file.getvalue()


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG."""
    FigureCanvasAgg(figure)
    with replacing(path) as beside:
        figure.savefig(beside, dpi=110, format="png")
