"""What maps take before they are made: windows, tasks, hours, and bytes to read and to keep."""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np

from cafe_cli.inference.plan import PredictPlan
from cafe_cli.inference.tiling import contiguous_groups
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
    tasks : int
        Strips, the unit of work that a resumed run does not repeat.
    read_bytes : int
        Bytes of the input files, in the share of each that the windows need, about.
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
    tasks: int = 0
    read_bytes: int = 0
    egress_bytes: int = 0
    unsized_files: int = 0
    strip_bytes: int = 0
    output_bytes: int = 0
    worker_hours: float | None = 0.0

    @classmethod
    def of(cls, plan: PredictPlan, products: int) -> "Workload":
        """Return the workload of a plan, whose maps have `products` bands in all; without hours."""
        count, share = _count_windows(plan)
        reads = [*_reads(plan, share)]
        area = plan.target.width * plan.target.height
        return cls(
            scenes=1,
            pixels=plan.area.pixels,
            windows=count,
            computed_pixels=count * plan.windows.size**2,
            tasks=len(plan.strips),
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


def _count_windows(plan: PredictPlan) -> tuple[int, float]:
    """Return how many windows reach into the area of interest, and which share of all they are.

    A window that two bands of columns share counts twice, as it is run for both.
    """
    size, whole = plan.windows.size, plan.area.key == "whole"
    count = reached = 0
    for group in contiguous_groups(plan.strips):
        rows, columns = [*group[0].before], group[0].band.columns
        for strip in group:
            rows += strip.rows
        count += len(rows) * len(columns)
        if not whole:  # of a whole scene, they are too many to look at each
            places = itertools.product(columns, rows)
            reached += sum(plan.area.touches(Window(c, r, size, size)) for c, r in places)
    return (count, 1.0) if whole else (reached, reached / count)


@dataclass(frozen=True)
class _Read:
    """Bytes that are read of a file, or uncompressed of all pixels of `unsized` files."""

    size: int
    remote: bool
    unsized: int = 0


def _reads(plan: PredictPlan, used: float) -> Iterator[_Read]:
    """Yield what is read of every input; `used` is the share of windows that reach the area."""
    inspection, needed = plan.inspection, _needed(plan)
    heights = inspection.heights
    for member in (*inspection.optical, *((*heights.surface, *heights.terrain) if heights else ())):
        share = used * _share(member, inspection.grid.at(needed))
        sizes = plan.inputs.sizes(member.path) if share else {}
        for file, size in sizes.items():
            yield _Read(math.ceil((size or 0) * share), is_remote(file))
        if unsized := sum(size is None for size in sizes.values()):
            pixels = member.grid.width * member.grid.height * member.count
            decoded = pixels * np.dtype(member.dtype).itemsize
            yield _Read(math.ceil(decoded * share), remote=True, unsized=unsized)


def _needed(plan: PredictPlan) -> Window:
    """Return the pixels of the scene from the first window over the area to the last."""
    scene, area, windows = plan.inspection.grid.extent, plan.area.extent, plan.windows
    columns = windows.overlapping(scene.width, area.col, area.right)
    rows = windows.overlapping(scene.height, area.row, area.bottom)
    right, bottom = columns[-1] + windows.size, rows[-1] + windows.size
    return Window.from_bounds(
        columns[0], rows[0], min(right, scene.width), min(bottom, scene.height)
    )


def _share(member: Member, needed: Grid) -> float:
    """Return the share of the pixels of a raster that lie in a box around a grid."""
    extent = member.grid.extent
    inside = enclosing_window(member.path, needed, member.grid).intersection(extent)
    return inside.width * inside.height / (extent.width * extent.height) if inside else 0.0
