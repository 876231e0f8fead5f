"""Optical image, height and labels on one grid: what tile, train and predict all read through.

A scene has the grid of its optical raster. Heights (bilinear) and labels (nearest) are brought onto
it while they are read, whatever CRS, resolution and extent they were delivered in, in however many
files.
"""

import functools
import logging
from collections.abc import Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, Resampling
from rasterio.io import DatasetReader

from cafe_cli.classes import ClassTable
from cafe_cli.config.schema import HeightSettings, LabelSettings
from cafe_cli.errors import BandError, InputError
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.mosaic_view import (
    Member,
    MosaicView,
    covered_share,
    inspect_rasters,
    parse_crs,
    union_grid,
)
from cafe_cli.raster.reader import image_bands, open_raster, shows_an_image
from cafe_cli.raster.window import Window
from cafe_cli.scenes.discovery import SceneFiles
from cafe_cli.scenes.heights import (
    GroundSurface,
    HeightReader,
    check_heights,
    ground_below,
    ground_source,
)
from cafe_cli.scenes.label_coding import Decoded, decode
from cafe_cli.scenes.vector_labels import VectorLabels
from cafe_cli.system.atomic_write import stamps
from cafe_cli.vector.features import is_vector, warn_once

log = logging.getLogger("cafe")


class Patch(NamedTuple):
    """One window of a scene, as arrays; `cafe_cli.model.inputs.Inputs` has the same as tensors.

    Attributes
    ----------
    optical : ndarray, (bands, height, width), the raster's dtype
    optical_valid : ndarray of bool, (height, width)
    height : ndarray of float32, (height, width)
        Metres, above ground unless the settings say otherwise; 0 where not valid.
    height_valid : ndarray of bool, (height, width)
    """

    optical: NDArray[np.generic]
    optical_valid: NDArray[np.bool_]
    height: NDArray[np.float32]
    height_valid: NDArray[np.bool_]

    def at(self, part: tuple[slice, slice]) -> "Patch":
        """Return a part of it, (rows, columns), without a copy."""
        return Patch(
            self.optical[:, *part],
            self.optical_valid[part],
            self.height[part],
            self.height_valid[part],
        )


class Scene:
    """Open rasters of one scene. Not to be shared between threads: each opens its own.

    Attributes
    ----------
    files : SceneFiles
    grid : Grid
        That of the optical raster.
    bands : tuple of int
        Bands read from the optical raster, from 1.
    dtype : str
        Data type of the optical bands.
    band_names : tuple of str
        Description of each band, or its colour, or its number.
    """

    def __init__(self, files: SceneFiles, optical: MosaicView, grid: Grid, kind: "_Kind") -> None:
        self.files = files
        self.grid = grid
        self.bands, self.dtype, self.band_names = kind.bands, kind.dtype, kind.names
        self._optical = optical
        self._heights: HeightReader | None = None
        self._labels: MosaicView | VectorLabels | None = None
        self._members = [*kind.members]
        # Several rasters may leave gaps between them.
        self._lacks_data = len(kind.members) > 1 or kind.members[0].masked

    @property
    def block(self) -> int:
        """Width in pixels of the largest blocks that a raster of the scene is stored in."""
        return max(member.block for member in self._members)

    @property
    def optical_block(self) -> tuple[int, int]:
        """Width and height in pixels of the blocks that the optical raster is stored in."""
        return self._members[0].block, self._members[0].block_rows

    @property
    def has_height(self) -> bool:
        """Whether the scene has a height raster."""
        return self._heights is not None

    @property
    def has_labels(self) -> bool:
        """Whether the scene has labels."""
        return self._labels is not None

    @property
    def ground_source(self) -> str:
        """Where the ground below the heights comes from: ``dtm``, ``estimate`` or ``none``."""
        return self._heights.source if self._heights else "none"

    def read(self, window: Window) -> Patch:
        """Read a window; what lies beyond the rasters is not valid."""
        optical, valid = self._optical.read(window)
        if optical.dtype.kind == "f":
            valid &= np.isfinite(optical).all(axis=0)
        return Patch(optical, valid, *self._read_height(window))

    def read_valid(self, window: Window) -> NDArray[np.bool_]:
        """Read where the optical raster has data, (height, width)."""
        inside = window.intersection(self.grid.extent)
        if inside == window and not self._lacks_data:
            return np.ones((window.height, window.width), bool)
        return self._optical.read(window)[1]

    def read_labels(self, window: Window, classes: ClassTable, settings: LabelSettings) -> Decoded:
        """Read the class ids of a window.

        Raises
        ------
        InputError
            The scene has no labels.
        """
        if self._labels is None:
            raise InputError(f"scene {self.files.id} has no labels")
        if isinstance(self._labels, VectorLabels):
            return self._labels.read(window, classes, settings)
        return decode(*self._labels.read(window), classes, settings)

    def _read_height(self, window: Window) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        if self._heights is None:
            shape = (window.height, window.width)
            return np.zeros(shape, np.float32), np.zeros(shape, bool)
        return self._heights.read(window)


@dataclass(frozen=True)
class _Kind:
    """What the optical bands are."""

    members: list[Member]
    bands: tuple[int, ...]
    dtype: str
    names: tuple[str, ...]


