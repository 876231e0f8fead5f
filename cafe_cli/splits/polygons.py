"""Plan the tiles of a scene whose splits are drawn as polygons."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from cafe_cli.raster.window import Window
from cafe_cli.splits.assign import SPLITS, Split
from cafe_cli.splits.tiling import scoring_windows, training_windows

Geometries: TypeAlias = NDArray[np.object_]

_HELD_OUT: tuple[Split, ...] = ("validation", "test")
_INSET = 0.25  # pixels by which windows shrink: neighbours share an edge, but no pixel


@dataclass(frozen=True)
class PolygonPlan:
    """The tiles of a scene whose splits are drawn as polygons.

    Attributes
    ----------
    windows : dict
        The tiles of each split as (window, scored window). A pixel whose centre lies in a polygon
        of the split is scored by one tile only. A training tile is scored as a whole.
    lost : dict
        For validation and test, the approximate number of pixels in their polygons that no tile
        scores, because the tile would overlap tiles of the other split.
    """

    windows: dict[Split, list[tuple[Window, Window]]]
    lost: dict[Split, int]


def polygon_split(
    geometries: Geometries,
    splits: Sequence[Split | None],
    extent: Window,
    size: int,
    stride: int,
    buffer: int,
    *,
    only_drawn: bool = False,
) -> PolygonPlan:
    """Plan the tiles of a scene whose splits are drawn as polygons.

    The tiles of validation and of test cover their polygons. They may reach beyond them, but a
    validation tile overlaps no test tile: the one that scores fewer pixels is moved or, if it fits
    nowhere, dropped. Training tiles touch no polygon of validation or test, and keep
    `buffer` pixels away from the tiles of both.

    Parameters
    ----------
    geometries : ndarray of shapely geometries, (N,)
        In pixel coordinates of the scene: (column, row), (0, 0) at the corner of its first pixel.
        Points and lines are ignored.
    splits : sequence, N
        None for geometries of no split.
    extent : Window
        The scene.
    size, stride : int
        Side of the tiles; distance from one training tile to the next.
    buffer : int
        Pixels between training tiles and the other tiles.
    only_drawn : bool
        Whether training tiles have to touch a polygon of ``train`` even if this scene has none,
        because other scenes do. On a scene with one they always have to.
    """
    kinds = np.array(splits, object)
    drawn = {s: shapely.STRtree(_polygons(geometries[kinds == s], extent)) for s in SPLITS}
    wanted = _cover(drawn, extent, size)
    kept = _separate_splits(wanted, drawn, extent)
    kept_free = [tile.window.expand(buffer) for tile in kept]
    candidates = list(training_windows(extent, size, stride, kept_free))
    training = _allowed(candidates, drawn, only_drawn or "train" in splits)
    windows: dict[Split, list[tuple[Window, Window]]] = {"train": [(w, w) for w in training]}
    lost: dict[Split, int] = {}
    for split in _HELD_OUT:
        windows[split] = [(tile.window, tile.scored) for tile in kept if tile.split == split]
        before, after = (sum(t.drawn for t in ts if t.split == split) for ts in (wanted, kept))
        lost[split] = round(before - after)
    return PolygonPlan(windows, lost)


@dataclass(frozen=True)
class _Tile:
    """A tile of validation or test; `drawn` is the area, in pixels, of the polygons it scores."""

    split: Split
    window: Window
    scored: Window
    drawn: float


def _polygons(geometries: Geometries, extent: Window) -> Geometries:
    """Return the valid parts of geometries inside the scene, as single polygons."""
    inside = shapely.intersection(shapely.make_valid(geometries), _boxes([extent]))
    parts = shapely.get_parts(shapely.get_parts(inside))
    polygons: Geometries = parts[shapely.area(parts) > 0]
    return polygons


def _boxes(windows: Sequence[Window], inset: float = 0.0) -> Geometries:
    """Return windows as polygons, shrunk by `inset` on every side."""
    edges = np.array([window.bounds for window in windows], float)
    left, top, right, bottom = edges.reshape(-1, 4).T
    boxes: Geometries = shapely.box(left + inset, top + inset, right - inset, bottom - inset)
    return boxes


def _polygon_area(windows: Sequence[Window], tree: shapely.STRtree) -> NDArray[np.float64]:
    """Return the area of polygons in each window, (N,); overlapping polygons all count."""
    boxes = _boxes(windows)
    window, polygon = tree.query(boxes, "intersects")
    shared = shapely.intersection(boxes[window], tree.geometries[polygon])
    return np.bincount(window, shapely.area(shared), len(windows)).astype(float)


def _allowed(
    training: Sequence[Window], drawn: Mapping[Split, shapely.STRtree], only_drawn: bool
) -> list[Window]:
    """Return the training tiles that touch no polygon of validation or test, see `only_drawn`."""
    boxes = _boxes(training, _INSET)
    touch = {
        split: np.bincount(tree.query(boxes, "intersects")[0], minlength=len(training)) > 0
        for split, tree in drawn.items()
    }
    fits = ~(touch["validation"] | touch["test"])
    if only_drawn:
        fits &= touch["train"]
    return list(itertools.compress(training, fits))


def _cover(drawn: Mapping[Split, shapely.STRtree], extent: Window, size: int) -> list[_Tile]:
    """Cover the polygons of validation and those of test; tiles of both may still overlap."""
    frames: dict[Split, list[Window]] = {}
    avoid = drawn["test"]
    for split in _HELD_OUT:
        frames[split] = _frames(_pixel_boxes(drawn[split].geometries), avoid, extent, size)
        avoid = shapely.STRtree(_boxes(frames[split]))
    tiles = []
    for split, windows in frames.items():
        pairs = [pair for frame in windows for pair in scoring_windows(frame, size)]
        areas = _polygon_area([scored for _, scored in pairs], drawn[split]).tolist()
        tiles += [_Tile(split, *pair, area) for pair, area in zip(pairs, areas, strict=True)]
    return [tile for tile in tiles if tile.drawn > 0]


def _pixel_boxes(polygons: Geometries) -> list[Window]:
    """Return the window of the pixel centres in the bounds of each polygon, if there are any."""
    bounds = shapely.bounds(polygons).reshape(-1, 4)
    first = np.ceil(bounds[:, :2] - 0.5).astype(int)
    sides = np.floor(bounds[:, 2:] + 0.5).astype(int) - first
    some = (sides > 0).all(axis=1)
    return [Window(*numbers) for numbers in np.hstack([first, sides])[some].tolist()]


def _frames(boxes: list[Window], avoid: shapely.STRtree, extent: Window, size: int) -> list[Window]:
    """Grow boxes to at least the size of a tile; merge boxes that then overlap."""
    while boxes:
        frames = [_frame(box, avoid, extent, size) for box in boxes]
        tree = shapely.STRtree(_boxes(frames, _INSET))
        pairs = tree.query(tree.geometries, "intersects")
        graph = coo_array((np.ones(len(pairs[0])), pairs), shape=(len(frames), len(frames)))
        count, group = connected_components(graph, directed=False)
        if count == len(frames):
            return frames
        boxes = [Window.hull(list(itertools.compress(boxes, group == g))) for g in range(count)]
    return []


def _frame(box: Window, avoid: shapely.STRtree, extent: Window, size: int) -> Window:
    """Grow a box around its centre, or to one side if it then covers less of `avoid`."""
    cols = _starts(box.col, box.width, size, extent.col, extent.width)
    rows = _starts(box.row, box.height, size, extent.row, extent.height)
    sides = max(box.width, size), max(box.height, size)
    frames = [Window(col, row, *sides) for row in rows for col in cols]
    return frames[int(_polygon_area(frames, avoid).argmin())]


def _starts(first: int, length: int, size: int, start: int, total: int) -> list[int]:
    """Return starts of `size` pixels that contain `length`, inside `total` if they fit."""
    spare = max(size - length, 0)
    last = max(start + total - max(size, length), start)
    return [min(max(first - before, start), last) for before in (spare // 2, 0, spare)]


def _separate_splits(
    tiles: Sequence[_Tile], drawn: Mapping[Split, shapely.STRtree], extent: Window
) -> list[_Tile]:
    """Move or drop tiles until splits share no pixel; tiles that score most keep their place."""
    kept: list[_Tile] = []
    for tile in sorted(tiles, key=lambda tile: -tile.drawn):
        reach = tile.window.expand(tile.window.width)
        others = [k.window for k in kept if k.split != tile.split and k.window.intersection(reach)]
        if any(tile.window.intersection(other) for other in others):
            kept += _relocate(tile, others, drawn[tile.split], extent)
        else:
            kept.append(tile)
    return kept


def _relocate(
    tile: _Tile, others: Sequence[Window], tree: shapely.STRtree, extent: Window
) -> list[_Tile]:
    """Move a tile next to `others`, to where it scores most; return [] if it scores nothing."""
    size = tile.window.width
    cols = {tile.window.col, *(c for o in others for c in (o.col - size, o.right))}
    rows = {tile.window.row, *(r for o in others for r in (o.row - size, o.bottom))}
    places = [
        (place, scored)
        for place in itertools.starmap(
            Window, itertools.product(sorted(cols), sorted(rows), [size], [size])
        )
        if (scored := place.intersection(tile.scored))
        and _fits(place, extent)
        and not any(place.intersection(other) for other in others)
    ]
    areas = _polygon_area([scored for _, scored in places], tree)
    if not areas.any():
        return []
    best = int(areas.argmax())
    return [_Tile(tile.split, *places[best], float(areas[best]))]


def _fits(tile: Window, extent: Window) -> bool:
    """Whether a tile lies inside the scene, or begins at its edge if the scene is smaller."""
    place = tile.relative_to(extent)
    spare = max(extent.width - tile.width, 0), max(extent.height - tile.height, 0)
    return 0 <= place.col <= spare[0] and 0 <= place.row <= spare[1]
