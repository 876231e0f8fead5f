"""What maps take before they are made: windows, tasks, hours, and bytes to read and to keep."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from cafe_cli.inference.plan import PredictPlan
from cafe_cli.inference.tiling import Strip, contiguous_groups, divide_among
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.mosaic_view import Member
from cafe_cli.raster.warp import enclosing_window
from cafe_cli.raster.window import Window
from cafe_cli.system.atomic_write import is_remote

_OVERVIEWS = 4 / 3  # a raster and its overviews, each with a quarter of the pixels of the last
_PER_FILE = 30_000  # bytes of headers, tags and side files, whatever the size of the map


@dataclass(frozen=True)
class Workload:
    """What the maps of some scenes take: sums, so that workloads can be added.

    Attributes
    ----------
    scenes : int
    pixels : int
        Pixels of the maps inside the area of interest; voids of the images count, too.
    windows : int
        Windows over these pixels, at most: those in which the image is void are not run.
    computed_pixels : int
        Pixels of these windows, so that overlaps count repeatedly.
    strips : int
        Parts of the maps that a resumed run does not make again.
    tasks : int
        Groups of strips that workers take one after the other; strips where there are no workers.
    read_bytes : int
        Bytes of the input files, in the share of each that the windows need, about. What lies where
        bands of columns or tasks meet is read for both.
    egress_bytes : int
        Those of `read_bytes` that come from servers and object stores.
    unsized_files : int
        Files of which nobody says the size; their pixels count uncompressed.
    strip_bytes : int
        Bytes of the finished strips, uncompressed: an upper bound. They stay until the map of
        their scene is complete.
    output_bytes : int
        Bytes of the maps with their overviews, uncompressed: an upper bound.
    worker_hours : float or None
        Hours of one worker, a process with one device; None if its rate is unknown.
    """

    scenes: int = 0
    pixels: int = 0
    windows: int = 0
    computed_pixels: int = 0
    strips: int = 0
    tasks: int = 0
    read_bytes: int = 0
    egress_bytes: int = 0
    unsized_files: int = 0
    strip_bytes: int = 0
    output_bytes: int = 0
    worker_hours: float | None = 0.0

    @classmethod
    def of(cls, plan: PredictPlan, products: int, workers: int | None = None) -> "Workload":
        """Return the workload of a plan, without hours.

        Parameters
        ----------
        plan : PredictPlan
        products : int
            Bands of its maps in all.
        workers : int, optional
            Workers of a cluster. A task runs windows that the task above runs, too.
        """
        groups = [*contiguous_groups(plan.strips)]
        if workers is not None:
            groups = [*divide_among(plan.strips, workers)]
        count = _count_windows(plan, groups)
        reads = [*_reads(plan, count)]
        area = plan.target.width * plan.target.height
        return cls(
            scenes=1,
            pixels=_count_pixels(plan),
            windows=count,
            computed_pixels=count * plan.windows.size**2,
            strips=len(plan.strips),
            tasks=len(plan.strips) if workers is None else len(groups),
            read_bytes=sum(read.size for read in reads),
            egress_bytes=sum(read.size for read in reads if read.remote),
            unsized_files=sum(read.unsized for read in reads),
            strip_bytes=area * products,
            output_bytes=math.ceil(area * products * _OVERVIEWS)
            + _PER_FILE * len(plan.outputs.paths),
            worker_hours=None,
        )

    @classmethod
    def of_facts(cls, facts: Mapping[str, Any]) -> "Workload":
        """Return the workload in the facts of a report; that of no scene if there was no plan."""
        return cls(**facts["workload"]) if "workload" in facts else cls()

    def __add__(self, other: "Workload") -> "Workload":
        hours = (self.worker_hours, other.worker_hours)
        sums = {
            f.name: getattr(self, f.name) + getattr(other, f.name)
            for f in fields(self)
            if f.name != "worker_hours"
        }
        known = [h for h in hours if h is not None]
        return Workload(**sums, worker_hours=sum(known) if len(known) == len(hours) else None)

    @property
    def megapixels_per_second(self) -> float | None:
        """Megapixels of map that a worker makes per second; None if that is unknown."""
        return self.pixels / 1e6 / (self.worker_hours * 3600) if self.worker_hours else None

    def hours(self, workers: int) -> float | None:
        """Return the hours of `workers` that take task after task, each with an equal share of all.

        Nobody waits for models, files or a scheduler, is slower than others, or is lost.
        """
        if self.worker_hours is None or not self.tasks:
            return self.worker_hours
        return self.worker_hours / self.tasks * math.ceil(self.tasks / workers)

    def as_json(self) -> dict[str, Any]:
        """Return the fields, from which `of_facts` makes the workload again."""
        return asdict(self)


def _count_pixels(plan: PredictPlan) -> int:
    """Return the number of pixels of the area of interest in the strips of a plan."""
    if plan.source.strips is None:
        return plan.area.pixels
    extents = [strip.extent for strip in plan.strips]
    if plan.area.key == "whole":
        return sum(extent.width * extent.height for extent in extents)
    return sum(int(plan.area.mask(extent).sum()) for extent in extents)


def _count_windows(plan: PredictPlan, groups: Sequence[Sequence[Strip]]) -> int:
    """Return how many windows reach into the area of interest.

    A window that two bands of columns or two groups of strips share is run for both.
    """
    size, whole, count = plan.windows.size, plan.area.key == "whole", 0
    for group in groups:
        rows, columns = [*group[0].before], group[0].band.columns
        for strip in group:
            rows += strip.rows
        if whole:  # they are too many to look at each
            count += len(rows) * len(columns)
        else:
            places = itertools.product(columns, rows)
            count += sum(plan.area.touches(Window(c, r, size, size)) for c, r in places)
    return count


@dataclass(frozen=True)
class _Read:
    """Bytes that are read of a file, or uncompressed of all pixels of `unsized` files."""

    size: int
    remote: bool
    unsized: int = 0


def _reads(plan: PredictPlan, windows: int) -> Iterator[_Read]:
    """Yield what is read of every input for a number of windows, some of them more than once."""
    inspection = plan.inspection
    heights, scene, size = inspection.heights, inspection.grid.extent, plan.windows.size
    columns = plan.windows.overlapping(scene.width, plan.extent.col, plan.extent.right)
    rows = plan.windows.overlapping(scene.height, plan.extent.row, plan.extent.bottom)
    hull = Window.from_bounds(columns[0], rows[0], columns[-1] + size, rows[-1] + size)
    needed = inspection.grid.at(hull.intersection(scene) or scene)
    times = windows / (len(columns) * len(rows))
    for member in (*inspection.optical, *((*heights.surface, *heights.terrain) if heights else ())):
        share = times * _share(member, needed)
        sizes = plan.inputs.sizes(member.path) if share else {}
        for file, count in sizes.items():
            yield _Read(math.ceil((count or 0) * share), is_remote(file))
        if unsized := sum(count is None for count in sizes.values()):
            pixels = member.grid.width * member.grid.height * member.count
            decoded = pixels * np.dtype(member.dtype).itemsize
            yield _Read(math.ceil(decoded * share), remote=True, unsized=unsized)


def _share(member: Member, needed: Grid) -> float:
    """Return the share of the pixels of a raster that lie in a box around a grid."""
    extent = member.grid.extent
    inside = enclosing_window(member.path, needed, member.grid).intersection(extent)
    return inside.width * inside.height / (extent.width * extent.height) if inside else 0.0
