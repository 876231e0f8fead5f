"""``cafe sample``: draw a stratified random sample of a map's pixels, to be interpreted."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cafe_cli.classes import NODATA, ClassTable
from cafe_cli.config.provenance import dump_settings, settings_path
from cafe_cli.errors import ConfigError
from cafe_cli.evaluation.allocation import Allocation, allocate, group_classes
from cafe_cli.evaluation.frame import Fingerprint, positions, scramble, survey
from cafe_cli.evaluation.land_cover_map import LandCoverMap, class_table, inspect_map
from cafe_cli.findings import Report
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.input_files import InputFiles
from cafe_cli.raster.window import Window
from cafe_cli.scenes.discovery import expand
from cafe_cli.system.atomic_write import check_outputs
from cafe_cli.system.output_group import claim_outputs, finish_replacing, replace_together
from cafe_cli.system.threads import ProgressCallback
from cafe_cli.vector.points import Columns, write_points

DESIGN = "design"
"""Table of a GeoPackage with what the interpreter of a blind sample does not see."""

REFERENCE = "reference"
"""Column for the class that the interpreter saw."""

_LAST = np.uint64(2**64 - 1)


@dataclass(frozen=True)
class SampleSettings:
    """How a sample is drawn.

    Attributes
    ----------
    count : int
        Points in all.
    minimum : int
        Points of each stratum at least, or all its pixels.
    allocation : {"proportional", "equal"}
    groups : tuple of str
        See `group_classes`.
    seed : int
    blind : bool
        Whether class and stratum are in a table of their own.
    """

    count: int = 600
    minimum: int = 50
    allocation: Allocation = "proportional"
    groups: tuple[str, ...] = ()
    seed: int = 0
    blind: bool = False


@dataclass(frozen=True)
class Sample:
    """Pixels of a map, drawn at random in each stratum without replacement.

    Attributes
    ----------
    grid : Grid
        That of the map.
    classes : ClassTable
    strata : tuple of str
    pixels, sampled : ndarray of int64, (H,)
        Pixels of each stratum, all and sampled.
    places : ndarray of uint64, (n,)
        Position of each point, see `positions`, in random order.
    stratum : ndarray of intp, (n,)
    map_class : ndarray of uint8, (n,)
    fingerprint : str
        See `Fingerprint`.
    """

    grid: Grid
    classes: ClassTable
    strata: tuple[str, ...]
    pixels: NDArray[np.int64]
    sampled: NDArray[np.int64]
    places: NDArray[np.uint64]
    stratum: NDArray[np.intp]
    map_class: NDArray[np.uint8]
    fingerprint: str

    def as_json(self) -> dict[str, Any]:
        """Return the strata as plain values."""
        return {
            name: {"pixels": pixels, "points": points, "inclusion_probability": points / pixels}
            for name, pixels, points in zip(
                self.strata, self.pixels.tolist(), self.sampled.tolist(), strict=True
            )
            if pixels
        }


def draw(
    map_: LandCoverMap,
    classes: ClassTable,
    settings: SampleSettings,
    progress: ProgressCallback = lambda done, total: None,
) -> Sample:
    """Draw a sample in one pass over a map, which is read by windows.

    Every pixel has a random number that its place and the seed give; the pixels of a stratum with
    the lowest numbers are drawn. So the windows do not matter, and a larger sample with the same
    seed holds the smaller one.

    Raises
    ------
    ConfigError
        The settings do not fit the classes, see `group_classes` and `allocate`.
    LabelError
        A value belongs to no class, or the map declares a class as nodata.
    """
    names, of_class = group_classes(classes, settings.groups)
    fingerprint = Fingerprint(map_.grid)
    lowest = _Lowest(map_.grid, of_class, len(names), settings.count, settings.seed)
    frame = survey(map_, classes, (fingerprint.visit, lowest.visit), progress)
    pixels = np.bincount(of_class, frame.pixels, len(names)).astype(np.int64)
    sampled = allocate(pixels, settings.count, settings.minimum, settings.allocation)
    chosen = lowest.taken(sampled)
    return Sample(
        map_.grid, classes, names, pixels, sampled,
        chosen.places, of_class[chosen.ids], chosen.ids, fingerprint.text,
    )  # fmt: skip


def sample(
    names: str,
    output: Path,
    settings: SampleSettings,
    *,
    classes: ClassTable | None = None,
    crs: str | None = None,
    overwrite: bool = False,
    progress: ProgressCallback = lambda done, total: None,
) -> Sample:
    """Draw a sample of a map, and write it as points.

    Parameters
    ----------
    names : str
        Raster of class ids: a file, folder, glob or @list, read as one map.
    output : Path
        A GeoPackage with the layer ``points``; settings are written to a file with ``.toml``
        appended to the name.
    settings : SampleSettings
    classes : ClassTable, optional
        By default the table that is stored in the map.
    crs : str, optional
        CRS of the rasters that have none.
    overwrite : bool
        Replace outputs that exist.
    progress : callable
        Called with the number of blocks done and of all.

    Raises
    ------
    ConfigError
        The output is no GeoPackage or an input, or see `draw`.
    InputError
        A file is missing, damaged or of the wrong kind, or see `draw`.
    OutputError
        The output exists or cannot be written.
    """
    finish_replacing([output])
    _check(names, output, overwrite)
    files = InputFiles.behind(expand(names))
    map_ = inspect_map(names, crs)
    table = class_table(map_, classes)
    made = {"map": names, **vars(settings), "groups": list(settings.groups)}
    beside = settings_path(output)
    with claim_outputs([output], overwrite):
        found = draw(map_, table, settings, progress)
        files.check_unchanged()
        with replace_together([output, beside], overwrite) as new:
            _write(found, new[output], settings.blind)
            made |= {"map_fingerprint": found.fingerprint, "strata": found.as_json()}
            new[beside].write_text(dump_settings(made), encoding="utf-8")
    return found


def dry_run(
    names: str,
    output: Path,
    settings: SampleSettings,
    *,
    classes: ClassTable | None = None,
    crs: str | None = None,
    overwrite: bool = False,
    progress: ProgressCallback = lambda done, total: None,
) -> Report:
    """Check everything that `sample` checks; report the strata. Arguments as there."""
    report = Report("sample")
    with report.capture_errors():
        _check(names, output, overwrite)
        map_ = inspect_map(names, crs)
        found = draw(map_, class_table(map_, classes), settings, progress)
        report.facts |= {"map": map_.name, "output": str(output), "strata": found.as_json()}
    return report


def _check(names: str, output: Path, overwrite: bool) -> None:
    if output.suffix.lower() != ".gpkg":
        raise ConfigError(f"{output}: points are written to a GeoPackage; name a .gpkg file")
    check_outputs([output], expand(names), overwrite, {settings_path(output): output})


class _Pixels(NamedTuple):
    """Pixels of one stratum: random numbers and places, uint64, and class ids, uint8, (n,)."""

    keys: NDArray[np.uint64]
    places: NDArray[np.uint64]
    ids: NDArray[np.uint8]

    def joined(self, other: "_Pixels") -> "_Pixels":
        """Return the pixels of both."""
        return _Pixels(
            np.concatenate([self.keys, other.keys]),
            np.concatenate([self.places, other.places]),
            np.concatenate([self.ids, other.ids]),
        )

    def at(self, index: NDArray[np.intp] | NDArray[np.bool_] | slice) -> "_Pixels":
        """Return some of the pixels."""
        return _Pixels(self.keys[index], self.places[index], self.ids[index])


class _Lowest:
    """The pixels of each stratum with the lowest random numbers, at most `count` of each."""

    def __init__(
        self, grid: Grid, of_class: NDArray[np.intp], strata: int, count: int, seed: int
    ) -> None:
        self._grid, self._count = grid, count
        none = np.zeros(0, np.uint64)
        self._kept = [_Pixels(none, none, np.zeros(0, np.uint8)) for _ in range(strata)]
        self._stratum = np.full(NODATA + 1, strata, np.intp)
        self._stratum[: len(of_class)] = of_class
        self._limits = np.append(np.full(strata, _LAST), np.uint64(0))  # pixels without a class: 0
        self._start = scramble(np.array([seed], np.uint64))

    def visit(self, window: Window, ids: NDArray[np.uint8]) -> None:
        """Take the pixels of a window."""
        places = positions(window, self._grid)
        keys = scramble(scramble(places) ^ self._start)
        low = keys < self._limits[self._stratum[ids]]
        found = _Pixels(keys[low], places[low], ids[low])
        strata = self._stratum[found.ids]
        for h in np.unique(strata).tolist():
            merged = self._kept[h].joined(found.at(strata == h))
            lowest = merged.at(np.argsort(merged.keys)[: self._count])
            self._kept[h] = lowest
            if len(lowest.keys) == self._count:
                self._limits[h] = lowest.keys[-1]

    def taken(self, sampled: NDArray[np.int64]) -> _Pixels:
        """Return so many pixels of each stratum, (H,), in random order."""
        chosen = self._kept[0].at(slice(0, 0))
        for kept, count in zip(self._kept, sampled.tolist(), strict=True):
            chosen = chosen.joined(kept.at(slice(count)))
        # By another number: the highest of a stratum depends on the share of it that is drawn.
        return chosen.at(np.argsort(scramble(chosen.keys)))


def _write(found: Sample, path: Path, blind: bool) -> None:
    width, place = np.uint64(found.grid.width), found.grid.transform
    columns = (found.places % width).astype(float) + 0.5
    rows = (found.places // width).astype(float) + 0.5
    x = place.a * columns + place.b * rows + place.c
    y = place.d * columns + place.e * rows + place.f
    number = np.arange(1, len(x) + 1)
    shown: Columns = {"id": number, "x": x, "y": y, REFERENCE: [None] * len(x)}
    hidden = _design(found)
    tables = {DESIGN: {"id": number, **hidden}} if blind else {}
    columns_shown = shown if blind else {**shown, **hidden}
    write_points(path, np.stack([x, y], axis=1), columns_shown, found.grid.crs, tables)


def _design(found: Sample) -> Columns:
    pixels, sampled = found.pixels[found.stratum], found.sampled[found.stratum]
    return {
        "map_class": [found.classes.names[i] for i in found.map_class],
        "stratum": [found.strata[h] for h in found.stratum],
        "stratum_pixels": pixels,
        "stratum_sampled": sampled,
        "inclusion_probability": sampled / pixels,
        "map_fingerprint": [found.fingerprint] * len(pixels),
    }
