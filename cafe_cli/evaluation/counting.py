"""Count what maps and a reference hold on the same pixels: in all, by blocks, and by groups."""

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import Resampling

from cafe_cli.classes import NODATA, ClassTable
from cafe_cli.config.schema import HeightSettings, LabelSettings
from cafe_cli.errors import ConfigError
from cafe_cli.evaluation.boundaries import boundary_distance
from cafe_cli.evaluation.land_cover_map import LandCoverMap, MapReader, MapWindow
from cafe_cli.evaluation.metrics import Confusion
from cafe_cli.evaluation.reference import ReadLabels, Reference
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.mosaic_view import Member, MosaicView, covered_share, inspect_rasters
from cafe_cli.raster.window import Window
from cafe_cli.scenes.discovery import expand_inputs
from cafe_cli.scenes.height_rasters import metres_per_unit
from cafe_cli.scenes.label_coding import LabelTally
from cafe_cli.system.batches import Batch, Executor, run_in_threads
from cafe_cli.system.threads import ProgressCallback

_BLOCKS = 100  # about as many blocks as the labelled ground is divided into
_MOST_BLOCKS = 20_000
_TOO_MANY = 1000  # distinct unknown values after which the reference cannot be labels


@dataclass(frozen=True)
class CountSettings:
    """What is counted, and by what it is divided.

    Attributes
    ----------
    ignored : frozenset of int
        Ids of classes whose reference pixels are not counted.
    erode : float
        Reference pixels so near to another class, in pixels, are not counted.
    distances : tuple of float
        Limits of the distance to boundaries by which pixels are grouped, in pixels.
    heights : str or None
        Raster of heights above ground by which pixels are grouped.
    height_limits : tuple of float
        Metres.
    height_settings : HeightSettings
        For the unit of the heights.
    block : int or None
        Side of the blocks of the bootstrap, in pixels; if None, there are about 100 blocks.
    """

    ignored: frozenset[int] = frozenset()
    erode: float = 0
    distances: tuple[float, ...] = ()
    heights: str | None = None
    height_limits: tuple[float, ...] = (0.5, 2, 5, 10, 20)
    height_settings: HeightSettings = field(default_factory=HeightSettings)
    block: int | None = None

    def __post_init__(self) -> None:
        """Check the limits."""
        for name, limits in (("distances", self.distances), ("heights", self.height_limits)):
            if any(b <= a for a, b in pairwise(limits)):
                raise ConfigError(
                    f"limits of {name} must increase: {', '.join(f'{v:g}' for v in limits)}"
                )

    @property
    def margin(self) -> int:
        """Pixels around a window that decide how far its pixels are from boundaries."""
        return math.ceil(max(self.erode, *self.distances, 0))


@dataclass
class Comparison:
    """What a map and a reference hold on the same pixels.

    Attributes
    ----------
    confusion : Confusion
    hidden : ndarray of int64, (K,)
        Labelled pixels per class that the map declares as nodata, see `MapWindow.hidden`.
    tally : LabelTally
        Pixels of the reference by value, or colour, that need a word.
    blocks : dict
        Matrices as in `Confusion` by the row and column of a block, of blocks with labels.
    by_distance, by_height : dict
        Confusion matrices by the name of a group.
    """

    confusion: Confusion
    hidden: NDArray[np.int64]
    tally: LabelTally = field(default_factory=LabelTally)
    blocks: dict[tuple[int, int], NDArray[np.int64]] = field(default_factory=dict)
    by_distance: dict[str, Confusion] = field(default_factory=dict)
    by_height: dict[str, Confusion] = field(default_factory=dict)

    @classmethod
    def empty(cls, classes: int) -> "Comparison":
        """Return a comparison of no pixels."""
        return cls(Confusion(classes), np.zeros(classes, np.int64))

    def add(self, other: "Comparison") -> None:
        """Add the pixels of another comparison of the same map and reference."""
        self.confusion += other.confusion
        self.hidden += other.hidden
        self.tally.add(other.tally)
        for place, counts in other.blocks.items():
            self.blocks[place] = self.blocks.get(place, 0) + counts
        for own, found in (
            (self.by_distance, other.by_distance),
            (self.by_height, other.by_height),
        ):
            for name, matrix in found.items():
                own[name] = own[name] + matrix if name in own else matrix


