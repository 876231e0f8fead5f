"""What goes in: the files of scenes, the classes, and the meaning of heights and labels."""

from typing import Annotated, Literal, Self

from pydantic import Field, WithJsonSchema, model_validator

from cafe_cli.config.choices import Ground, HeightKind, Unit
from cafe_cli.config.types import (
    Color,
    Count,
    Files,
    GroundSamplingDistance,
    Name,
    Pattern,
    Section,
    describe,
)

_MOST_CELLS = 1000
_RADIUS_CELLS = 10  # the floor of a valley is sought on coarser cells than the ground


class SceneSettings(Section):
    """The files of each scene.

    `{name}` in `optical` matches any part of a file name, and each match is a scene. The other
    patterns repeat it, with `{name:02}` zero-padded to two digits. All matches joined by `_` are
    the id of the scene. Several files that `*` and `?` match, or that a list names, are joined into
    one raster. Paths are relative to `root`; URLs and GDAL's names (`/vsicurl/...`) are allowed.
    """

    optical: Annotated[
        Files,
        describe(
            "Orthophoto: a file, a pattern, or a list of them. Any number of bands, integers or "
            "floating point.",
            examples=["ortho/{id}.tif", ["north.tif", "south.tif"]],
        ),
    ]
    elevation: Annotated[
        Files | None,
        describe(
            "Surface model (DSM or nDSM). Its CRS, resolution and extent may differ from those of "
            "the orthophoto.",
            unset="the scenes have no heights",
            examples=["dsm/{id}_*.tif"],
        ),
    ] = None
    dtm: Annotated[
        Files | None,
        describe(
            "Terrain model (DTM). cafe subtracts it from the surface model to get heights above "
            "ground.",
            unset="the ground is estimated from the surface model",
            examples=["dtm.tif"],
        ),
    ] = None
    labels: Annotated[
        Files | None,
        describe(
            "Reference labels: rasters or vector files.",
            unset="the scenes have no labels",
            examples=["labels/{id}.gpkg"],
        ),
    ] = None
    corrections: Annotated[
        Files | None,
        describe(
            "Newer labels, rasters or vector files of one layer, that are laid over `labels`. "
            "Where a correction has a class, it counts, each file over those before it; elsewhere "
            "the older labels stay. Not every scene needs a file, and a file need not lie in every "
            "scene.",
            unset="there are none",
            examples=[["spring.gpkg", "autumn.gpkg"]],
        ),
    ] = None
    bands: Annotated[
        Annotated[tuple[Count, ...], Field(min_length=1)] | None,
        describe(
            "Bands of the orthophoto to use, in this order, counted from 1.",
            unit="band number",
            unset="all bands but alpha",
            examples=[[4, 1, 2]],
        ),
    ] = None
    crs: Annotated[
        Name | None,
        describe(
            "CRS that cafe assumes for rasters that have none.",
            unset="a raster without a CRS is an error",
            examples=["EPSG:25832"],
        ),
    ] = None
    pixel_size: Annotated[
        GroundSamplingDistance | None,
        describe(
            "Pixel size on the ground of rasters that have no georeference at all.",
            unit="metres per pixel",
            unset="unknown",
            examples=[0.1],
        ),
    ] = None
    optical_nodata: Annotated[
        float | None,
        describe(
            "Nodata value of the orthophotos, used instead of the nodata value and the masks that "
            "they declare. A pixel is void if all bands have it.",
            unit="pixel value",
            unset="what the orthophotos declare",
            examples=[0],
        ),
    ] = None
    only: Annotated[
        tuple[Pattern, ...] | None,
        describe(
            "Ids of the scenes to use.",
            unset="all that the patterns match",
            examples=[["1", "3"]],
        ),
    ] = None
    exclude: Annotated[
        tuple[Pattern, ...],
        describe("Ids of scenes to leave out.", examples=[["7_10"]]),
    ] = ()
    ignore_mismatch: Annotated[
        bool,
        describe(
            "Whether scenes whose pixel values or bands cannot mean the same are a warning instead "
            "of an error."
        ),
    ] = False


class ClassSettings(Section):
    """One class of the maps, in the order of the ids; a `[[classes]]` block for each class."""

    id: Annotated[
        int,
        WithJsonSchema({"type": "integer", "minimum": 0, "maximum": 254}),
        describe(
            "Value of the class in all label rasters that cafe writes. Ids run 0, 1, 2, ... up to "
            "254 without gaps; 255 is nodata.",
            unit="pixel value",
            examples=[0],
        ),
    ]
    name: Annotated[
        Name,
        describe("Name of the class in tables, reports and rasters.", examples=["building"]),
    ]
    color: Annotated[
        str,
        describe(
            "Colour of the class in maps and reports, as `#rrggbb`. Where `labels.encoding` is "
            '`"colors"`, it is the colour of the class in the label rasters, too.',
            unset="a colour from cafe's palette",
            examples=["#d7301f"],
        ),
    ] = ""
    values: Annotated[
        tuple[int | str, ...],
        describe(
            "Values of the input labels that stand for this class: whole numbers, texts, ranges "
            'such as `"10..19"`, or `"*"` for every other value.',
            unit="label value",
            unset="the id of the class, unless another class has that value",
            examples=[[3, "5..8"], ["*"]],
        ),
    ] = ()
    scored: Annotated[
        bool,
        describe(
            "Whether the class counts in mean IoU and mean F1. Every class counts in the overall "
            "accuracy."
        ),
    ] = True


