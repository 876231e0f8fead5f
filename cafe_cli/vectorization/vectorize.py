"""``cafe vectorize``: a label raster as polygons that leave no gap and no overlap."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray

from cafe_cli.classes import NODATA, ClassTable
from cafe_cli.config.provenance import dump_settings, settings_path
from cafe_cli.errors import LabelError
from cafe_cli.evaluation.land_cover_map import MapReader, refuse_hidden
from cafe_cli.findings import Report
from cafe_cli.raster.grid import describe_grid
from cafe_cli.raster.ground_area import row_areas
from cafe_cli.raster.input_files import InputFiles
from cafe_cli.raster.window import Window
from cafe_cli.regions.labelling import TILE, Regions, Seams, label_tiles
from cafe_cli.regions.sieve import merge_small
from cafe_cli.regions.survey import ReadScores, survey
from cafe_cli.system.output_group import claim_outputs, finish_replacing, replace_together
from cafe_cli.system.threads import ProgressCallback
from cafe_cli.vectorization.assemble import Chains, assemble, order_chains
from cafe_cli.vectorization.attributes import GroundReader, RegionStatistics, open_all
from cafe_cli.vectorization.formats import Features, Layer, style_path, write_features
from cafe_cli.vectorization.outlines import Outlines, join_seams, trace
from cafe_cli.vectorization.plan import (
    VectorizeOptions,
    VectorizePlan,
    plan,
    statistic_columns,
)
from cafe_cli.vectorization.simplify import simplify_across, simplify_tile
from cafe_cli.vectorization.smooth import smooth
from cafe_cli.vectorization.style import make_qml


class Summary(NamedTuple):
    """What was written: polygons, and regions that were merged into others."""

    polygons: int
    merged: int


def vectorize(
    name: str,
    output: Path,
    options: VectorizeOptions | None = None,
    *,
    classes: ClassTable | None = None,
    overwrite: bool = False,
    progress: ProgressCallback = lambda done, total: None,
) -> Summary:
    """Write each region of a map as a polygon: pixels of one class, connected by their sides.

    The polygons are a coverage: neighbours share their border, vertex by vertex, whatever it was
    simplified to; no edge of a tile shows. The map is read twice, tile by tile; besides, the
    vertices of all outlines are in memory, about 50 bytes each.

    Parameters
    ----------
    name : str
        Raster of class ids: a file, folder, glob or @list, read as one map.
    output : Path
        The end of its name is a key of `cafe_cli.vectorization.formats.FORMATS`. Its settings are
        written to a file with ``.toml`` appended to the name.
    options : VectorizeOptions, optional
    classes : ClassTable, optional
        By default the table that is stored in the map.
    overwrite : bool
        Replace an output that exists.
    progress : callable
        Called with the number of tiles done and in total.

    Raises
    ------
    ConfigError
        An option is wrong, the format is unknown, or the output is an input.
    InputError, LabelError, GridError, BandError
        A raster is missing, damaged, of the wrong kind or somewhere else, a value belongs to no
        class, or the map has no class at all.
    OutputError
        The output exists or cannot be written.
    """
    options = options or VectorizeOptions()
    finish_replacing([output])
    planned = plan(name, output, options, classes=classes, overwrite=overwrite)
    files = InputFiles.behind(planned.inputs)
    settings = dump_settings({"map": list(planned.inputs), "vectorize": vars(options)})
    layer = Layer(output.stem, planned.grid.crs, planned.classes.classes)
    paths = [output, *planned.side_files]
    with claim_outputs([output], overwrite), replace_together(paths, overwrite) as new:
        work = _Work(planned, options, progress)
        write_features(new[output], output, layer, work.features())
        new[settings_path(output)].write_text(settings, encoding="utf-8")
        if (style := style_path(output)) in new:
            new[style].write_text(make_qml(layer.classes), encoding="utf-8")
        files.check_unchanged()
    return Summary(len(work.regions), work.merged)


def dry_run(
    name: str,
    output: Path,
    options: VectorizeOptions | None = None,
    *,
    classes: ClassTable | None = None,
    overwrite: bool = False,
) -> Report:
    """Check everything that `vectorize` checks; report the output. Arguments as there."""
    report = Report("vectorize")
    with report.capture_errors():
        planned = plan(
            name, output, options or VectorizeOptions(), classes=classes, overwrite=overwrite
        )
        taken = (planned.confidence, planned.probabilities, *planned.statistics)
        report.facts |= {
            "output": str(output),
            "map": describe_grid(planned.grid),
            "classes": list(planned.classes.names),
            "tolerance": f"{planned.tolerance:.3g} pixels",
            "rasters": [raster.name for raster in taken if raster],
        }
    return report


class _Work:
    """One run: the first reading finds the regions, the second their outlines and attributes."""

    def __init__(
        self, planned: VectorizePlan, options: VectorizeOptions, progress: ProgressCallback
    ) -> None:
        self._plan, self._options = planned, options
        self._progress = progress
        grid = planned.grid
        self._tiles = 2 * -(-grid.width // TILE) * -(-grid.height // TILE)
        self._done = 0
        self.merged = 0
        with ExitStack() as stack:
            reader = stack.enter_context(planned.map.open(grid, planned.classes))
            self._hidden = np.zeros(NODATA + 1, np.int64)
            self.regions = self._find_regions(reader, stack)
            self._chains = self._trace(reader, stack)

    def features(self) -> Iterator[Features]:
        """Yield the polygons with their attributes, in parts."""
        place = self._plan.grid.transform
        columns = self._columns
        for numbers, polygons in assemble(self._chains):
            pixels = self.regions.metres[numbers] / self.regions.pixels[numbers]
            area = np.round(shapely.area(polygons) * pixels, 6)
            own = self._own_columns(numbers, area)
            rest = {name: values[numbers] for name, values in columns.items()}
            yield Features(shapely.transform(polygons, _placing(place)), {**own, **rest})

    def _own_columns(
        self, numbers: NDArray[np.int64], area: NDArray[np.float64]
    ) -> dict[str, NDArray[np.generic]]:
        ids = self.regions.classes[numbers].astype(np.int32)
        names = np.array(self._plan.classes.names, object)[ids]
        known = self._plan.grid.has_pixel_size
        return {
            "class": ids,
            "name": names,
            "area_m2": area if known else np.full(len(ids), np.nan),
        }

    def _find_regions(self, reader: MapReader, stack: ExitStack) -> Regions:
        planned, limit = self._plan, self._options.min_area
        grid = planned.grid

        def read(window: Window) -> NDArray[np.uint8]:
            found = reader.read(window)
            self._hidden += np.bincount(found.hidden.ravel(), minlength=NODATA + 1)
            return found.ids

        found = survey(
            grid.width, grid.height, read, lambda window: row_areas(grid, window), limit,
            self._scores(stack), len(planned.classes), self._step,
        )  # fmt: skip
        refuse_hidden(planned.map, planned.classes, self._hidden[: len(planned.classes)])
        if not len(found.regions):
            raise LabelError(
                f"{planned.map.name} has no pixel with a class, so there are no polygons"
            )
        regions = merge_small(found, limit) if limit else found.regions
        self.merged = len(found.regions) - len(regions)
        return regions

    def _scores(self, stack: ExitStack) -> ReadScores | None:
        if self._plan.probabilities is None:
            return None
        (reader,) = open_all(stack, [self._plan.probabilities], self._plan.grid)

        def read(window: Window) -> NDArray[np.float32]:
            values, valid = reader.read(window)
            return np.where(valid, values, 0).astype(np.float32)

        return read

    def _trace(self, reader: MapReader, stack: ExitStack) -> Chains:
        planned, grid, tolerance = self._plan, self._plan.grid, self._plan.tolerance
        rasters = [r for r in (planned.confidence, *planned.statistics) if r]
        found = [RegionStatistics(len(self.regions) + 1) for _ in rasters]
        readers = open_all(stack, rasters, grid)
        seams, first, parts = Seams(grid.width), 1, []
        for tile in label_tiles(grid.width, grid.height, lambda window: reader.read(window).ids):
            after = first + len(tile.classes)
            numbers = np.append(np.int32(0), self.regions.number[first:after])
            first = after
            padded = seams.pad(tile.window, numbers[tile.local])
            outlines = trace(_framed(padded, tile.window, grid.width, grid.height), tile.window)
            parts.append(simplify_tile(outlines, tile.window, tolerance))
            _measure(tile.window, tile.local, numbers, readers, found)
            self._step()
        joined = join_seams(Outlines.joined(parts), grid.width, grid.height)
        parts.clear()
        chains = order_chains(simplify_across(joined, tolerance))
        self._columns = self._statistics(found)
        return smooth(chains, tolerance) if self._options.smooth else chains

    def _statistics(self, found: list[RegionStatistics]) -> dict[str, NDArray[np.float64]]:
        """Return the columns of the rasters, by region."""
        columns = {}
        if self._plan.confidence:
            columns["confidence"] = np.round(found[0].mean, 2)
            found = found[1:]
        for raster, values in zip(self._plan.statistics, found, strict=True):
            each = (values.mean, values.minimum, values.maximum)
            columns |= dict(zip(statistic_columns(raster.name), each, strict=True))
        return columns

    def _step(self) -> None:
        self._done += 1
        self._progress(self._done, self._tiles)


def _measure(
    window: Window,
    local: NDArray[np.int32],
    numbers: NDArray[np.int32],
    readers: list[GroundReader],
    found: list[RegionStatistics],
) -> None:
    """Add a tile to the statistics of rasters."""
    for reader, statistics in zip(readers, found, strict=True):
        values, valid = reader.read(window)
        statistics.add(local, numbers, values[0], valid)


def _framed(
    padded: NDArray[np.int32], window: Window, width: int, height: int
) -> NDArray[np.int32]:
    """Add the outside to the tiles on the right and lower side of the raster."""
    return np.pad(padded, ((0, int(window.bottom == height)), (0, int(window.right == width))))


def _placing(place: Affine) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    """Return the function from pixel coordinates (n, 2) to those of the CRS."""
    a, b, c, d, e, f = place[:6]

    def apply(points: NDArray[np.float64]) -> NDArray[np.float64]:
        x, y = points.T
        return np.stack([a * x + b * y + c, d * x + e * y + f], axis=1)

    return apply