@dataclass(frozen=True)
class Compared:
    """Maps, and the reference that they are compared with."""

    maps: Sequence[LandCoverMap]
    reference: Reference


def block_side(reference: Reference) -> int:
    """Return a side in pixels that divides the labelled ground into about 100 blocks."""
    pixels = sum(window.width * window.height for window in reference.windows)
    return max(round(math.sqrt(pixels / _BLOCKS)), 1)


def compare_all(
    compared: Sequence[Compared],
    classes: ClassTable,
    labels: LabelSettings,
    settings: CountSettings,
    progress: ProgressCallback = lambda done, total: None,
    run: Executor = run_in_threads,
) -> Iterator[list[Comparison]]:
    """Count the pixels of maps and references; yield a comparison for each map, scene by scene.

    Of several maps, the pixels are counted where all have a class.

    Raises
    ------
    ConfigError
        The blocks are too many.
    GridError
        The heights do not overlap the reference.
    """
    total = sum(len(one.reference.windows) for one in compared)
    done = 0
    for one, counted in zip(compared, run(_batches(compared, classes, settings)), strict=True):
        found = [Comparison.empty(len(classes)) for _ in one.maps]
        for _, parts in counted:
            for whole, part in zip(found, parts, strict=True):
                whole.add(part)
            done += 1
            progress(done, total)
            if labels.encoding == "ids" and len(found[0].tally.unknown) > _TOO_MANY:
                break  # an error in any case: skip the rest
        yield found


def _batches(
    compared: Sequence[Compared], classes: ClassTable, settings: CountSettings
) -> "Iterator[Batch[_Counter, Window, list[Comparison]]]":
    for one in compared:
        side = settings.block or block_side(one.reference)
        _check_blocks(one.reference, side)
        opened = partial(_open, one, classes, replace(settings, block=side))
        yield Batch(opened, _Counter.count, one.reference.windows)


@contextmanager
def _open(compared: Compared, classes: ClassTable, settings: CountSettings) -> "Iterator[_Counter]":
    grid = compared.reference.grid
    with ExitStack() as stack:
        read_labels = stack.enter_context(compared.reference.opened())
        readers = [stack.enter_context(map_.open(grid, classes)) for map_ in compared.maps]
        heights = stack.enter_context(_open_heights(settings, compared.reference))
        yield _Counter(read_labels, readers, heights, grid, len(classes), settings)


class _Groups(NamedTuple):
    """What pixels of a window are grouped by, (height, width): pixels and metres."""

    distance: NDArray[np.float64] | None
    height: NDArray[np.float64] | None


