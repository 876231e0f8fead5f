"""``cafe suggest``: where a few more labels would help a model most.

Two things count, pixel by pixel: how undecided the model was, where there are no labels, and
whether its class is another than the label, where there are some. A place is a window whose pixels
hold much of either; places lie apart, so that not all labels come from one kind of ground.
"""

import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio.errors
import pyogrio.raw
import shapely
from numpy.typing import NDArray
from rasterio.enums import Resampling

from cafe_cli.classes import NODATA, ClassTable
from cafe_cli.config.provenance import dump_settings, settings_path
from cafe_cli.config.schema import LabelSettings
from cafe_cli.errors import BandError, ConfigError, InputError, OutputError
from cafe_cli.evaluation.counting import Comparison
from cafe_cli.evaluation.evaluate import check_comparison
from cafe_cli.evaluation.land_cover_map import LandCoverMap, class_table, inspect_map
from cafe_cli.evaluation.metrics import Confusion
from cafe_cli.evaluation.reference import blocks_of, inspect_reference
from cafe_cli.evaluation.spreading import CELLS, CellSums, choose
from cafe_cli.findings import Report
from cafe_cli.raster.grid import Grid, parse_crs
from cafe_cli.raster.input_files import InputFiles
from cafe_cli.raster.mosaic_view import MosaicView, covered_share, inspect_rasters
from cafe_cli.raster.window import Window
from cafe_cli.scenes.discovery import expand_inputs
from cafe_cli.system.atomic_write import check_outputs
from cafe_cli.system.output_group import claim_outputs, finish_replacing, replace_together
from cafe_cli.system.threads import ProgressCallback

log = logging.getLogger("cafe")

_IDS = LabelSettings()
_SIZES = range(32, 4097, CELLS)
_MOST = 10_000  # places
_MOST_CELLS = 10_000_000
_BYTES = 130  # of a cell: four sums, cumulated, and those of the windows


@dataclass(frozen=True)
class SuggestInput:
    """What places are chosen from.

    Parameters
    ----------
    map : str
        Rasters of class ids, read as one map.
    confidence : str, optional
        Rasters of the label's probability in per cent.
    probabilities : str, optional
        Rasters of every class's probability in per cent, a band each; better than `confidence`,
        since they tell how close the second class comes.
    labels : str, optional
        Labels that there are already, rasters or vector files.
    classes : ClassTable, optional
        By default the table that is stored in the map.
    settings : LabelSettings
        How the labels encode the classes.
    crs : str, optional
        CRS of the rasters that have none.
    """

    map: str
    confidence: str | None = None
    probabilities: str | None = None
    labels: str | None = None
    classes: ClassTable | None = None
    settings: LabelSettings = _IDS
    crs: str | None = None

    @property
    def files(self) -> list[str]:
        """All files to read."""
        names = (self.map, self.confidence, self.probabilities, self.labels)
        return [path for name in names if name for path in expand_inputs([name])]


@dataclass(frozen=True)
class Place:
    """A place to label next, in the order of the attributes in the file.

    Attributes
    ----------
    rank : int
        From 1.
    reason : str
        "low margin", "low confidence" or "disagreement", whichever adds more to the score.
    score : float
        Mean over the pixels of the map, 0 to 1: 1 - margin (or confidence) where there is no
        label, else 1 where the label differs from the map and 0 where it does not.
    margin : float or None
        Mean over the pixels without a label, 0 to 1: the highest probability minus the second
        highest, or, from confidences alone, the highest. None without such pixels.
    disagreement : float or None
        Share of the labelled pixels whose label differs from the map. None without such pixels.
    labelled : float
        Share of the pixels that have a label.
    """

    rank: int
    reason: str
    score: float
    margin: float | None
    disagreement: float | None
    labelled: float


