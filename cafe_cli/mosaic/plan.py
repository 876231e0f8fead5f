"""Plan a mosaic: check options, inputs and outputs, for the run and for the dry run."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rasterio.io import DatasetReader

from cafe_cli.classes import ClassTable
from cafe_cli.config.provenance import settings_path
from cafe_cli.errors import BandError, ConfigError, GridError, InputError, LabelError
from cafe_cli.mosaic.grid import MosaicInput, PlacedInput, TargetGrid, place, target_grid
from cafe_cli.mosaic.methods import METHODS, Method
from cafe_cli.raster.acquired import Acquired, find_acquired
from cafe_cli.raster.grid import Grid, describe_crs
from cafe_cli.raster.header import read_tags
from cafe_cli.raster.output_files import check_rasters
from cafe_cli.raster.product import Product, confidence_product, label_product
from cafe_cli.raster.reader import open_raster
from cafe_cli.raster.stac import StacOptions, require_pystac
from cafe_cli.raster.writer import check_nodata, read_classes

log = logging.getLogger("cafe")


@dataclass(frozen=True)
class Confidences:
    """Confidence rasters (0 to 100, 255 for none), one per input in the same order.

    Parameters
    ----------
    inputs : tuple of str
        Each on the same grid as its label raster.
    output : Path, optional
        Where to write the confidence of the mosaic.
    """

    inputs: tuple[str, ...]
    output: Path | None = None


@dataclass(frozen=True)
class MosaicPlan:
    """A mosaic whose inputs and outputs were checked.

    Attributes
    ----------
    output, confidence_output : Path, Path or None
    grid : Grid
    classes : ClassTable or None
        None if no input has a table.
    method : Method
    inputs : list of PlacedInput
    acquired : Acquired or None
        When the images behind the inputs were taken; None unless a STAC item is written.
    """

    output: Path
    confidence_output: Path | None
    grid: Grid
    classes: ClassTable | None
    method: Method
    inputs: list[PlacedInput]
    acquired: Acquired | None = None

    @property
    def products(self) -> list[Product]:
        """The rasters to write, labels first."""
        products = [label_product(self.output, self.classes)]
        if self.confidence_output:
            products.append(confidence_product(self.confidence_output))
        return products

    @property
    def models(self) -> list[tuple[str, str]]:
        """Name and SHA-256 of the models that made the inputs, as far as their tags say them."""
        found = dict.fromkeys(placed.source.model for placed in self.inputs)
        return [model for model in found if any(model)]


def plan(
    inputs: Sequence[str],
    output: Path,
    *,
    method: str = "majority",
    confidences: Confidences | None = None,
    target: TargetGrid | None = None,
    overwrite: bool = False,
    stac: StacOptions | None = None,
) -> MosaicPlan:
    """Check options, outputs and inputs; arguments and errors as in `cafe_cli.mosaic.mosaic`."""
    _check_options(inputs, method, confidences)
    partners, second = (confidences.inputs, confidences.output) if confidences else ((), None)
    outputs = [path for path in (output, second) if path]
    like = [target.like] if target and target.like else []
    check_rasters(outputs, [*inputs, *partners, *like], overwrite, [settings_path(output)])
    sources = _inspect(inputs, confidences)
    acquired = None
    if stac:
        require_pystac()
        acquired = find_acquired(stac.datetime, inputs)
    grid = target_grid(sources, target or TargetGrid())
    classes = _common_classes(sources)
    placed = place(sources, grid)
    return MosaicPlan(output, second, grid, classes, METHODS[method], placed, acquired)


def describe_grid(grid: Grid) -> str:
    """Write size, upper left corner and CRS of a grid."""
    left, _, _, top = grid.bounds
    place = f"from x {left:.10g}, y {top:.10g} in {describe_crs(grid.crs)}"
    return f"{grid.width} x {grid.height} pixels {place}"


def _check_options(inputs: Sequence[str], method: str, confidences: Confidences | None) -> None:
    if not inputs:
        raise ConfigError("no inputs: name at least one label raster")
    if method not in METHODS:
        raise ConfigError(f"unknown method {method!r}; known: {', '.join(METHODS)}")
    if confidences is None:
        if method == "confidence":
            raise ConfigError(
                "method 'confidence' needs the confidence rasters of the inputs; pass them, "
                "or choose another method"
            )
        return
    if len(confidences.inputs) != len(inputs):
        raise ConfigError(
            f"{len(confidences.inputs)} confidence rasters for {len(inputs)} inputs; pass one per "
            "input, in the same order; quote a pattern, so that the shell does not make inputs of "
            "it: --confidence 'FOLDER/*.tif'"
        )
    if method != "confidence" and confidences.output is None:
        raise ConfigError(
            f"nothing uses the confidence rasters: method {method!r} does not, and no confidence "
            "output is asked for; leave them out, or choose method 'confidence'"
        )


def _inspect(inputs: Sequence[str], confidences: Confidences | None) -> list[MosaicInput]:
    """Inspect every input: it has to be a label raster, with its confidence raster if given."""
    partners: Sequence[str | None] = confidences.inputs if confidences else [None] * len(inputs)
    sources = []
    for path, partner in zip(inputs, partners, strict=True):
        with open_raster(path) as dataset:
            _check_kind(path, dataset, "label raster")
            tags = read_tags(dataset)
            model = tags.get("CAFE_MODEL", ""), tags.get("CAFE_MODEL_SHA256", "")
            source = MosaicInput(path, partner, Grid.of(dataset), read_classes(dataset), model)
            if source.classes:
                check_nodata(dataset, source.classes)
        if partner is not None:
            _check_confidence(partner, source)
        sources.append(source)
    return sources


def _check_kind(path: str, dataset: DatasetReader, kind: str) -> None:
    if dataset.count != 1:
        raise BandError(f"{path} has {dataset.count} bands, a {kind} has one; leave it out")
    if dataset.dtypes[0] != "uint8":
        raise InputError(
            f"{path} is {dataset.dtypes[0]}, a {kind} is uint8; leave it out, or convert it with "
            "gdal_translate -ot Byte"
        )


def _check_confidence(path: str, source: MosaicInput) -> None:
    with open_raster(path) as dataset:
        _check_kind(path, dataset, "confidence raster")
        grid = Grid.of(dataset)
    if not grid.same_pixels(source.grid):
        raise GridError(
            f"{path} ({describe_grid(grid)}) does not have the pixels of {source.path} "
            f"({describe_grid(source.grid)}); pass the confidences in the order of the inputs"
        )


def _common_classes(sources: Sequence[MosaicInput]) -> ClassTable | None:
    """Return the table of the first input, None if no input has one."""
    first, classes = sources[0].path, sources[0].classes
    for source in sources[1:]:
        if (classes is None) != (source.classes is None):
            knows, lacks = (first, source.path) if classes else (source.path, first)
            raise LabelError(
                f"{lacks} does not say what its values mean, {knows} does: they may not be the "
                "same classes; leave it out, or predict it anew"
            )
        if classes and source.classes and classes.names != source.classes.names:
            difference = _first_difference(classes.names, source.classes.names)
            raise LabelError(
                f"{first} and {source.path} have different classes: {difference}; mosaic only "
                "what was made with the same class table"
            )
    if classes is None:
        log.warning("no input says what its values mean, so the mosaic has no class names either")
    return classes


def _first_difference(ours: Sequence[str], theirs: Sequence[str]) -> str:
    for id_, (one, other) in enumerate(zip(ours, theirs, strict=False)):
        if one != other:
            return f"{id_} is {one!r} in the first, {other!r} in the second"
    return f"the first has {len(ours)}, the second {len(theirs)}"