@dataclass(frozen=True)
class _Counter:
    """Counts windows of open maps and their reference."""

    read_labels: ReadLabels
    readers: Sequence[MapReader]
    heights: "_Heights | None"
    grid: Grid
    classes: int
    settings: CountSettings

    def count(self, window: Window) -> list[Comparison]:
        """Read and count a window; return a comparison for each map."""
        decoded = self.read_labels(window)
        found = [Comparison.empty(self.classes) for _ in self.readers]
        found[0].tally.add(decoded.tally)
        if (decoded.ids != NODATA).any():
            groups = _Groups(
                _distance(self.read_labels, window, self.grid, self.settings),
                None if self.heights is None else self.heights.read(window),
            )
            predicted = [reader.read(window) for reader in self.readers]
            self._count(found, window, decoded.ids, predicted, groups)
        return found

    def _count(
        self,
        found: Sequence[Comparison],
        window: Window,
        labelled: NDArray[np.uint8],
        predicted: Sequence[MapWindow],
        groups: _Groups,
    ) -> None:
        ids = np.where(np.isin(labelled, list(self.settings.ignored)), np.uint8(NODATA), labelled)
        if groups.distance is not None:
            ids[groups.distance <= self.settings.erode] = NODATA
        lacking = np.any([one.ids == NODATA for one in predicted], axis=0)
        for one, map_ in zip(found, predicted, strict=True):
            hidden = map_.hidden[labelled != NODATA]
            one.hidden += np.bincount(hidden, minlength=NODATA + 1)[: self.classes]
            mapped = np.where(lacking, np.uint8(NODATA), map_.ids)
            one.confusion.add(ids, mapped)
            self._count_blocks(one, window, ids, mapped)
            limits = self.settings.distances
            if groups.distance is not None and limits:
                self._count_groups(one.by_distance, groups.distance, limits, "px", ids, mapped)
            limits = self.settings.height_limits
            if groups.height is not None:
                self._count_groups(one.by_height, groups.height, limits, "m", ids, mapped)

    def _count_blocks(
        self,
        found: Comparison,
        window: Window,
        ids: NDArray[np.uint8],
        mapped: NDArray[np.uint8],
    ) -> None:
        side = self.settings.block or 1
        for row in range(window.row // side, (window.bottom - 1) // side + 1):
            for column in range(window.col // side, (window.right - 1) // side + 1):
                block = Window(column * side, row * side, side, side)
                if part := block.intersection(window):
                    here = part.slices(window)
                    matrix = Confusion(self.classes)
                    matrix.add(ids[here], mapped[here])
                    if matrix.counts.any():
                        before = found.blocks.get((row, column), 0)
                        found.blocks[row, column] = before + matrix.counts

    def _count_groups(
        self,
        found: dict[str, Confusion],
        values: NDArray[np.float64],
        limits: Sequence[float],
        unit: str,
        ids: NDArray[np.uint8],
        mapped: NDArray[np.uint8],
    ) -> None:
        group = np.where(np.isnan(values), -1, np.digitize(values, limits, right=True))
        for index, name in [*enumerate(_names(limits, unit)), (-1, "unknown")]:
            here = group == index
            matrix = Confusion(self.classes)
            matrix.add(ids[here], mapped[here])
            if matrix.counts.any() or matrix.unpredicted or name in found:
                found[name] = found.get(name, Confusion(self.classes)) + matrix


def group_names(settings: CountSettings) -> tuple[list[str], list[str]]:
    """Return the names of the groups by distance and by height, in ascending order."""
    return (
        _names(settings.distances, "px"),
        [*_names(settings.height_limits, "m"), "unknown"],
    )


def _names(limits: Sequence[float], unit: str) -> list[str]:
    between = [f"{a:g} to {b:g} {unit}" for a, b in pairwise(limits)]
    return (
        [f"up to {limits[0]:g} {unit}", *between, f"over {limits[-1]:g} {unit}"] if limits else []
    )


def _check_blocks(reference: Reference, side: int) -> None:
    """Refuse blocks so small that their matrices would fill the memory."""
    pixels = sum(window.width * window.height for window in reference.windows)
    if pixels / side**2 > _MOST_BLOCKS:
        raise ConfigError(
            f"blocks of {side} pixels divide the reference into {pixels // side**2:,}, at most "
            f"{_MOST_BLOCKS:,} are counted: take {math.ceil(math.sqrt(pixels / _MOST_BLOCKS))} "
            "or more"
        )


def _distance(
    read_labels: ReadLabels, window: Window, grid: Grid, settings: CountSettings
) -> NDArray[np.float64] | None:
    """Return how far pixels of a window are from boundaries, as far as `settings` ask."""
    if not settings.margin:
        return None
    around = window.expand(settings.margin).intersection(grid.extent) or window
    return boundary_distance(read_labels(around).ids)[window.slices(around)]


class _Heights:
    """Reads heights above ground in metres; NaN where there are none."""

    def __init__(self, members: Sequence[Member], grid: Grid, settings: HeightSettings) -> None:
        self._metres = metres_per_unit(members[0], settings)
        self._view = MosaicView(
            members, grid, Resampling.nearest, nodata=settings.nodata, dtype="float64", scaled=True
        )

    def read(self, window: Window) -> NDArray[np.float64]:
        """Return the heights of a window, (height, width)."""
        values, valid = self._view.read(window)
        return np.where(valid, values[0] * self._metres, np.nan)

    def close(self) -> None:
        """Close the files."""
        self._view.close()


@contextmanager
def _open_heights(settings: CountSettings, reference: Reference) -> Iterator[_Heights | None]:
    if settings.heights is None:
        yield None
        return
    members = inspect_rasters(
        expand_inputs([settings.heights]), None, reference.grid, stream="heights"
    )
    covered_share(members, reference.name, reference.grid)
    with closing(_Heights(members, reference.grid, settings.height_settings)) as heights:
        yield heights