def suggest(
    source: SuggestInput,
    output: Path,
    *,
    count: int = 50,
    size: int = 256,
    overwrite: bool = False,
    progress: ProgressCallback = lambda done, total: None,
) -> list[Place]:
    """Write the places to label next as boxes of a GeoPackage, in the CRS of the map.

    The same inputs give the same places. The map is read block by block; sums take about 2 kB for
    each place that would fit on it.

    Parameters
    ----------
    source : SuggestInput
    output : Path
        ``.gpkg``; its settings are written next to it, with ``.toml`` appended to the name.
    count : int
        Number of places, 1 to 10,000; fewer are found where no more than these are in doubt.
    size : int
        Side of a place in pixels of the map, a multiple of 4 from 32 to 4096.
    overwrite : bool
        Replace outputs that exist.
    progress : callable
        Called with the number of blocks done and of all.

    Returns
    -------
    list of Place
        The most doubtful first.

    Raises
    ------
    BandError
        A confidence raster has several bands, or the probabilities not one per class.
    ConfigError
        Neither confidence, probabilities nor labels are given, or a number is out of its range.
    GridError
        Rasters do not overlap, or only one has a CRS.
    InputError
        A file is missing, damaged or of the wrong kind, or no pixel has both a class and a
        confidence.
    LabelError
        A value belongs to no class, or there is no class table.
    OutputError
        An output exists or cannot be written.
    """
    finish_replacing([output])
    files = InputFiles.behind(source.files)
    map_, table = _plan(source, output, count, size, overwrite)
    side = settings_path(output)
    with claim_outputs([output], overwrite):
        cells = _gather(source, map_, table, size, progress)
        places = [*_rank(cells, count, _measure(source))]
        files.check_unchanged()
        made = {"places": count, "size": size, **_plain(source)}
        with replace_together([output, side], overwrite) as temporary:
            _write(temporary[output], output, map_.grid, places)
            temporary[side].write_text(dump_settings(made), encoding="utf-8")
    return [place for place, _ in places]


def dry_run(
    source: SuggestInput,
    output: Path,
    *,
    count: int = 50,
    size: int = 256,
    overwrite: bool = False,
) -> Report:
    """Check all that `suggest` checks before it reads pixels. Arguments as there."""
    report = Report("suggest")
    with report.capture_errors():
        map_, table = _plan(source, output, count, size, overwrite)
        with open_doubt(source, map_, table):
            report.facts |= {
                "map": f"{map_.grid.width} x {map_.grid.height} pixels of {map_.name}",
                "classes": list(table.names),
                "places": count,
                "size": size,
                "chosen by": [name for name in (_measure(source), source.labels) if name],
                "output": str(output),
            }
    return report


def _plan(
    source: SuggestInput, output: Path, count: int, size: int, overwrite: bool
) -> tuple[LandCoverMap, ClassTable]:
    """Check options, outputs and the map; return the map and its classes."""
    _check(source, output, count, size)
    check_outputs([output], source.files, overwrite, {settings_path(output): output})
    map_ = inspect_map(source.map, source.crs)
    _check_size(map_.grid, size)
    return map_, class_table(map_, source.classes)


