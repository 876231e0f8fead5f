"""Land-cover maps as they are scored: class ids from a raster or several sheets, on any grid."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import Resampling

from cafe_cli.classes import NODATA, ClassTable
from cafe_cli.errors import BandError, InputError, LabelError
from cafe_cli.raster.grid import Grid, parse_crs
from cafe_cli.raster.header import read_tags
from cafe_cli.raster.mosaic_view import Member, MosaicView, inspect_rasters, union_grid
from cafe_cli.raster.product import NO_LABELS, product_of
from cafe_cli.raster.reader import image_bands, open_raster
from cafe_cli.raster.window import Window
from cafe_cli.raster.writer import read_classes
from cafe_cli.scenes.discovery import expand_inputs, match_scenes, placeholders_of


class MapWindow(NamedTuple):
    """One window of a map.

    Attributes
    ----------
    ids : ndarray of uint8, (height, width)
        255 where the map has no class.
    hidden : ndarray of uint8, (height, width)
        The id of the class that the declared nodata hides, 255 elsewhere.
    """

    ids: NDArray[np.uint8]
    hidden: NDArray[np.uint8]


@dataclass(frozen=True)
class LandCoverMap:
    """The metadata of a map.

    Attributes
    ----------
    name : str
        In messages.
    members : tuple of Member
        The sheets; where several have a class, the first wins.
    classes : ClassTable or None
        The table stored in the sheets.
    nodata : frozenset of float
        The nodata values that the sheets declare.
    """

    name: str
    members: tuple[Member, ...]
    classes: ClassTable | None
    nodata: frozenset[float]

    @property
    def grid(self) -> Grid:
        """The grid of the first sheet, extended to enclose all."""
        return union_grid(self.members)

    @contextmanager
    def open(self, grid: Grid, classes: ClassTable) -> Iterator["MapReader"]:
        """Open the sheets on a grid; the nearest pixel counts."""
        hiding = [id_ for id_ in range(len(classes)) if id_ in self.nodata]
        views = [MosaicView(self.members, grid, Resampling.nearest)]
        if hiding:
            views.append(MosaicView(self.members, grid, Resampling.nearest, nodata=NODATA))
        try:
            yield MapReader(self.name, classes, hiding, *views)
        finally:
            for view in views:
                view.close()


class MapReader:
    """Reads the class ids of a map. Not thread-safe.

    Parameters
    ----------
    name : str
        The map in errors.
    classes : ClassTable
    hiding : sequence of int
        Class ids that a sheet declares as nodata.
    view : MosaicView
    unmasked : MosaicView, optional
        The same sheets with 255 in place of their nodata; needed if `hiding` is not empty.
    """

    def __init__(
        self,
        name: str,
        classes: ClassTable,
        hiding: Sequence[int],
        view: MosaicView,
        unmasked: MosaicView | None = None,
    ) -> None:
        self._name, self._classes, self._hiding = name, classes, hiding
        self._view, self._unmasked = view, unmasked

    def read(self, window: Window) -> MapWindow:
        """Read a window.

        Raises
        ------
        LabelError
            A value is neither the id of a class nor 255.
        """
        values, valid = self._view.read(window)
        ids, hidden = np.full((2, *valid.shape), NODATA, np.uint8)
        known = values[0][valid]
        if known.dtype.kind == "f":
            known = np.where(np.isnan(known), NODATA, known)
        self._check(known)
        ids[valid] = known.astype(np.uint8)
        if self._unmasked is not None and not valid.all():
            bare, inside = self._unmasked.read(window)
            lost = inside & ~valid & np.isin(bare[0], self._hiding)
            hidden[lost] = bare[0][lost].astype(np.uint8)
        return MapWindow(ids, hidden)

    def _check(self, values: NDArray[np.generic]) -> None:
        """Refuse values that are not class ids, for any data type."""
        wrong = ~np.isin(values, [*range(len(self._classes)), NODATA])
        if wrong.any():
            raise LabelError(
                f"{self._name} holds the value {values[wrong][0]}, but its classes are 0 to "
                f"{len(self._classes) - 1}; is it a map made with this class table? (the map is "
                "given before its reference)"
            )


def inspect_map(names: str | Sequence[str], crs: str | None = None) -> LandCoverMap:
    """Inspect the sheets of a map.

    Parameters
    ----------
    names : str or sequence of str
        Files, folders, globs, @lists and patterns with ``{placeholders}``; their sheets are read as
        one map. Of several rasters, those of confidence, quality and the like are left out.
    crs : str, optional
        CRS of the sheets that have none.

    Raises
    ------
    InputError
        A file is missing, damaged or no raster, or sheets have different classes or data types.
    BandError
        A raster has several bands.
    """
    found = [p for name in ([names] if isinstance(names, str) else names) for p in _expand(name)]
    paths = list[str]()
    nodata = set[float]()
    tables = dict[str, ClassTable]()
    for path in found:
        with open_raster(path) as sheet:
            if len(found) > 1 and product_of(read_tags(sheet)) in NO_LABELS:
                continue  # as in a folder: it lies beside a sheet
            paths.append(path)
            bands = image_bands(sheet, None)
            if len(bands) != 1:
                raise BandError(
                    f"{path} has {sheet.count} bands, a land-cover map has one; "
                    "name the map, and its reference, if there is one, after it"
                )
            declared = sheet.nodatavals[bands[0] - 1]
            nodata |= {declared} if declared is not None else set()
            if table := read_classes(sheet):
                tables[path] = table
    if not paths:
        raise InputError(f"none of {found[0]} and {len(found) - 1} more is a map; name the maps")
    _check_tables(tables)
    members = tuple(inspect_rasters(paths, parse_crs(crs), stream="labels"))
    more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    stored = next(iter(tables.values()), None)
    return LandCoverMap(f"{paths[0]}{more}", members, stored, frozenset(nodata))


def class_table(map_: LandCoverMap, given: ClassTable | None) -> ClassTable:
    """Return the given class table, or else that of the map.

    Raises
    ------
    LabelError
        There is none, or the names of the classes differ.
    """
    table = given or map_.classes
    if table is None:
        raise LabelError(
            f"{map_.name} has no class table (it was not written by cafe); pass a config with "
            "[[classes]]"
        )
    if map_.classes is not None and map_.classes.names != table.names:
        raise LabelError(
            f"{map_.name} has the classes {', '.join(map_.classes.names)}, "
            f"the config has {', '.join(table.names)}; correct [[classes]]"
        )
    return table


def refuse_hidden(map_: LandCoverMap, classes: ClassTable, hidden: NDArray[np.int64]) -> None:
    """Refuse a map whose declared nodata hides pixels of a class.

    Parameters
    ----------
    map_ : LandCoverMap
    classes : ClassTable
    hidden : ndarray of int64, (K,)
        Hidden pixels per class.

    Raises
    ------
    LabelError
        The message names the class, the nodata value and the number of pixels.
    """
    for land, count in zip(classes, hidden.tolist(), strict=True):
        if count:
            raise LabelError(
                f"{map_.name} declares nodata {land.id}, which is the id of the class {land.name}: "
                f"{count:,} pixels would have no class; if they are {land.name}, remove the "
                "declaration with gdal_edit.py -unsetnodata MAP, otherwise give them another value "
                f"with gdalwarp -srcnodata {land.id} -dstnodata {NODATA} MAP NEW"
            )


def _expand(name: str) -> list[str]:
    if placeholders_of(name):
        return [
            path for _, paths in match_scenes(name, setting="the map").values() for path in paths
        ]
    return expand_inputs([name])


def _check_tables(tables: dict[str, ClassTable]) -> None:
    """Refuse sheets that were made with different classes."""
    for path, table in tables.items():
        first, other = next(iter(tables.items()))
        if table.names != other.names:
            raise LabelError(
                f"{first} has the classes {', '.join(other.names)}, {path} has "
                f"{', '.join(table.names)}: they are not sheets of one map"
            )
