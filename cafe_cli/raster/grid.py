"""Grids: CRS, affine transform and size of a raster, and the overlap of two."""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeAlias

from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.io import DatasetReader
from rasterio.warp import transform_geom
from shapely.geometry import Polygon, mapping, shape

from cafe_cli.errors import ConfigError, GridError
from cafe_cli.raster.geodesy import GDAL_ERRORS, unit_metres
from cafe_cli.raster.header import read_tags
from cafe_cli.raster.window import Window
from cafe_cli.text import short_repr

Bounds: TypeAlias = tuple[float, float, float, float]
"""(left, bottom, right, top) in a CRS."""

FARTHEST, _SMALLEST = 1e12, 1e-12  # units of a CRS: of a coordinate, and of a pixel


@dataclass(frozen=True)
class Grid:
    """CRS, affine transform and size of a raster.

    Parameters
    ----------
    crs : CRS or None
        None if the raster declares none.
    transform : Affine
        From pixel coordinates (column, row) to CRS coordinates.
    width, height : int
        Pixels.
    pixel_size : float, optional
        Metres per pixel on the ground, said by the user of a raster without georeference.
    """

    crs: CRS | None
    transform: Affine
    width: int
    height: int
    pixel_size: float | None = None

    @classmethod
    def of(cls, dataset: DatasetReader) -> "Grid":
        """Return the grid of an open raster.

        Raises
        ------
        GridError
            The raster is placed by something else than a geotransform, and has to be warped first;
            or its geotransform places no pixel.
        """
        if dataset.transform.is_identity:
            _refuse_other_placement(dataset)
        _check_invertible(dataset)
        return cls(dataset.crs, dataset.transform, dataset.width, dataset.height)

    @classmethod
    def covering(cls, crs: CRS | None, bounds: Bounds, cell: float, margin: int) -> "Grid":
        """Return a north-up grid of square cells over bounds, `margin` cells larger all round."""
        left, bottom, right, top = bounds
        width, height = (math.ceil(d / cell) + 2 * margin for d in (right - left, top - bottom))
        origin = Affine.translation(left - margin * cell, top + margin * cell)
        return cls(crs, origin @ Affine.scale(cell, -cell), width, height)

    @property
    def extent(self) -> Window:
        """The whole raster as a window."""
        return Window(0, 0, self.width, self.height)

    @cached_property
    def footprint(self) -> Polygon:
        """Outline in CRS coordinates; the grid may be rotated."""
        corners = [(0, 0), (self.width, 0), (self.width, self.height), (0, self.height)]
        return Polygon([self.transform @ corner for corner in corners])

    @property
    def bounds(self) -> Bounds:
        """(left, bottom, right, top) in CRS coordinates."""
        left, bottom, right, top = self.footprint.bounds
        return left, bottom, right, top

    @property
    def is_georeferenced(self) -> bool:
        """Whether the raster is georeferenced: it has a CRS or at least a transform."""
        return self.crs is not None or not self.transform.is_identity

    @property
    def is_at_origin(self) -> bool:
        """Whether a corner is at the origin of the coordinates, as where a file lost its place."""
        left, bottom, right, top = self.bounds
        return 0 in (left, right) and 0 in (bottom, top)

    @property
    def has_pixel_size(self) -> bool:
        """Whether it is known, or at least likely, how many metres a pixel has on the ground.

        A raster without a CRS that has the transform of its own pixels says nothing about it.
        """
        a, b, c, d, e, f = self.transform[:6]
        own_pixels = (a, b, c, d, abs(e)) == (1, 0, 0, 0, 1) and f in (0, self.height)
        return self.crs is not None or self.pixel_size is not None or not own_pixels

    @cached_property
    def unit_metres(self) -> float:
        """Metres on the ground per unit of the CRS at the grid's centre; 1 without a CRS."""
        if self.pixel_size is not None:
            return self.pixel_size
        centre = self.footprint.centroid
        return unit_metres(self.crs, (centre.x, centre.y))

    @property
    def gsd(self) -> float:
        """Ground sampling distance in metres: the square root of the area of a pixel."""
        return math.sqrt(abs(self.transform.determinant)) * self.unit_metres

    def at(self, window: Window) -> "Grid":
        """Return the grid of a window."""
        shifted = self.transform @ Affine.translation(window.col, window.row)
        return replace(self, transform=shifted, width=window.width, height=window.height)

    def rescaled(self, factor: float) -> "Grid":
        """Return the grid with pixels `factor` times as large that covers the same ground."""
        width, height = (max(1, math.ceil(n / factor - 1e-6)) for n in (self.width, self.height))
        larger = self.transform @ Affine.scale(factor)
        return replace(self, transform=larger, width=width, height=height)

    def same_pixels(self, other: "Grid") -> bool:
        """Whether both grids have the same pixels, to a thousandth of one."""
        if (self.crs, self.width, self.height) != (other.crs, other.width, other.height):
            return False
        ours = ~self.transform @ other.transform
        corners = [(0, 0), (self.width, 0), (0, self.height)]
        return all(math.dist(ours @ corner, corner) < 1e-3 for corner in corners)

    def footprint_in(self, crs: CRS | None) -> Polygon:
        """Return the outline in another CRS, with 80 vertices or more to follow its curvature."""
        if self.crs == crs or self.crs is None or crs is None:
            return self.footprint
        step = self.footprint.length / 80
        # The extent of a vector file may be a point or a line, which has no outline to divide.
        sound = 0 < self.footprint.area < math.inf
        outline = self.footprint.segmentize(step) if sound else self.footprint
        return shape(transform_geom(self.crs, crs, mapping(outline)))


