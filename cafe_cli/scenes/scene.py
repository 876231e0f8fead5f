"""Read the optical image, heights and labels of a scene on one grid.

A scene has the grid of its optical raster. Heights (bilinear) and labels (nearest) are warped to it
while they are read, whatever their CRS, resolution, extent and number of files.
"""

import functools
from collections.abc import Hashable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from cafe_cli.classes import ClassTable
from cafe_cli.config.schema import LabelSettings
from cafe_cli.errors import InputError
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.mosaic_view import Member, MosaicView
from cafe_cli.raster.window import Window
from cafe_cli.scenes.corrections import CorrectedLabels, read_vector_corrections
from cafe_cli.scenes.height_voids import as_written
from cafe_cli.scenes.heights import HeightReader
from cafe_cli.scenes.image_voids import describe_code, find_far_code
from cafe_cli.scenes.inspection import SceneInspection
from cafe_cli.scenes.label_coding import Decoded
from cafe_cli.scenes.label_values import Key
from cafe_cli.scenes.raster_labels import RasterLabels
from cafe_cli.scenes.scene_ground import SceneGround
from cafe_cli.scenes.vector_labels import VectorLabels
from cafe_cli.system.atomic_write import file_stamps


class Patch(NamedTuple):
    """One window of a scene, as arrays; `cafe_cli.model.inputs.Inputs` has the same as tensors.

    Attributes
    ----------
    optical : ndarray, (bands, height, width), the raster's dtype
    optical_valid : ndarray of bool, (height, width)
    heights : ndarray of float32, (planes, height, width)
        Metres, above ground unless the settings say otherwise, and if they ask for it, metres of
        that ground above the floor of its valley; 0 where not valid.
    height_valid : ndarray of bool, (height, width)
    """

    optical: NDArray[np.generic]
    optical_valid: NDArray[np.bool_]
    heights: NDArray[np.float32]
    height_valid: NDArray[np.bool_]

    @property
    def height(self) -> NDArray[np.float32]:
        """The first plane of the heights, (height, width)."""
        first: NDArray[np.float32] = self.heights[0]
        return first

    def at(self, part: tuple[slice, slice]) -> "Patch":
        """Return a part of the patch, (rows, columns), as views."""
        return Patch(
            self.optical[:, *part],
            self.optical_valid[part],
            self.heights[:, *part],
            self.height_valid[part],
        )


class Scene:
    """The open rasters of one scene. Not to be shared between threads: each thread opens its own.

    Parameters
    ----------
    inspection : SceneInspection
    optical : MosaicView
    heights : HeightReader, optional
    labels : RasterLabels, VectorLabels or CorrectedLabels, optional

    Attributes
    ----------
    inspection : SceneInspection
        Grid, bands and data type among others.
    """

    def __init__(
        self,
        inspection: SceneInspection,
        optical: MosaicView,
        heights: HeightReader | None = None,
        labels: RasterLabels | VectorLabels | CorrectedLabels | None = None,
    ) -> None:
        self.inspection = inspection
        self._optical, self._heights, self._labels = optical, heights, labels
        # A mosaic of several rasters may have gaps, and floating point numbers may be NaN.
        self._lacks_data = (
            len(inspection.optical) > 1
            or inspection.optical[0].masked
            or inspection.optical_nodata is not None
            or np.dtype(inspection.dtype).kind == "f"
        )

    @property
    def grid(self) -> Grid:
        """The grid that everything is read on."""
        return self.inspection.grid

    def read(self, window: Window) -> Patch:
        """Read a window; pixels beyond the rasters are not valid.

        Raises
        ------
        InputError
            Pixels mark voids that nobody declared, or a file is damaged. Where the inspection has
            a `Skipped`, pixels of damaged files, also those of heights, are not valid instead.
        """
        optical, valid = self._read_optical(window)
        if self._heights is None:
            planes = self.inspection.height_planes
            heights = np.zeros((planes, *valid.shape), np.float32)
            return Patch(optical, valid, heights, np.zeros(valid.shape, bool))
        found = self._heights.read_or_skip(window)
        # Without its heights, a pixel would be labelled by a network that was promised them.
        seen = valid if found.skipped is None else valid & ~found.skipped
        return Patch(optical, seen, found.planes(), found.valid)

    def read_valid(self, window: Window) -> NDArray[np.bool_]:
        """Read where the optical raster has data, (height, width)."""
        inside = window.intersection(self.grid.extent)
        if inside == window and not self._lacks_data and not self._ends_in(window):
            return np.ones((window.height, window.width), bool)
        return self._read_optical(window)[1]

    def _ends_in(self, window: Window) -> bool:
        """Whether a window shows the last row or column of a resampled scene: they may be void."""
        if self.grid == self.inspection.native:
            return False
        return window.right == self.grid.width or window.bottom == self.grid.height

    def read_labels(self, window: Window, classes: ClassTable, settings: LabelSettings) -> Decoded:
        """Read the class ids of a window.

        Raises
        ------
        InputError
            The scene has no labels.
        """
        if self._labels is None:
            raise InputError(f"scene {self.inspection.files.id} has no labels")
        return self._labels.read(window, classes, settings)

    def unknown_features(self, classes: ClassTable, settings: LabelSettings) -> list[Key]:
        """Return the values of vector labels that no class has; none of label rasters."""
        if isinstance(self._labels, VectorLabels | CorrectedLabels):
            return self._labels.unknown_values(classes, settings)
        return []

    def _read_optical(self, window: Window) -> tuple[NDArray[np.generic], NDArray[np.bool_]]:
        optical, valid = self._optical.read(window)
        if optical.dtype.kind == "f":
            valid &= np.isfinite(optical).all(axis=0)
        code = find_far_code(optical, valid, self.inspection.optical_span)
        if code is not None:
            raise InputError(
                f"{self.inspection.files.name} has pixels of {as_written(code)}, far from all "
                "other values, that look like undeclared nodata; if they mark voids, "
                f"{describe_code(code, 'FILE')}"
            )
        return optical, valid