@contextmanager
def open_scene(
    files: SceneFiles,
    settings: HeightSettings,
    bands: tuple[int, ...] | None = None,
    *,
    labels: LabelSettings | None = None,
    ground: GroundSurface | None = None,
    gsd: float | None = None,
    crs: str | None = None,
) -> Iterator[Scene]:
    """Open the rasters of a scene and check that they belong together.

    Parameters
    ----------
    files : SceneFiles
        What to open; without `elevation` every height is invalid.
    settings : HeightSettings
        What the height raster holds.
    bands : tuple of int, optional
        Bands of the optical raster from 1; all but alpha if None.
    labels : LabelSettings, optional
        Layer and attribute of vector labels.
    ground : Ground, optional
        From `estimate_scene_ground`, to open a scene several times; estimated when the first
        heights are read if None.
    gsd : float, optional
        Resample the scene to this ground sampling distance in metres.
    crs : str, optional
        Of rasters that do not say theirs.

    Raises
    ------
    InputError
        A file that is missing or unreadable, heights that cannot be (undeclared nodata).
    BandError
        A band the optical raster does not have.
    GridError
        A CRS on one side only, or no overlap.
    ConfigError
        A CRS that means nothing, a ground from a terrain model that is not there.
    """
    assumed = parse_crs(crs)
    members = inspect_rasters(files.optical, assumed)
    kind = _kind(members, bands)
    native = grid = union_grid(members)
    resampling = Resampling.bilinear
    if gsd is not None:
        factor = gsd / grid.gsd
        grid = grid.rescaled(factor)
        resampling = Resampling.average if factor > 1 else Resampling.bilinear
    with ExitStack() as stack:
        optical = MosaicView(members, grid, resampling, bands=kind.bands)
        stack.callback(optical.close)
        scene = Scene(files, optical, grid, kind)
        if files.elevation:
            surface = _partner(files.elevation, scene, native, assumed)
            terrain = _partner(files.dtm, scene, native, assumed) if files.dtm else []
            scene._heights = HeightReader(stack, surface, terrain, grid, settings, ground)
        if files.labels:
            scene._labels = _open_labels(stack, scene, native, assumed, labels or LabelSettings())
        yield scene


def estimate_scene_ground(
    files: SceneFiles, settings: HeightSettings, crs: str | None = None
) -> GroundSurface | None:
    """Estimate the ground below a scene once, where the settings ask for it."""
    if not files.elevation or ground_source(settings, bool(files.dtm)) != "estimate":
        return None
    assumed = parse_crs(crs)
    grid = union_grid(inspect_rasters(files.optical, assumed))
    surface = inspect_rasters(files.elevation, assumed, grid)
    check_heights(surface, settings)
    return ground_below(surface, grid, settings)


def _kind(members: list[Member], bands: tuple[int, ...] | None) -> _Kind:
    path = members[0].path
    with open_raster(path) as optical:
        chosen = image_bands(optical, bands)
        if not chosen:
            raise BandError(f"{path} has no band besides alpha")
        if bands is None:
            _check_alpha(optical)
        about = [(b, optical.descriptions[b - 1], optical.colorinterp[b - 1].name) for b in chosen]
        plain = ("undefined", "gray", "palette", "alpha")
        names = tuple(text or (f"band {b}" if kind in plain else kind) for b, text, kind in about)
        dtype = np.result_type(*(optical.dtypes[b - 1] for b in chosen)).name
        return _Kind(members, chosen, dtype, names)


def _partner(paths: Sequence[str], scene: Scene, native: Grid, crs: CRS | None) -> list[Member]:
    """Look at heights or labels; `native` is the grid of the image as it was delivered."""
    members = inspect_rasters(paths, crs, native)
    share = covered_share(members, scene.files.name, scene.grid)
    if share < 0.995:
        more = f" and {len(paths) - 1} more cover" if len(paths) > 1 else " covers"
        warn_once(f"{paths[0]}{more} {100 * share:.1f} % of {scene.files.name}")
    scene._members += members
    return members


def _open_labels(
    stack: ExitStack, scene: Scene, native: Grid, crs: CRS | None, settings: LabelSettings
) -> MosaicView | VectorLabels:
    paths = scene.files.labels
    if any(map(is_vector, paths)):
        known = (*stamps(paths).items(),)
        return _vector_labels(paths, known, scene.grid, settings, scene.files.name)
    labels = MosaicView(_partner(paths, scene, native, crs), scene.grid, Resampling.nearest)
    stack.callback(labels.close)
    return labels


def _check_alpha(optical: DatasetReader) -> None:
    """Warn of a fourth band, infrared mostly, that GDAL has marked as alpha."""
    for band, kind in enumerate(optical.colorinterp, start=1):
        if kind == ColorInterp.alpha and shows_an_image(optical, band):
            warn_once(
                f"band {band} of {optical.name} is marked as alpha and taken for a mask, but looks "
                "like an image; to use it, name the bands (--bands or scenes.bands)"
            )


@functools.lru_cache(maxsize=4)
def _vector_labels(
    paths: tuple[str, ...], known: Hashable, grid: Grid, settings: LabelSettings, name: str
) -> VectorLabels:
    """Read vector labels once for all threads, until the files change."""
    return VectorLabels.of(paths, grid, settings, name)