def _check_invertible(dataset: DatasetReader) -> None:
    """Refuse a geotransform that is not finite, or whose pixels have no area."""
    place = dataset.transform
    largest = max(map(abs, place[:6]))
    pixel = math.sqrt(abs(place.determinant)) if largest < FARTHEST else math.nan
    if not _SMALLEST < pixel < math.inf:
        raise GridError(
            f"{dataset.name} has an invalid geotransform: "
            f"{', '.join(f'{number:g}' for number in place.to_gdal())}; write it again with "
            "gdal_edit.py -a_ullr LEFT TOP RIGHT BOTTOM"
        )


def _refuse_other_placement(dataset: DatasetReader) -> None:
    """Refuse a raster without a geotransform that control points, RPCs or arrays place."""
    points, crs = dataset.gcps
    if points:
        code = crs.to_authority() if crs is not None and crs.is_projected else None
        means, options = "ground control points", f"-t_srs {':'.join(code or ('EPSG', 'CODE'))}"
    elif dataset.rpcs:
        means = "rational polynomial coefficients (RPCs)"
        options = "-rpc -to RPC_DEM=DTM -t_srs EPSG:CODE"
    elif read_tags(dataset, "GEOLOCATION"):
        means, options = "geolocation arrays", "-geoloc -t_srs EPSG:CODE"
    elif dataset.crs is not None:
        raise GridError(
            f"{dataset.name} is in {describe_crs(dataset.crs)} but has no geotransform, so its "
            "position is unknown: add one with gdal_translate -a_ullr, or a world file"
        )
    else:
        return
    raise GridError(
        f"{dataset.name} has no geotransform, only {means}: warp it first, e.g. gdalwarp "
        f"{options} {dataset.name} WARPED.tif"
    )


def check_overlap(name: str, grid: Grid, reference: str, target: Grid) -> float:
    """Return the share of `target` that a raster covers, 0 to 1.

    Raises
    ------
    GridError
        The rasters are disjoint (the message holds both extents in the CRS of the reference), only
        one has a CRS, or there is no transformation between the CRSs.
    """
    if (grid.crs is None) != (target.crs is None):
        lacking, other, crs = (name, reference, target.crs) if grid.crs is None else (
            reference, name, grid.crs)  # fmt: skip
        raise GridError(
            f"{lacking} has no CRS while {other} is in {describe_crs(crs)}; "
            f"assign the right one, e.g. gdal_edit.py -a_srs EPSG:CODE {lacking}"
        )
    try:
        covering, covered = grid.footprint_in(target.crs), target.footprint_in(grid.crs)
    except GDAL_ERRORS as error:
        raise GridError(
            f"cannot transform {name} from {describe_crs(grid.crs)} to {describe_crs(target.crs)}, "
            f"the CRS of {reference}"
        ) from error
    # In both CRSs, since an outline may be invalid far outside the area of a projection.
    share = max(_overlap_share(covering, target.footprint), _overlap_share(grid.footprint, covered))
    if share <= 0:
        raise GridError(
            f"{name} does not overlap {reference}: in {describe_crs(target.crs)} the first covers "
            f"{_extent(covering.bounds)}, the second {_extent(target.bounds)}; "
            "check the files and their CRS"
        )
    return share


def parse_crs(text: str | None) -> CRS | None:
    """Parse a CRS that a user gave, e.g. ``EPSG:25832``, WKT or PROJ; None stays None.

    Raises
    ------
    ConfigError
        PROJ does not know the CRS.
    """
    if text is None:
        return None
    try:
        return CRS.from_user_input(text)
    except (CRSError, ValueError) as error:
        raise ConfigError(f"{short_repr(text)} is not a CRS; write it like EPSG:25832") from error


def describe_grid(grid: Grid) -> str:
    """Write size, upper left corner and CRS of a grid."""
    left, _, _, top = grid.bounds
    place = f"from x {left:.10g}, y {top:.10g} in {describe_crs(grid.crs)}"
    return f"{grid.width} x {grid.height} pixels {place}"


def describe_crs(crs: CRS | None) -> str:
    """Return a short name of a CRS: its authority code, or else its title."""
    if crs is None:
        return "pixel coordinates (no CRS)"
    code = crs.to_authority()
    return ":".join(code) if code else str(crs.to_wkt()).split('"')[1]


def _overlap_share(cover: Polygon, whole: Polygon) -> float:
    """Return the share of a polygon that another covers, 0 where either is invalid."""
    if not (cover.is_valid and whole.is_valid):
        return 0.0
    return float(cover.intersection(whole).area / whole.area)


def _extent(bounds: Bounds) -> str:
    left, bottom, right, top = bounds
    return f"x {left:.10g} to {right:.10g}, y {bottom:.10g} to {top:.10g}"
