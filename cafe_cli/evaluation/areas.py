"""The area of each class of a land-cover map."""

import csv
import io
from dataclasses import dataclass

from cafe_cli.classes import ClassTable
from cafe_cli.evaluation.frame import Frame, survey
from cafe_cli.evaluation.land_cover_map import class_table, inspect_map
from cafe_cli.evaluation.stratified import Estimate
from cafe_cli.system.batches import Executor, run_in_threads
from cafe_cli.system.threads import ProgressCallback

_COLUMNS = ("id", "class", "pixels", "square_metres", "hectares", "percent")
_ESTIMATED = ("estimated_hectares", "standard_error", "low", "high")


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
    estimate : Estimate or None
        The area in m² that a sample of points tells; None without one, or without a CRS.
    """

    id: int
    pixels: float
    square_metres: float | None
    share: float
    estimate: Estimate | None = None

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
                **_estimate_json(row.estimate),
            }
            for name, row in self.classes.items()
        }
        return {"classes": rows, "unclassified_pixels": self.unclassified}

    def as_csv(self) -> str:
        """Return a table with a row per class; areas are empty where they are not known."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        estimated = any(row.estimate for row in self.classes.values())
        writer.writerow([*_COLUMNS, *(_ESTIMATED if estimated else ())])
        for name, row in self.classes.items():
            metres, hectares = _rounded(row.square_metres, 3), _rounded(row.hectares, 7)
            percent = round(100 * row.share, 4)
            more = _estimate_json(row.estimate).get("estimated_hectares", {})
            writer.writerow([row.id, name, row.pixels, metres, hectares, percent, *more.values()])
        return text.getvalue()


def measure_areas(
    names: str,
    *,
    classes: ClassTable | None = None,
    crs: str | None = None,
    progress: ProgressCallback = lambda done, total: None,
    run: Executor = run_in_threads,
) -> Areas:
    """Measure the area of each class of a map.

    The size of a pixel is that of `row_areas`: on the ellipsoid in degrees, else taken anew every
    64 rows. UTM and national grids are off by up to 0.2 % or so.

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
    run : Executor
        Runs the reading; by default in this process. It does not change the areas.

    Raises
    ------
    LabelError
        A value belongs to no class, there is no class table, or the map declares a class as nodata.
    InputError
        A file is missing, damaged or of the wrong kind.
    """
    map_ = inspect_map(names, crs)
    run.check([member.path for member in map_.members])
    table = class_table(map_, classes)
    return areas_of(survey(map_, table, progress=progress, run=run), table)


def areas_of(frame: Frame, classes: ClassTable) -> Areas:
    """Return the areas of the classes of a map that was read already."""
    metres, total = frame.square_metres, max(int(frame.pixels.sum()), 1)
    areas = {
        land.name: ClassArea(
            land.id,
            int(frame.pixels[land.id]),
            None if metres is None else float(metres[land.id]),
            int(frame.pixels[land.id]) / total,
        )
        for land in classes
    }
    return Areas(areas, frame.unclassified)


def _estimate_json(estimate: Estimate | None) -> dict[str, dict[str, float | None]]:
    """Return an area in hectares with its interval; nothing without an estimate."""
    if estimate is None:
        return {}
    values = estimate.scaled(1e-4).as_json()
    return {"estimated_hectares": {key: _rounded(value, 7) for key, value in values.items()}}


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)
