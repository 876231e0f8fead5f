"""Reference labels as they are scored: class ids by windows, whatever they were delivered as."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np

from cafe_cli.classes import NODATA, ClassTable
from cafe_cli.config.schema import LabelSettings
from cafe_cli.errors import LabelError
from cafe_cli.evaluation.land_cover_map import LandCoverMap
from cafe_cli.raster.grid import Grid, parse_crs
from cafe_cli.raster.mosaic_view import (
    Member,
    covered_share,
    inspect_rasters,
    union_grid,
)
from cafe_cli.raster.reader import image_bands, open_raster
from cafe_cli.raster.warp import enclosing_window
from cafe_cli.raster.window import Window
from cafe_cli.scenes.inspection import SceneInspection
from cafe_cli.scenes.label_coding import Decoded
from cafe_cli.scenes.raster_labels import RasterLabels
from cafe_cli.scenes.scene import open_scene
from cafe_cli.scenes.vector_labels import VectorLabels
from cafe_cli.tilesets.ground import SplitGround
from cafe_cli.vector.layers import is_vector

ReadLabels: TypeAlias = Callable[[Window], Decoded]
"""Reads the class ids of a window of a reference."""

_BLOCK = 1024  # side in pixels of the blocks that are read


@dataclass(frozen=True)
class Reference:
    """Reference labels on a grid.

    Attributes
    ----------
    name : str
        In messages.
    grid : Grid
        The grid that labels and map are read on; every labelled pixel of it counts once.
    windows : list of Window
        Disjoint blocks that hold all labels.
    opened : callable
        Opens the files; the context manager yields the function that reads a window. It can be
        pickled.
    """

    name: str
    grid: Grid
    windows: list[Window]
    opened: Callable[[], AbstractContextManager[ReadLabels]]


def inspect_reference(
    paths: Sequence[str],
    map_: LandCoverMap,
    classes: ClassTable,
    labels: LabelSettings,
    crs: str | None = None,
    *,
    on: Grid | None = None,
) -> Reference:
    """Inspect reference labels as those of a scene: rasters, or vector files on the map's grid.

    Parameters
    ----------
    paths : sequence of str
        Files that are read as one; vector files if any of them is one.
    map_ : LandCoverMap
        The map to be scored.
    classes : ClassTable
    labels : LabelSettings
    crs : str, optional
        CRS of the rasters that have none.
    on : Grid, optional
        Grid to read the labels on; by default that of rasters, and the map's for vectors.

    Raises
    ------
    GridError
        Map and reference do not overlap, or only one has a CRS.
    LabelError
        The rasters have several bands without being colours.
    InputError
        A file is missing, damaged or of the wrong kind.
    """
    more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    name = f"{paths[0]}{more}"
    if any(map(is_vector, paths)):
        grid = map_.grid
        features = VectorLabels.of(paths, grid, labels, map_.name)
        open_features = partial(_open_features, features, classes, labels)
        return Reference(name, grid, blocks_of(map_.members, grid), open_features)
    _check_bands(paths[0], labels)
    members = inspect_rasters(paths, parse_crs(crs), map_.grid, stream="labels")
    grid = on or union_grid(members)
    covered_share(map_.members, name, union_grid(members))
    open_members = partial(_open_rasters, members, grid, classes, labels)
    return Reference(name, grid, blocks_of(members, grid), open_members)


@contextmanager
def _open_features(
    features: VectorLabels, classes: ClassTable, labels: LabelSettings
) -> Iterator[ReadLabels]:
    yield partial(features.read, classes=classes, settings=labels)


@contextmanager
def _open_rasters(
    members: Sequence[Member], grid: Grid, classes: ClassTable, labels: LabelSettings
) -> Iterator[ReadLabels]:
    with closing(RasterLabels(members, grid)) as found:
        yield partial(found.read, classes=classes, settings=labels)


def scene_reference(
    scene: SceneInspection,
    classes: ClassTable,
    labels: LabelSettings,
    ground: SplitGround | None = None,
) -> Reference:
    """Return the labels of a scene on its grid, where its orthophoto has data, as tiles have them.

    Parameters
    ----------
    scene : SceneInspection
    classes : ClassTable
    labels : LabelSettings
    ground : SplitGround, optional
        Labels elsewhere are left out.
    """
    grid = scene.grid
    windows = _cut([grid.extent] if ground is None else ground.scored, grid)
    opened = partial(_open_labels, scene, classes, labels, ground)
    return Reference(f"the labels of scene {scene.files.id}", grid, windows, opened)


@contextmanager
def _open_labels(
    scene: SceneInspection,
    classes: ClassTable,
    labels: LabelSettings,
    ground: SplitGround | None,
) -> Iterator[ReadLabels]:
    def read(window: Window) -> Decoded:
        inside = found.read_valid(window)
        if ground is not None:
            inside &= ground.cover(window)
        decoded = found.read_labels(window, classes, labels)
        return Decoded(np.where(inside, decoded.ids, np.uint8(NODATA)), decoded.tally)

    with open_scene(scene) as found:
        yield read


def _check_bands(path: str, labels: LabelSettings) -> None:
    """Refuse a picture in place of class ids: its red band must not be read as ids."""
    with open_raster(path) as reference:
        bands = image_bands(reference, None)
    if labels.encoding == "ids" and len(bands) != 1:
        raise LabelError(
            f"{path} has {len(bands)} bands, labels given as ids have one; "
            "if they are given as colours, set labels.encoding to 'colors'"
        )


def blocks_of(members: Sequence[Member], grid: Grid) -> list[Window]:
    """Return the blocks of a grid that hold rasters: far-apart sheets have much between them."""
    return _cut([enclosing_window(m.path, m.grid, grid) for m in members], grid)


def _cut(boxes: Sequence[Window], grid: Grid) -> list[Window]:
    """Return the blocks of a grid that boxes touch, row by row."""
    places = set[tuple[int, int]]()
    for box in boxes:
        inside = box.intersection(grid.extent)
        if inside is None:
            continue
        rows = range(inside.row // _BLOCK, (inside.bottom - 1) // _BLOCK + 1)
        columns = range(inside.col // _BLOCK, (inside.right - 1) // _BLOCK + 1)
        places |= {(row, column) for row in rows for column in columns}
    whole = [Window(c * _BLOCK, r * _BLOCK, _BLOCK, _BLOCK) for r, c in sorted(places)]
    return [part for window in whole if (part := window.intersection(grid.extent))]