@contextmanager
def open_scene(inspection: SceneInspection, ground: SceneGround | None = None) -> Iterator[Scene]:
    """Open the rasters of a scene that was inspected; each thread opens its own.

    Parameters
    ----------
    inspection : SceneInspection
        From `cafe_cli.scenes.inspection.inspect_scene`.
    ground : SceneGround, optional
        From `find_scene_ground`, for a scene that is opened several times; if None, it is computed
        when the first heights are read.

    Raises
    ------
    InputError
        Vector labels cannot be read, or have no feature in the scene.
    GridError
        A raster cannot be warped to the grid.
    """
    grid = inspection.grid
    with ExitStack() as stack:
        optical = MosaicView(
            inspection.optical, grid, inspection.resampling, nodata=inspection.optical_nodata,
            skipped=inspection.skipped,
        )  # fmt: skip
        stack.callback(optical.close)
        heights = None
        if inspection.heights is not None:
            heights = HeightReader(inspection.heights, grid, ground)
            stack.callback(heights.close)
        yield Scene(inspection, optical, heights, _open_labels(stack, inspection))


def find_scene_ground(inspection: SceneInspection) -> SceneGround | None:
    """Compute what the heights of a scene are measured from; None where nothing is needed."""
    heights = inspection.heights
    if heights is None or not needs_ground(inspection):
        return None
    return SceneGround.of(heights, inspection.native)


def needs_ground(inspection: SceneInspection) -> bool:
    """Whether reading the heights of a scene needs what `find_scene_ground` computes."""
    heights = inspection.heights
    if heights is None:
        return False
    return heights.ground == "estimate" or heights.settings.shows_valleys


def _open_labels(
    stack: ExitStack, inspection: SceneInspection
) -> RasterLabels | VectorLabels | CorrectedLabels | None:
    labels = _open_older_labels(stack, inspection)
    if labels is None or not inspection.corrections:
        return labels
    grid, settings, name = inspection.grid, inspection.label_settings, inspection.files.name
    layers: list[RasterLabels | VectorLabels] = []
    for source in inspection.corrections:
        if isinstance(source, str):
            changes = (*file_stamps([source]).items(),)
            layers.append(_vector_corrections(source, changes, grid, settings, name))
        else:
            layers.append(_open_rasters(stack, [source], inspection))
    return CorrectedLabels(labels, layers)


def _open_rasters(
    stack: ExitStack, members: Sequence[Member], inspection: SceneInspection
) -> RasterLabels:
    labels = RasterLabels(members, inspection.grid, inspection.skipped)
    stack.callback(labels.close)
    return labels


def _open_older_labels(
    stack: ExitStack, inspection: SceneInspection
) -> RasterLabels | VectorLabels | None:
    files, grid = inspection.files, inspection.grid
    if inspection.labels:
        return _open_rasters(stack, inspection.labels, inspection)
    if not files.labels:
        return None
    changes = (*file_stamps(files.labels).items(),)
    return _vector_labels(files.labels, changes, grid, inspection.label_settings, files.name)


@functools.lru_cache(maxsize=4)
def _vector_labels(
    paths: tuple[str, ...], changes: Hashable, grid: Grid, settings: LabelSettings, name: str
) -> VectorLabels:
    """Read vector labels once for all threads, until the files change."""
    return VectorLabels.of(paths, grid, settings, name)


@functools.lru_cache(maxsize=16)
def _vector_corrections(
    path: str, changes: Hashable, grid: Grid, settings: LabelSettings, name: str
) -> VectorLabels:
    """Read vector corrections once for all threads, until the file changes."""
    return read_vector_corrections(path, grid, settings, name)
