"""Optical image, height and labels on one grid: what tile, train and predict all read through.

A scene has the grid of its optical raster. Heights (bilinear) and labels (nearest) are brought onto
it while they are read, whatever CRS, resolution and extent they were delivered in.
"""

import functools
import glob
import logging
import math
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, Resampling
from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT

from cafe_cli import raster
from cafe_cli.classes import ClassTable
from cafe_cli.config import HeightSettings, LabelSettings, SceneSettings
from cafe_cli.errors import BandError, ConfigError, GridError, InputError
from cafe_cli.grid import Grid, check_overlap
from cafe_cli.ground import GroundFilter, estimate_ground
from cafe_cli.labels import Decoded, decode
from cafe_cli.windows import Window

log = logging.getLogger("cafe")

METRES = {
    "metre": 1.0,
    "foot": 0.3048,
    "us-foot": 1200 / 3937,
    "decimetre": 0.1,
    "centimetre": 0.01,
}
_UNIT_NAMES = {
    "m": "metre", "metre": "metre", "meter": "metre", "metres": "metre", "meters": "metre",
    "ft": "foot", "foot": "foot", "feet": "foot", "us survey foot": "us-foot",
    "us-ft": "us-foot", "ftus": "us-foot", "dm": "decimetre", "cm": "centimetre",
}  # fmt: skip
# Heights on Earth; what lies outside is a void that nobody declared.
_PLAUSIBLE = (-1_000.0, 10_000.0)
_PROBE = 1024  # pixels along each side of the decimated look at a height raster
_MAX_GROUND_CELLS = 100_000_000


@dataclass(frozen=True)
class SceneFiles:
    """The rasters of one scene: any name GDAL opens."""

    id: str
    optical: str
    elevation: str | None = None
    labels: str | None = None


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


@dataclass(frozen=True)
class Ground:
    """The ground surface below a whole height raster: metres, (height, width) on its own grid."""

    surface: NDArray[np.float32]
    grid: Grid


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
        self._surface: WarpedVRT | None = None
        self._ground: WarpedVRT | None = None
        self._labels: WarpedVRT | None = None
        self._metres = 1.0

    @property
    def has_height(self) -> bool:
        """Whether the scene has a height raster."""
        return self._surface is not None

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
        if self._surface is None:
            shape = (window.height, window.width)
            return np.zeros(shape, np.float32), np.zeros(shape, bool)
        values, valid = raster.read_aligned(self._surface, window)
        height = values[0] * np.float32(self._metres)
        valid &= np.isfinite(height)
        if valid.any() and not _plausible(height[valid]):
            raise InputError(
                f"{self.files.elevation} has voids that nobody declared: heights below "
                f"{_PLAUSIBLE[0]:.0f} or above {_PLAUSIBLE[1]:.0f} m; say what marks them with "
                "height.nodata (--height-nodata), or set height.unit"
            )
        if self._ground is not None:
            ground, known = raster.read_aligned(self._ground, window)
            height = height - ground[0]
            valid &= known
        return np.where(valid, height, np.float32(0)), valid

    def _add_height(
        self, stack: ExitStack, settings: HeightSettings, ground: Ground | None
    ) -> None:
        path = self.files.elevation or ""
        surface = stack.enter_context(raster.open_raster(path))
        _check_covers(path, surface, self)
        self._metres = _unit_metres(surface, settings)
        _check_heights(surface, settings, self._metres)
        self._surface = _height_view(stack, surface, self.grid, Resampling.bilinear, settings)
        if settings.kind == "dsm" and settings.ground == "estimate":
            ground = ground or _estimate(stack, surface, settings, self._metres)
            source = stack.enter_context(raster.in_memory(ground.surface, ground.grid))
            view = raster.aligned(source, self.grid, Resampling.bilinear)
            self._ground = stack.enter_context(view)

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
    if files.elevation is None or settings.kind != "dsm" or settings.ground != "estimate":
        return None
    with ExitStack() as stack:
        surface = stack.enter_context(raster.open_raster(files.elevation))
        metres = _unit_metres(surface, settings)
        _check_heights(surface, settings, metres)
        return _estimate(stack, surface, settings, metres)


def find_scenes(settings: SceneSettings, root: str = ".") -> list[SceneFiles]:
    """List the scenes that the patterns of a config name, in the order of their ids.

    Raises
    ------
    InputError
        No file fits the pattern, a scene named in `only` or `exclude` is not there, or a scene
        lacks its elevation or label file.
    ConfigError
        A pattern repeats a placeholder that `optical` does not have.
    """
    matches = _match(settings.optical, root)
    if not matches:
        raise InputError(f"no file fits scenes.optical = {_under(root, settings.optical)}")
    known = {"_".join(m.values()) or _stem(path): (path, m) for path, m in matches.items()}
    for name in (*(settings.only or ()), *settings.exclude):
        if name not in known:
            raise InputError(f"there is no scene {name!r}; found: {', '.join(sorted(known))}")
    wanted = [
        name
        for name in sorted(known)
        if name not in settings.exclude and (settings.only is None or name in settings.only)
    ]
    if not wanted:
        raise InputError("scenes.only and scenes.exclude leave no scene")
    if len(known) < len(matches):
        raise InputError(f"several files that fit scenes.optical = {settings.optical} have one id")
    return [_partners(name, *known[name], settings, root) for name in wanted]


def _partners(
    name: str, optical: str, match: dict[str, str], settings: SceneSettings, root: str
) -> SceneFiles:
    partners: list[str | None] = []
    for key in ("elevation", "labels"):
        pattern: str | None = getattr(settings, key)
        path = pattern and _under(root, _fill(pattern, match))
        if path and "://" not in path and not path.startswith("/vsi") and not os.path.exists(path):
            raise InputError(
                f"scene {name} has no {key}: {path} does not exist; "
                f"correct scenes.{key} or leave the scene out with scenes.exclude"
            )
        partners.append(path)
    return SceneFiles(name, optical, *partners)


_PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)(?::0(\d+))?\}")


def _match(pattern: str, root: str) -> dict[str, dict[str, str]]:
    """Return the files that fit a pattern, with what each placeholder stands for."""
    if not _PLACEHOLDER.search(pattern):
        return {_under(root, pattern): {}}
    expression, seen, end = "", set[str](), 0
    for found in _PLACEHOLDER.finditer(pattern):
        expression += re.escape(pattern[end : found.start()])
        name = found[1]
        expression += f"(?P={name})" if name in seen else f"(?P<{name}>[^/]+?)"
        seen.add(name)
        end = found.end()
    fits = re.compile(expression + re.escape(pattern[end:]))
    candidates = sorted(glob.glob(_PLACEHOLDER.sub("*", glob.escape(pattern)), root_dir=root))
    found_by = {path: fits.fullmatch(path) for path in candidates}
    return {_under(root, path): m.groupdict() for path, m in found_by.items() if m}


def _fill(pattern: str, match: dict[str, str]) -> str:
    def value(found: re.Match[str]) -> str:
        if found[1] not in match:
            raise ConfigError(f"{pattern}: {{{found[1]}}} does not occur in scenes.optical")
        return match[found[1]].zfill(int(found[2] or 0))

    return _PLACEHOLDER.sub(value, pattern)


def _under(root: str, path: str) -> str:
    remote = path.startswith("/vsi") or "://" in path
    return path if remote else os.path.join(root, path)


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]


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


def _unit_metres(surface: DatasetReader, settings: HeightSettings) -> float:
    """Return metres per unit of the heights."""
    if settings.unit != "auto":
        return METRES[settings.unit]
    named = (surface.units[0] or "").strip().lower()
    if named and named not in _UNIT_NAMES:
        raise InputError(
            f"{surface.name} gives its heights in {named!r}, which is no unit known here; "
            f"set height.unit to one of {', '.join(METRES)}"
        )
    return METRES[_UNIT_NAMES.get(named, "metre")]


def _height_view(
    stack: ExitStack,
    surface: DatasetReader,
    grid: Grid,
    resampling: Resampling,
    settings: HeightSettings,
) -> WarpedVRT:
    view = raster.aligned(surface, grid, resampling, nodata=settings.nodata, dtype="float32")
    return stack.enter_context(view)


def _check_heights(surface: DatasetReader, settings: HeightSettings, metres: float) -> None:
    """Refuse heights that cannot be: voids coded as a number that nobody declared."""
    heights = raster.read_decimated(surface, _PROBE, settings.nodata)
    found = heights[np.isfinite(heights)]
    if not found.size:
        raise InputError(f"{surface.name} holds no valid height")
    _check_plausible(surface.name, found * metres, metres)


def _check_plausible(name: str, heights: NDArray[np.floating], metres: float) -> None:
    if heights.size and not _plausible(heights):
        low, high = float(heights.min()), float(heights.max())
        void = _as_written((low if low < _PLAUSIBLE[0] else high) / metres)
        raise InputError(
            f"{name} holds heights from {low:.6g} to {high:.6g} m; if {void} marks voids, say so "
            f"with height.nodata = {void} (--height-nodata), or set height.unit"
        )


def _plausible(heights: NDArray[np.floating]) -> bool:
    return bool(heights.min() >= _PLAUSIBLE[0] and heights.max() <= _PLAUSIBLE[1])


def _as_written(value: float) -> str:
    """Write a number so that it can be given back as nodata: as an integer, or to the last bit."""
    whole = round(value)
    close = math.isclose(value, whole, rel_tol=1e-6)
    return str(whole) if close and abs(whole) < 10**7 else str(np.float32(value))


def _estimate(
    stack: ExitStack, surface: DatasetReader, settings: HeightSettings, metres: float
) -> Ground:
    """Estimate the ground on the lowest heights of coarse cells, over the whole raster."""
    grid = _ground_grid(Grid.of(surface), settings.cell)
    if grid.width * grid.height > _MAX_GROUND_CELLS:
        raise GridError(
            f"{surface.name} has {grid.width} x {grid.height} ground cells of {settings.cell} m, "
            f"more than {_MAX_GROUND_CELLS:,}; raise height.cell or set height.ground = 'none'"
        )
    view = _height_view(stack, surface, grid, Resampling.min, settings)
    values, valid = raster.read_aligned(view, grid.extent)
    valid &= np.isfinite(values[0])
    lowest = np.where(valid, values[0] * np.float32(metres), np.float32(np.nan))
    _check_plausible(surface.name, lowest[valid], metres)
    ground_filter = GroundFilter(
        cell=settings.cell,
        pixel=Grid.of(surface).gsd,
        max_window=settings.max_window,
        slope=settings.slope,
    )
    return Ground(estimate_ground(lowest, ground_filter), grid)


def _ground_grid(grid: Grid, cell: float) -> Grid:
    """Return the coarse grid, one cell larger on every side so that it covers every pixel."""
    if grid.crs is not None and grid.crs.is_geographic:
        zone, south = int((grid.footprint.centroid.x + 180) // 6) + 1, grid.footprint.centroid.y < 0
        utm = CRS.from_epsg((32700 if south else 32600) + min(zone, 60))
        outline = grid.footprint_in(utm)
        return Grid.covering(utm, outline.bounds, cell, margin=1)
    return Grid.covering(grid.crs, grid.bounds, cell / grid.unit_metres, margin=1)
