"""Draw scenes and label maps; legends and PNG files of all figures."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib import colormaps
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LightSource
from matplotlib.figure import Figure
from matplotlib.image import imsave
from matplotlib.patches import Patch as Swatch
from numpy.typing import NDArray

from cafe_cli.classes import NODATA, ClassTable
from cafe_cli.system.atomic_write import replace_atomically

_WRONG, _RIGHT, _UNKNOWN = (
    np.array(rgb, np.uint8) for rgb in ((215, 25, 28), (247, 247, 247), (176, 176, 176))
)
_GAP = 4  # pixels between pictures in a row
_PANEL = 4.2  # width of a panel in inches


def draw_scene(
    image: NDArray[np.generic],
    height: NDArray[np.float32],
    maps: Mapping[str, NDArray[np.uint8]],
    classes: ClassTable,
    path: Path,
) -> None:
    """Write a PNG of image, heights and label maps side by side, with a legend.

    Parameters
    ----------
    image : ndarray, (bands, height, width)
    height : ndarray of float32, (height, width)
        Metres, NaN where there is none.
    maps : dict of ndarray of uint8, (height, width)
        Class ids by title.
    classes : ClassTable
    path : Path

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    pictures = {"orthophoto": to_rgb(image), "height above ground": shade(height)}
    pictures |= {title: classes.paint(labels) for title, labels in maps.items()}
    rows, columns = image.shape[1:]
    aspect = min(max(rows / columns, 0.2), 5)  # narrow strips stay visible
    width = _PANEL * len(pictures)
    figure = Figure(figsize=(width, _PANEL * aspect + 1), layout="constrained")
    panels = figure.subplots(1, len(pictures), squeeze=False)[0]
    for panel, (title, picture) in zip(panels, pictures.items(), strict=True):
        panel.imshow(picture, interpolation="nearest" if title in maps else None)
        panel.set_title(title, parse_math=False)
        panel.set_axis_off()
    handles = [Swatch(facecolor=c.color, edgecolor="#555555") for c in classes]
    entry = 0.6 + 0.1 * max(map(len, classes.names))  # inches
    fit = min(max(int(width / entry), 1), len(classes))
    add_legend(figure, handles, classes.names, loc="outside lower center", ncols=fit, frameon=False)
    save_figure(figure, path)


def add_legend(
    owner: Axes | Figure, handles: Sequence[Artist], names: Sequence[str], **options: Any
) -> None:
    """Add a legend that shows names as they are, with options of matplotlib's `legend`.

    matplotlib itself would set ``$...$`` as mathematics and leave out names that begin with ``_``.
    """
    legend = owner.legend(handles, ["name"] * len(names), **options)
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_parse_math(False)
        text.set_text(name)


def to_rgb(image: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Return the first three bands, or the first one in grey, as 8-bit RGB (height, width, 3).

    uint8 is not changed; other types are stretched from their 1st to their 99th percentile.
    """
    bands = image[:3] if len(image) >= 3 else np.repeat(image[:1], 3, axis=0)
    if bands.dtype == np.uint8:
        return np.moveaxis(bands.astype(np.uint8), 0, -1)
    low, high = np.nanpercentile(bands.astype(np.float64), (1, 99))
    scaled = (bands.astype(np.float64) - low) / max(high - low, 1e-9)
    stretched: NDArray[np.uint8] = (np.nan_to_num(scaled).clip(0, 1) * 255).astype(np.uint8)
    return np.moveaxis(stretched, 0, -1)


def shade(height: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return heights (height, width; NaN where unknown) as a hillshade in colour.

    Returns
    -------
    ndarray of float64, (height, width, 3 or 4)
        RGB or RGBA from 0 to 1; white where the height is unknown, grey where no slope exists.
    """
    known = np.isfinite(height)
    if not known.any() or min(height.shape) < 2:  # one row or column has no slope
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
    """Return RGB (height, width, 3): red where the prediction is wrong, grey without a label."""
    known = (truth != NODATA)[..., None]
    wrong = (truth != predicted)[..., None]
    picture: NDArray[np.uint8] = np.select([known & wrong, known], [_WRONG, _RIGHT], _UNKNOWN)
    return picture


def side_by_side(pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Join pictures (height, width, 3) of one height into a row, with white gaps."""
    gap = np.full((len(pictures[0]), _GAP, 3), 255, np.uint8)
    parts = [part for picture in pictures for part in (gap, picture)]
    return np.concatenate(parts[1:], axis=1)


def encode(picture: NDArray[np.uint8], kind: Literal["png", "jpeg"]) -> bytes:
    """Encode a picture (height, width, 3); ``png`` suits maps, ``jpeg`` photographs."""
    file = io.BytesIO()
    options = {"quality": 80} if kind == "jpeg" else {"optimize": True}
    imsave(file, picture, format=kind, pil_kwargs=options)
    return file.getvalue()


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG."""
    FigureCanvasAgg(figure)
    with replace_atomically(path) as temporary:
        figure.savefig(temporary, dpi=110, format="png")