class HeightSettings(Section):
    """The values of the surface model, and the ground below it."""

    kind: Annotated[
        HeightKind,
        describe(
            'What the surface model holds: absolute heights (`"dsm"`) or heights above ground '
            '(`"ndsm"`).'
        ),
    ] = "dsm"
    ground: Annotated[
        Ground,
        describe(
            'Ground that cafe subtracts from a DSM: the terrain model (`"dtm"`), an estimate from '
            'the surface model (`"estimate"`), or nothing (`"none"`). `"auto"` takes the terrain '
            "model if there is one, else the estimate."
        ),
    ] = "auto"
    unit: Annotated[
        Unit,
        describe(
            'Unit of the heights. `"auto"` takes the unit of the raster or of its vertical CRS, '
            "metres if it states neither."
        ),
    ] = "auto"
    nodata: Annotated[
        float | None,
        describe(
            "Nodata value of the surface model and the terrain model, used instead of the one that "
            "they declare.",
            unit="height as stored",
            unset="what the rasters declare",
            examples=[-9999],
        ),
    ] = None
    fill: Annotated[
        float,
        Field(ge=0, le=100),
        describe(
            "Distance over which voids of the heights are filled from the nearest height. Voids "
            "farther away from any height stay nodata. At most 100 m, since as much is read around "
            "every window.",
            unit="metres",
            examples=[5],
        ),
    ] = 2.0
    cell: Annotated[
        float,
        Field(ge=0.01, le=1000),
        describe(
            "Ground filter: side of the cells on which the ground is estimated.",
            unit="metres",
            examples=[1],
        ),
    ] = 2.0
    max_window: Annotated[
        float,
        Field(gt=0, le=5000),
        describe(
            "Ground filter: width of the largest building. Buildings that are wider are taken for "
            "ground. At most 1000 cells, since the filter takes a step for every second cell.",
            unit="metres",
            examples=[300],
        ),
    ] = 160.0
    slope: Annotated[
        float,
        Field(gt=0, le=100),
        describe(
            "Ground filter: steepest slope of the ground. What rises more steeply is taken for a "
            "building or a tree.",
            unit="metres of rise per metre",
            examples=[0.5],
        ),
    ] = 0.25
    valley_radius: Annotated[
        float,
        Field(ge=0, le=5000),
        describe(
            "Radius within which the lowest ground is the floor of a valley. The network then also "
            "sees how high the ground lies above that floor, which tells rivers from meadows above "
            "them. 0: it does not.",
            unit="metres",
            examples=[150],
        ),
    ] = 0.0

    @property
    def planes(self) -> int:
        """Planes of heights that a network sees: the heights, and the one of `valley_radius`."""
        return 2 if self.valley_radius else 1

    @property
    def shows_valleys(self) -> bool:
        """Whether the height of the ground above the floor of its valley is asked for and known."""
        return self.valley_radius > 0 and self.kind == "dsm" and self.ground != "none"

    @model_validator(mode="after")
    def _bound_the_steps_of_the_filter(self) -> Self:
        if self.max_window > _MOST_CELLS * self.cell:
            raise ValueError(
                f"max_window {self.max_window:g} m is {self.max_window / self.cell:,.0f} cells of "
                f"{self.cell:g} m, more than {_MOST_CELLS:,}: raise cell or lower max_window"
            )
        return self

    @model_validator(mode="after")
    def _bound_the_cells_of_valleys(self) -> Self:
        least = _RADIUS_CELLS * self.cell
        if 0 < self.valley_radius < least:
            raise ValueError(
                f"valley_radius {self.valley_radius:g} m is less than {_RADIUS_CELLS} cells of the "
                f"ground: take {least:g} m or more, or 0 for none"
            )
        return self


class LabelSettings(Section):
    """Which values, colours or features of the labels stand for which class."""

    encoding: Annotated[
        Literal["ids", "colors"],
        describe(
            'Label rasters: one band of class values (`"ids"`), or RGB (`"colors"`), where each '
            "pixel gets the class with the nearest colour."
        ),
    ] = "ids"
    ignore: Annotated[
        tuple[int | str, ...] | None,
        describe(
            "Label values that stand for no class: whole numbers, texts, or ranges such as "
            '`"0..9"`.',
            unit="label value",
            unset="255, unless a class has that value",
            examples=[[255, 0]],
        ),
    ] = None
    ignore_colors: Annotated[
        tuple[Color, ...],
        describe(
            "Label rasters in RGB: colours that stand for no class, as `#rrggbb`.",
            examples=[["#000000"]],
        ),
    ] = ()
    table: Annotated[
        Pattern | None,
        describe(
            "CSV file with the columns `value` and `class` (name or id of a class; empty: ignore), "
            "used instead of the `values` of the classes.",
            unset="the `values` of the classes count",
            examples=["label_codes.csv"],
        ),
    ] = None
    attribute: Annotated[
        Name | None,
        describe(
            "Vector labels: attribute that holds the class value.",
            unset="the only attribute, if there is one",
            examples=["code"],
        ),
    ] = None
    layer: Annotated[
        Name | None,
        describe(
            "Vector labels: layer to read.",
            unset="the only layer of the file",
            examples=["land_cover"],
        ),
    ] = None
    priority: Annotated[
        tuple[Name, ...],
        describe(
            "Vector labels: names of classes. Where features overlap, the class that is named "
            "first wins, a named class wins over any other, and otherwise the later feature wins.",
            examples=[["building", "tree"]],
        ),
    ] = ()
    all_touched: Annotated[
        bool,
        describe(
            "Vector labels: whether a feature labels every pixel that it touches, not only those "
            "whose centre it covers."
        ),
    ] = False
    unlabelled: Annotated[
        Name,
        describe(
            'Class of ground without a feature, or where a label raster is nodata: `"ignore"` or '
            "the name of a class.",
            examples=["ground"],
        ),
    ] = "ignore"
    absent: Annotated[
        tuple[Name, ...],
        describe(
            "Names of classes that may be missing from the labels without an error.",
            examples=[["water"]],
        ),
    ] = ()
