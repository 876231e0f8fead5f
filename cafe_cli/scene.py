"""Optical image, height and labels on one grid: what tile, train and predict all read through.

A scene has the grid of its optical raster. Heights (bilinear) and labels (nearest) are brought onto
it while they are read, whatever CRS, resolution and extent they were delivered in.
"""

import functools
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, Resampling
from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT

from cafe_cli import raster
from cafe_cli.classes import ClassTable
from cafe_cli.config import HeightSettings, LabelSettings
from cafe_cli.errors import BandError, InputError
from cafe_cli.grid import Grid, check_overlap
from cafe_cli.heights import Ground, Heights, estimates_ground, ground_below
from cafe_cli.labels import Decoded, decode
from cafe_cli.pairing import SceneFiles
from cafe_cli.windows import Window

log = logging.getLogger("cafe")


@dataclass(frozen=True)
class Patch:
    """One window of a scene.

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


class Scene:
    """Open rasters of one scene. Not to be shared between threads: each opens its own.

    Attributes
    ----------
    files : SceneFiles
    grid : Grid
        That of the optical raster.
    bands : tuple of int
        Bands read from the optical raster, from 1.
    has_height, has_labels : bool
    """

    def __init__(
        self,
        files: SceneFiles,
        optical: DatasetReader | WarpedVRT,
        bands: tuple[int, ...],
        grid: Grid,
    ) -> None:
        self.files = files
        self.grid = grid
        self.bands = bands
        self._optical = optical
        self._heights: Heights | None = None
        self._labels: WarpedVRT | None = None

    @property
    def has_height(self) -> bool:
        """Whether the scene has a height raster."""
        return self._heights is not None

    @property
    def has_labels(self) -> bool:
        """Whether the scene has labels."""
        return self._labels is not None

    @property
    def dtype(self) -> str:
        """Data type of the optical bands."""
        return np.result_type(*(self._optical.dtypes[b - 1] for b in self.bands)).name

    @property
    def band_names(self) -> tuple[str, ...]:
        """Description of each band, or its colour, or its number."""
        about = [
            (b, self._optical.descriptions[b - 1], self._optical.colorinterp[b - 1].name)
            for b in self.bands
        ]
        plain = ("undefined", "gray", "palette", "alpha")
        return tuple(text or (f"band {b}" if kind in plain else kind) for b, text, kind in about)

    def read(self, window: Window) -> Patch:
        """Read a window; what lies beyond the rasters is not valid."""
        optical, valid = self._read_optical(window)
        height, height_valid = self._read_height(window)
        return Patch(optical, valid, height, height_valid)

    def read_labels(self, window: Window, classes: ClassTable, settings: LabelSettings) -> Decoded:
        """Read the class ids of a window.

        Raises
        ------
        InputError
            The scene has no labels.
        """
        if self._labels is None:
            raise InputError(f"scene {self.files.id} has no labels")
        raw, valid = raster.read_aligned(self._labels, window)
        return decode(raw, valid, classes, settings)

    def _read_optical(self, window: Window) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        optical = raster.read(self._optical, window, self.bands)
        if isinstance(self._optical, WarpedVRT):
            alpha = raster.read(self._optical, window, [raster.mask_band(self._optical)])
            valid = alpha[0] > 0
        else:
            valid = raster.read_valid(self._optical, window, self.bands)
        if optical.dtype.kind == "f":
            valid &= np.isfinite(optical).all(axis=0)
        return optical, valid

    def _read_height(self, window: Window) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        if self._heights is None:
            shape = (window.height, window.width)
            return np.zeros(shape, np.float32), np.zeros(shape, bool)
        return self._heights.read(window)

    def _add_height(
        self, stack: ExitStack, settings: HeightSettings, ground: Ground | None
    ) -> None:
        path = self.files.elevation or ""
        surface = stack.enter_context(raster.open_raster(path))
        _check_covers(path, surface, self)
        self._heights = Heights.of(stack, surface, self.grid, settings, ground)

    def _add_labels(self, stack: ExitStack) -> None:
        path = self.files.labels or ""
        labels = stack.enter_context(raster.open_raster(path))
        _check_covers(path, labels, self)
        view = raster.aligned(labels, self.grid, Resampling.nearest)
        self._labels = stack.enter_context(view)


@contextmanager
def open_scene(
    files: SceneFiles,
    settings: HeightSettings,
    bands: tuple[int, ...] | None = None,
    *,
    ground: Ground | None = None,
    gsd: float | None = None,
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
    ground : Ground, optional
        From `estimate_scene_ground`, to open a scene several times; estimated here if None.
    gsd : float, optional
        Resample the scene to this ground sampling distance in metres.

    Raises
    ------
    InputError
        A file that is missing or unreadable, heights that cannot be (undeclared nodata).
    BandError
        A band the optical raster does not have.
    GridError
        A CRS on one side only, or no overlap.
    """
    with ExitStack() as stack:
        optical = stack.enter_context(raster.open_raster(files.optical))
        chosen = raster.image_bands(optical, bands)
        if not chosen:
            raise BandError(f"{files.optical} has no band besides alpha")
        if bands is None:
            _check_alpha(optical)
        source: DatasetReader | WarpedVRT = optical
        grid = Grid.of(optical)
        if gsd is not None:
            factor = gsd / grid.gsd
            grid = grid.rescaled(factor)
            kind = Resampling.average if factor > 1 else Resampling.bilinear
            source = stack.enter_context(raster.aligned(optical, grid, kind))
        scene = Scene(files, source, chosen, grid)
        if files.elevation is not None:
            scene._add_height(stack, settings, ground)
        if files.labels is not None:
            scene._add_labels(stack)
        yield scene


def estimate_scene_ground(files: SceneFiles, settings: HeightSettings) -> Ground | None:
    """Estimate the ground below a scene's height raster once, where the settings ask for it."""
    if files.elevation is None or not estimates_ground(settings):
        return None
    return ground_below(files.elevation, settings)


def _check_alpha(optical: DatasetReader) -> None:
    """Warn of a fourth band, infrared mostly, that GDAL has marked as alpha."""
    for band, kind in enumerate(optical.colorinterp, start=1):
        if kind == ColorInterp.alpha and raster.shows_an_image(optical, band):
            _warn_once(
                f"band {band} of {optical.name} is marked as alpha and taken for a mask, but looks "
                "like an image; to use it, name the bands (--bands or scenes.bands)"
            )


def _check_covers(path: str, dataset: DatasetReader, scene: Scene) -> None:
    share = check_overlap(path, Grid.of(dataset), scene.files.optical, scene.grid)
    if share < 0.995:
        _warn_once(f"{path} covers {100 * share:.1f} % of {scene.files.optical}")


@functools.cache
def _warn_once(message: str) -> None:
    """Warn: scenes are opened several times, by several threads."""
    log.warning(message)