def _check_size(grid: Grid, size: int) -> None:
    if (number := grid.width * grid.height / (size // CELLS) ** 2) > _MOST_CELLS:
        raise ConfigError(
            f"places of {size} pixels on a map of {grid.width} x {grid.height}: their sums would "
            f"take {number * _BYTES / 1e9:.0f} GB; raise --size"
        )


def _check(source: SuggestInput, output: Path, count: int, size: int) -> None:
    if not (source.confidence or source.probabilities or source.labels):
        raise ConfigError(
            "cafe cannot know where the map is in doubt: give --confidence or --probabilities, "
            "which cafe predict writes, or --labels to compare the map with"
        )
    if not 1 <= count <= _MOST:
        raise ConfigError(f"{count} places: ask for 1 to {_MOST:,}")
    if size not in _SIZES:
        raise ConfigError(
            f"a place of {size} pixels: the size is a multiple of {CELLS} from {_SIZES[0]} to "
            f"{_SIZES[-1]}"
        )
    if output.suffix.lower() != ".gpkg":
        raise OutputError(f"{output} is not named like a GeoPackage; name it .gpkg")


def _measure(source: SuggestInput) -> str | None:
    """Return what tells how undecided the model was."""
    if source.probabilities:
        return "margin"
    return "confidence" if source.confidence else None


def _plain(source: SuggestInput) -> dict[str, Any]:
    names = ("map", "confidence", "probabilities", "labels", "crs")
    return {name: getattr(source, name) for name in names}


def _gather(
    source: SuggestInput,
    map_: LandCoverMap,
    classes: ClassTable,
    size: int,
    progress: ProgressCallback,
) -> CellSums:
    """Sum over cells: pixels that count, their doubt, labelled pixels, and those that differ."""
    grid, cell = map_.grid, size // CELLS
    cells = CellSums.empty(grid.width, grid.height, cell, 4)
    block = -(-1024 // cell) * cell
    windows = _blocks(map_, grid, block)
    with ExitStack() as stack:
        read_map = stack.enter_context(map_.open(grid, classes)).read
        read_doubt = stack.enter_context(open_doubt(source, map_, classes))
        read_labels = stack.enter_context(_open_labels(source, map_, classes))
        for done, window in enumerate(windows, start=1):
            predicted = read_map(window).ids
            doubt, known = read_doubt(window)
            labels = read_labels(window, predicted)
            labelled = (labels != NODATA) & (predicted != NODATA)
            counted = (predicted != NODATA) & (known | labelled)
            unlabelled = counted & ~labelled
            differ = labelled & (labels != predicted)
            planes = (counted, np.where(unlabelled, doubt, 0), labelled, differ)
            cells.add(window, np.stack(planes).astype(np.float32))
            progress(done, len(windows))
    for number, name, what in (
        (2, source.labels, "label"), (0, source.probabilities or source.confidence, "confidence"),
    ):  # fmt: skip
        if name and not cells.sums[number].any():
            raise InputError(
                f"no pixel has both a class in {map_.name} and a {what} in {name}: do they cover "
                "the same ground?"
            )
    return cells


def _blocks(map_: LandCoverMap, grid: Grid, side: int) -> list[Window]:
    """Return blocks whose corners are corners of cells, where the sheets of a map lie."""
    places = {
        (row // side * side, column // side * side)
        for window in blocks_of(map_.members, grid)
        for row in (*range(window.row, window.bottom, side), window.bottom - 1)
        for column in (*range(window.col, window.right, side), window.right - 1)
    }
    blocks = (Window(column, row, side, side) for row, column in sorted(places))
    return [part for block in blocks if (part := block.intersection(grid.extent))]


_Doubt = Callable[[Window], tuple[NDArray[np.float32], NDArray[np.bool_]]]


@contextmanager
def open_doubt(source: SuggestInput, map_: LandCoverMap, classes: ClassTable) -> Iterator[_Doubt]:
    """Open the rasters that tell how undecided the model was; yields what reads a window.

    A window is 1 - margin, float32, and the mask of the pixels that have it, (height, width).
    Without such rasters it is 0 everywhere.
    """
    name = source.probabilities or source.confidence
    if name is None:
        yield lambda w: (
            np.zeros((w.height, w.width), np.float32), np.ones((w.height, w.width), bool)
        )  # fmt: skip
        return
    members = inspect_rasters(
        expand_inputs([name]), parse_crs(source.crs), map_.grid, stream="heights"
    )
    bands = {len(member.bands) for member in members}
    wanted = len(classes) if source.probabilities else 1
    if bands != {wanted}:
        raise BandError(
            f"{name} has {bands.pop()} bands, but "
            + (
                f"the probabilities of {wanted} classes have {wanted}; cafe predict writes them"
                if source.probabilities
                else "a confidence raster has one; give probabilities with --probabilities"
            )
        )
    covered_share(members, map_.name, map_.grid)
    with closing(MosaicView(members, map_.grid, Resampling.nearest)) as view:

        def read(window: Window) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
            values, valid = view.read(window)
            _check_percent(name, values[:, valid])
            shares = values.astype(np.float32) / 100
            if len(shares) == 1:
                return 1 - shares[0], valid
            second, first = np.partition(shares, -2, axis=0)[-2:]
            return 1 - (first - second), valid

        yield read


def _check_percent(name: str, values: NDArray[Any]) -> None:
    wrong = ~((values >= 0) & (values <= 100))
    if wrong.any():
        raise InputError(
            f"{name} holds the value {values[wrong][0]}; confidences and probabilities are 0 to "
            f"100 per cent, and {NODATA}, declared as nodata, where there is none"
        )
    if values.dtype.kind == "f" and values.size and 0 < values.max() <= 1:
        raise InputError(
            f"{name} holds shares up to {values.max():.3g}; cafe reads per cent: multiply by 100 "
            "with gdal_calc.py"
        )


_Labels = Callable[[Window, NDArray[np.uint8]], NDArray[np.uint8]]


@contextmanager
def _open_labels(
    source: SuggestInput, map_: LandCoverMap, classes: ClassTable
) -> Iterator[_Labels]:
    """Open the labels on the map's grid; yields what reads a window, given the map there.

    What makes labels unusable is an error at the end, when all have been read.
    """
    if source.labels is None:
        yield lambda window, predicted: np.full(predicted.shape, NODATA, np.uint8)
        return
    paths = expand_inputs([source.labels])
    reference = inspect_reference(paths, map_, classes, source.settings, source.crs, on=map_.grid)
    found = Comparison(Confusion(len(classes)), np.zeros(len(classes), np.int64))
    with reference.opened() as read_reference:

        def read(window: Window, predicted: NDArray[np.uint8]) -> NDArray[np.uint8]:
            decoded = read_reference(window)
            found.tally.add(decoded.tally)
            found.confusion.add(decoded.ids, predicted)
            return decoded.ids

        yield read
    check_comparison(found, map_, reference, classes, source.settings)


def _rank(cells: CellSums, count: int, measure: str | None) -> Iterator[tuple[Place, Window]]:
    """Yield the places and their windows, the best first; `measure` as `_measure` returns it."""
    sums = cells.in_windows()
    pixels = np.maximum(sums[0], 1)
    # Differences of cumulated sums leave a remainder where there is nothing.
    scores = np.round((sums[1] + sums[3]) / pixels, 9)
    for rank, (row, column) in enumerate(choose(scores, sums[0], cells, count), start=1):
        counted, doubt, labelled, differ = sums[:, row, column].tolist()
        unlabelled = round(counted) - round(labelled)
        yield (
            Place(
                rank=rank,
                reason="disagreement" if differ > doubt else f"low {measure}",
                score=round((doubt + differ) / counted, 4),
                margin=round(1 - doubt / unlabelled, 4) if measure and unlabelled else None,
                disagreement=round(differ / labelled, 4) if round(labelled) else None,
                labelled=round(labelled / counted, 4),
            ),
            cells.window(row, column),
        )


def _write(path: Path, name: Path, grid: Grid, places: Sequence[tuple[Place, Window]]) -> None:
    """Write the boxes, in the CRS of the grid, to `path`; errors name the file `name`."""
    outlines = [grid.at(window).footprint for _, window in places]
    columns = {
        field.name: np.array([getattr(place, field.name) for place, _ in places])
        for field in fields(Place)
    }
    kinds = {"rank": np.int32, "reason": object}
    values = [column.astype(kinds.get(key, np.float64)) for key, column in columns.items()]
    # In memory first: SQLite reports a failed write to GDAL, which closes the file without a word.
    content = io.BytesIO()
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "'crs' was not provided")
            pyogrio.raw.write(
                content, shapely.to_wkb(np.array(outlines, object)), values, list(columns),
                driver="GPKG", layer="places", geometry_type="Polygon",
                crs=grid.crs.to_wkt() if grid.crs else None,
            )  # fmt: skip
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as error:
        raise OutputError(f"cannot write {name}: {error}") from error
    path.write_bytes(content.getbuffer())
