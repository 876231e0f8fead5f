"""The area of each class of a land-cover map."""

import csv
import io
from dataclasses import dataclass

import numpy as np

from cafe_cli.classes import NODATA, ClassTable
from cafe_cli.evaluation.land_cover_map import class_table, inspect_map, refuse_hidden
from cafe_cli.evaluation.reference import blocks_of
from cafe_cli.raster.window import Window
from cafe_cli.system.threads import ProgressCallback

_ROWS = 64  # rows of one latitude, where a pixel's area depends on it


@dataclass(frozen=True)
class ClassArea:
    """The area of one class.

    Attributes
    ----------
    id : int
    pixels : float
        A whole number for a whole map; in a zone, pixels on its edge count with their share.
    square_metres : float or None
        None if the map has no CRS, so that nothing tells the size of its pixels.
    share : float
        Of all pixels with a class, 0 to 1; 0 if there are none.
    """

    id: int
    pixels: float
    square_metres: float | None
    share: float

    @property
    def hectares(self) -> float | None:
        """The area in hectares."""
        return None if self.square_metres is None else self.square_metres / 10_000


@dataclass(frozen=True)
class Areas:
    """The areas of the classes of a map.

    Attributes
    ----------
    classes : dict
        Areas by class name, in the order of the ids.
    unclassified : float
        Pixels without a class, in the rectangle around all sheets.
    """

    classes: dict[str, ClassArea]
    unclassified: float

    def as_json(self) -> dict[str, object]:
        """Return plain values; areas are null where they are not known."""
        rows = {
            name: {
                "id": row.id,
                "pixels": row.pixels,
                "square_metres": _rounded(row.square_metres, 3),
                "hectares": _rounded(row.hectares, 7),
                "share": row.share,
            }
            for name, row in self.classes.items()
        }
        return {"classes": rows, "unclassified_pixels": self.unclassified}

    def as_csv(self) -> str:
        """Return a table with a row per class; areas are empty where they are not known."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["id", "class", "pixels", "square_metres", "hectares", "percent"])
        for name, row in self.classes.items():
            metres, hectares = _rounded(row.square_metres, 3), _rounded(row.hectares, 7)
            percent = round(100 * row.share, 4)
            writer.writerow([row.id, name, row.pixels, metres, hectares, percent])
        return text.getvalue()


def measure_areas(
    names: str,
    *,
    classes: ClassTable | None = None,
    crs: str | None = None,
    progress: ProgressCallback = lambda done, total: None,
) -> Areas:
    """Measure the area of each class of a map.

    The size of a pixel is that of `Grid.gsd`, taken anew for every 64 rows and 1024 columns, as it
    depends on the latitude in degrees and in some projections. A degree is taken on a sphere, so
    that areas are off by up to about 1 %; UTM and national grids are off by up to 0.2 % or so.

    Parameters
    ----------
    names : str
        Raster of class ids: a file, folder, glob or @list, read as one map.
    classes : ClassTable, optional
        By default the table that is stored in the map.
    crs : str, optional
        CRS of the rasters that have none.
    progress : callable
        Called with the number of blocks done and of all.

    Raises
    ------
    LabelError
        A value belongs to no class, there is no class table, or the map declares a class as nodata.
    InputError
        A file is missing, damaged or of the wrong kind.
    """
    map_ = inspect_map(names, crs)
    table, grid = class_table(map_, classes), map_.grid
    windows = blocks_of(map_.members, grid)
    counts, hidden = np.zeros((2, NODATA + 1), np.int64)
    metres = np.zeros(NODATA + 1)
    with map_.open(grid, table) as reader:
        for done, window in enumerate(windows, start=1):
            found = reader.read(window)
            hidden += np.bincount(found.hidden.ravel(), minlength=NODATA + 1)
            for row in range(0, window.height, _ROWS):
                rows = found.ids[row : row + _ROWS]
                here = np.bincount(rows.ravel(), minlength=NODATA + 1)
                strip = Window(window.col, window.row + row, window.width, len(rows))
                counts += here
                metres += here * grid.at(strip).gsd ** 2
            progress(done, len(windows))
    refuse_hidden(map_, table, hidden[: len(table)])
    total = max(int(counts[: len(table)].sum()), 1)
    areas = {
        land.name: ClassArea(
            land.id,
            int(counts[land.id]),
            float(metres[land.id]) if grid.crs or grid.pixel_size else None,
            int(counts[land.id]) / total,
        )
        for land in table
    }
    return Areas(areas, grid.width * grid.height - int(counts[: len(table)].sum()))


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
