"""The area of interest: which pixels of a scene are wanted."""

import math

import numpy as np
import pyogrio
import shapely
from numpy.typing import NDArray
from rasterio.crs import CRS

from cafe_cli.errors import ConfigError, GridError, InputError
from cafe_cli.raster.grid import GDAL_ERRORS, Grid, describe_crs
from cafe_cli.raster.mosaic_view import parse_crs
from cafe_cli.raster.window import Window
from cafe_cli.vector.features import (
    READ_ERRORS,
    Layer,
    find_layer,
    read_features,
    surroundings,
    to_pixels,
    warn_once,
)
from cafe_cli.vector.geometry import Geometries, single_parts
from cafe_cli.vector.runs import Bounds, Limit, cell_side, filled, survey, wanted

_DEGREES = "EPSG:4326"


class Area:
    """Which pixels of a scene are wanted: those whose centres lie inside all limits.

    It never changes; threads may share it. Inside a limit is what any of its polygons encloses;
    what one polygon encloses twice is outside it, as it is with labels.

    Parameters
    ----------
    scene : Window
        All of its pixels.
    limits : tuple
        None of them: all pixels are wanted.
    name : str
        The scene in errors.

    Attributes
    ----------
    extent : Window
        The smallest one with all wanted pixels.
    pixels : int
        How many are wanted, at least one.
    key : str
        ``whole``, or else a hash of the wanted pixels: how they were drawn does not matter.

    Raises
    ------
    GridError
        No pixel is wanted.
    """

    def __init__(
        self, scene: Window, limits: "tuple[Limit, ...]" = (), name: str = "the scene"
    ) -> None:
        found = survey(scene, limits)
        if found is None:
            raise _nothing(limits, scene, name)
        self._scene = scene
        self._limits = limits
        self._cells = found.cells
        self.extent = found.extent
        self.pixels = found.pixels
        self.key = "whole" if found.pixels == scene.width * scene.height else found.digest

    @classmethod
    def whole(cls, grid: Grid) -> "Area":
        """Return all of a scene."""
        return cls(grid.extent)

    @classmethod
    def within(
        cls, polygons: Geometries, grid: Grid, source: str, *, name: str = "the scene"
    ) -> "Area":
        """Return what lies inside single polygons in pixel coordinates, (N,).

        In errors `source` is where they come from, `name` the scene.

        Raises
        ------
        GridError
            No pixel of the scene lies inside.
        """
        return cls(grid.extent, (Limit.of(source, polygons, grid),), name)

    @classmethod
    def from_file(
        cls, path: str, grid: Grid, layer: str | None = None, *, name: str = "the scene"
    ) -> "Area":
        """Return what lies inside the polygons of a vector file, in any CRS.

        Parameters
        ----------
        path : str
            A file, a URL or any name that GDAL opens as vectors.
        grid : Grid
            That of the scene.
        layer : str, optional
            None where only one may hold polygons.
        name : str
            The scene in errors.

        Raises
        ------
        InputError
            The file is missing or damaged; it has no polygons, not the layer, or several.
        GridError
            A CRS on one side only, no transformation, or no pixel of the scene inside.
        """
        source = find_layer(path, layer or _only_layer(path))
        attribute = next(iter(source.columns), None)  # any: nobody looks at it
        drawn = read_features(path, grid, attribute, source.name, name=name).geometries
        return cls.within(_polygons(path, drawn, name), grid, path, name=name)

    @classmethod
    def from_bbox(
        cls, bounds: Bounds, grid: Grid, crs: str | None = None, *, name: str = "the scene"
    ) -> "Area":
        """Return what lies inside a box.

        Parameters
        ----------
        bounds : tuple of float
            (left, bottom, right, top), x before y: longitude before latitude in any CRS.
        grid : Grid
            That of the scene.
        crs : str, optional
            In which the edges are straight; that of the scene if None. For a scene without CRS,
            bounds are in the units of its plane, or pixels.
        name : str
            The scene in errors.

        Raises
        ------
        ConfigError
            Bounds that are no box, or a CRS that is not known.
        GridError
            A CRS for a scene without one, no transformation, or no pixel of the scene inside.
        """
        box = f"bbox {_listed(bounds)}"
        _check_bounds(box, bounds)
        source = Layer(box, "", _box_crs(box, crs, grid, name), ())
        drawn = _box_pixels(source, bounds, grid, name)
        if not shapely.intersects(drawn, shapely.box(0, 0, grid.width, grid.height)).any():
            raise _elsewhere(source, bounds, grid, name)
        return cls.within(drawn, grid, box, name=name)

    def intersection(self, other: "Area", *, name: str = "the scene") -> "Area":
        """Return what is wanted in both of two areas of one scene.

        Raises
        ------
        GridError
            They share no pixel.
        ValueError
            Their scenes differ in size.
        """
        if self._scene != other._scene:
            raise ValueError(f"areas of {self._scene} and of {other._scene}")
        return Area(self._scene, self._limits + other._limits, name)

    def mask(self, window: Window) -> NDArray[np.bool_]:
        """Return which pixels of a window are wanted, (height, width); none beyond the scene."""
        mask = np.zeros((window.height, window.width), bool)
        inside = window.intersection(self.extent)
        if inside is not None and not self._limits:
            mask[inside.slices(window)] = True
        elif inside is not None:
            runs = wanted(self._scene, self._limits, inside.row, inside.bottom)
            mask[inside.slices(window)] = filled(runs, inside)
        return mask

    def touches(self, window: Window) -> bool:
        """Whether a window may hold wanted pixels; a window without is sometimes taken for one."""
        inside = window.intersection(self.extent)
        if inside is None:
            return False
        side = cell_side(self._scene)
        rows, columns = (slice(s.start // side, -(-s.stop // side)) for s in inside.slices())
        return bool(self._cells[rows, columns].any())


def _only_layer(path: str) -> str | None:
    """Return the one layer that may hold polygons; None leaves it to the reader to complain."""
    try:
        rows = pyogrio.list_layers(path).tolist()
    except READ_ERRORS:
        return None
    drawn = {str(layer): str(kind) for layer, kind in rows if kind is not None}
    names = [n for n, kind in drawn.items() if "Point" not in kind and "Line" not in kind]
    names = names or list(drawn)
    if len(names) > 1:
        raise InputError(
            f"{path} has several layers ({', '.join(names)}); copy the one that holds the area to "
            f"a file of its own: ogr2ogr area.gpkg {path} LAYER"
        )
    return names[0] if names else None


def _polygons(path: str, geometries: Geometries, name: str) -> Geometries:
    """Return single polygons; what else there is counts for nothing."""
    parts, _ = single_parts(geometries)
    areal = shapely.get_dimensions(parts) == 2
    if not areal.any():
        raise InputError(
            f"{path} has no polygon inside {name}, only {len(parts)} points and lines; an area is "
            "drawn as polygons"
        )
    if not areal.all():
        warn_once(f"{path}: {(~areal).sum()} points and lines enclose nothing and are left out")
    polygons: Geometries = parts[areal]
    return polygons


def _check_bounds(box: str, bounds: Bounds) -> None:
    left, bottom, right, top = bounds
    if not all(map(math.isfinite, bounds)):
        raise ConfigError(f"{box} is not made of four finite numbers: left bottom right top")
    for low, lower, high, upper in (("left", left, "right", right), ("bottom", bottom, "top", top)):
        if not lower < upper:
            raise ConfigError(
                f"{box} is not left bottom right top: {low} {lower:.10g} is not below {high} "
                f"{upper:.10g}"
            )


def _box_crs(box: str, text: str | None, grid: Grid, name: str) -> CRS | None:
    if text is None:
        return grid.crs
    crs = parse_crs(text)
    if grid.crs is None:
        raise GridError(
            f"{name} has no CRS while {box} is in {describe_crs(crs)}; leave out the CRS and give "
            f"the bbox in the raster's own coordinates, {_listed(grid.bounds)}, or assign the "
            "right one with gdal_edit.py -a_srs EPSG:CODE FILE"
        )
    return crs


def _box_pixels(source: Layer, bounds: Bounds, grid: Grid, name: str) -> Geometries:
    """Return a box, (N,) polygons in pixels; in another CRS its edges are bent."""
    box = np.array([shapely.box(*bounds)], object)
    around = surroundings(grid, source.crs)
    return single_parts(to_pixels(source, box, grid, around, name))[0]


def _elsewhere(source: Layer, bounds: Bounds, grid: Grid, name: str) -> GridError:
    """Return the error for a box that does not overlap a scene, in the CRS of the box."""
    covered = _covered(grid, source.crs)
    extent = f", which covers {_listed(covered)}" if covered else ""
    return GridError(
        f"{source.path} does not overlap {name}{extent} in {describe_crs(source.crs)}; "
        f"{_remedy(bounds, grid, source.crs)}"
    )


def _remedy(bounds: Bounds, grid: Grid, crs: CRS | None) -> str:
    """Say what else the numbers of a box may mean, if that overlaps the scene."""
    left, bottom, right, top = bounds
    turned = bottom, left, top, right
    if _overlap(turned, _covered(grid, crs)):
        return f"x comes first: {_listed(turned)} does"
    if grid.crs is not None:
        degrees = _covered(grid, CRS.from_user_input(_DEGREES))
        for numbers in (bounds, turned):
            if _overlap(numbers, degrees):
                return f"in degrees {_listed(numbers)} does: name their CRS, {_DEGREES}"
    return "check the numbers and their CRS"


def _overlap(bounds: Bounds, others: Bounds | None) -> bool:
    return others is not None and shapely.box(*bounds).intersects(shapely.box(*others))


def _covered(grid: Grid, crs: CRS | None) -> Bounds | None:
    """Return the bounds of a scene in another CRS, None where it has no place there."""
    try:
        left, bottom, right, top = grid.footprint_in(crs).bounds
    except GDAL_ERRORS:
        return None
    return (left, bottom, right, top) if math.isfinite(left + bottom + right + top) else None


def _listed(bounds: Bounds) -> str:
    return " ".join(f"{number:.10g}" for number in bounds)


def _nothing(limits: tuple[Limit, ...], scene: Window, name: str) -> GridError:
    """Return the error for limits that no pixel centre lies in."""
    if len(limits) > 1:
        names = " and ".join(limit.name for limit in limits)
        return GridError(f"{names} share no pixel of {name}; give one of them, or others")
    left, top, right, bottom = limits[0].bounds
    return GridError(
        f"no pixel of {name} has its centre in {limits[0].name}, which lies between columns "
        f"{left:.6g} and {right:.6g} and rows {top:.6g} and {bottom:.6g} of {scene.width} x "
        f"{scene.height}; draw a larger area"
    )
