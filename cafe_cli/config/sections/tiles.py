"""How scenes become a tile set: which ground trains, validates and tests, and the tiles."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from cafe_cli.config.types import (
    STRIDE,
    Count,
    GroundSamplingDistance,
    Name,
    Pattern,
    Section,
    Share,
    Window,
    describe,
)


class SplitSettings(Section):
    """Which part of the scenes trains, validates and tests.

    `validation_scenes`, `test_scenes` and `file` come first. If they assign nothing to validation,
    the share `validation` of the other ground is drawn for it; the same holds for `test`. The
    ground is drawn so that every class occurs in every split if possible: as square blocks, or as
    whole scenes. Blocks lie scattered, or together where scattered ones would leave less than two
    thirds of the training tiles that the shares promise.
    """

    validation: Annotated[
        Share,
        describe(
            "Labelled ground that is used for validation.",
            unit="share of the labels",
            examples=[0.1],
        ),
    ] = 0.2
    test: Annotated[
        Share,
        describe(
            "Labelled ground that is used for testing.", unit="share of the labels", examples=[0.1]
        ),
    ] = 0.0
    validation_scenes: Annotated[
        tuple[Pattern, ...],
        describe("Ids of scenes that are used for validation as a whole.", examples=[["7", "11"]]),
    ] = ()
    test_scenes: Annotated[
        tuple[Pattern, ...],
        describe("Ids of scenes that are used for testing as a whole.", examples=[["2", "4"]]),
    ] = ()
    file: Annotated[
        Pattern | None,
        describe(
            "File that assigns the ground: a CSV table of scenes (column `scene`), or a vector "
            "file of polygons.",
            unset="the shares decide",
            examples=["split.gpkg"],
        ),
    ] = None
    column: Annotated[
        Name,
        describe(
            "Column or attribute of `file` that holds `train`, `validation` or `test`.",
            examples=["part"],
        ),
    ] = "split"
    unit: Annotated[
        Literal["block", "scene"],
        describe("Pieces in which ground is drawn: square blocks or whole scenes."),
    ] = "block"
    folds: Annotated[
        Annotated[int, Field(ge=2)] | None,
        describe(
            "Cross-validation: number of parts into which the ground that does not test is "
            "divided. One of them validates.",
            unit="parts",
            unset="no cross-validation",
            examples=[5],
        ),
    ] = None
    fold: Annotated[
        int,
        Field(ge=0),
        describe(
            "Cross-validation: number of the part that validates, counted from 0.",
            unit="part number",
            examples=[1],
        ),
    ] = 0
    block: Annotated[
        Count | None,
        describe("Side of a block.", unit="pixels", unset="two tiles", examples=[1024]),
    ] = None
    buffer: Annotated[
        int,
        Field(ge=0),
        describe(
            "Distance that training tiles keep from the ground of the other splits.",
            unit="pixels",
            examples=[64],
        ),
    ] = 32
    seed: Annotated[
        int,
        Field(ge=0),
        describe(
            "Seed of the random choice; another number draws other ground.",
            unit="seed",
            examples=[1],
        ),
    ] = 0

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if both := sorted(set(self.validation_scenes) & set(self.test_scenes)):
            raise ValueError(f"validation_scenes and test_scenes both name {', '.join(both)}")
        if self.validation + self.test >= 1:
            raise ValueError(
                f"validation {self.validation} and test {self.test} leave nothing for training"
            )
        if self.folds is not None and self.fold >= self.folds:
            raise ValueError(f"fold {self.fold} of {self.folds}: they are counted from 0")
        if self.folds is not None and self.validation_scenes:
            raise ValueError("folds and validation_scenes both say what validates: choose one")
        return self


class TileSettings(Section):
    """The tiles into which scenes are cut."""

    gsd: Annotated[
        GroundSamplingDistance | None,
        describe(
            "Pixel size to which all scenes are resampled. Scenes of different pixel sizes need "
            "it.",
            unit="metres per pixel",
            unset="the pixel size of the orthophoto",
            examples=[0.2],
        ),
    ] = None
    size: Annotated[
        Window,
        Field(ge=STRIDE),
        describe("Side of a tile.", unit="pixels", examples=[256]),
    ] = 512
    overlap: Annotated[
        int,
        Field(ge=0),
        describe(
            "Overlap of neighbouring training tiles, less than `size`.",
            unit="pixels",
            unset="a quarter of `size`",
            examples=[128],
        ),
    ] = 128
    min_valid: Annotated[
        Share,
        describe(
            "Part of a tile that the orthophoto has to cover; other tiles are left out.",
            unit="share of the tile's area",
            examples=[0.1],
        ),
    ] = 0.5
    min_labelled: Annotated[
        Share,
        describe(
            "Part of a tile that has to be labelled; other tiles are left out.",
            unit="share of the tile's area",
            examples=[0.2],
        ),
    ] = 0.05

    @model_validator(mode="before")
    @classmethod
    def _overlap_a_quarter(cls, values: object) -> object:
        if isinstance(values, dict) and isinstance(size := values.get("size"), int):
            return {"overlap": size // 4, **values}
        return values

    @model_validator(mode="after")
    def _overlap_below_size(self) -> Self:
        if self.overlap >= self.size:
            raise ValueError(f"overlap {self.overlap} is not below the tile size {self.size}")
        return self

    @property
    def stride(self) -> int:
        """Distance from one tile to the next."""
        return self.size - self.overlap
