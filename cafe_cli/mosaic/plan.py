"""Plan a mosaic: check options, inputs and outputs, for the run and for the dry run."""

import colorsys
import os
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cafe_cli.classes import NODATA, ClassTable, LandClass
from cafe_cli.errors import ConfigError, LabelError
from cafe_cli.mosaic.block_folder import check_folders
from cafe_cli.mosaic.grid import PlacedInput, place, target_grid
from cafe_cli.mosaic.job import MosaicInputs, MosaicOptions, MosaicOutputs
from cafe_cli.mosaic.methods import METHODS, Method
from cafe_cli.mosaic.sources import common_classes, inspect_inputs
from cafe_cli.raster.acquired import Acquired, find_acquired
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.output_files import check_rasters
from cafe_cli.raster.product import Product, confidence_product, label_product
from cafe_cli.raster.stac import require_pystac
from cafe_cli.raster.window import Window
from cafe_cli.redaction import base_name


@dataclass(frozen=True)
class MosaicPlan:
    """A mosaic whose inputs and outputs were checked.

    Attributes
    ----------
    outputs : MosaicOutputs
    grid : Grid
    classes : ClassTable or None
        None if no input has a table.
    method : Method
    inputs : list of PlacedInput
    acquired : Acquired or None
        When the images behind the inputs were taken; None unless a STAC item is written.
    """

    outputs: MosaicOutputs
    grid: Grid
    classes: ClassTable | None
    method: Method
    inputs: list[PlacedInput]
    acquired: Acquired | None = None

    @property
    def products(self) -> list[Product]:
        """The rasters to write, labels first."""
        products = [label_product(self.outputs.labels, self.classes)]
        if self.outputs.confidence:
            products.append(confidence_product(self.outputs.confidence))
        if path := self.outputs.sources:
            products.append(Product("sources", path, 1, self._names(), ("source",)))
        return products

    @property
    def names(self) -> tuple[str, ...]:
        """The label rasters."""
        return tuple(placed.source.path for placed in self.inputs)

    @property
    def models(self) -> list[tuple[str, str]]:
        """Name and SHA-256 of the models that made the inputs, as far as their tags say them."""
        found = dict.fromkeys(placed.source.model for placed in self.inputs)
        return [model for model in found if any(model)]

    @property
    def bands(self) -> int:
        """Bands that are read of each input at a time."""
        summed = self.method.needs == "probabilities" and self.classes
        return 1 + len(self.classes or ()) if summed else 1

    def near(self, window: Window) -> list[tuple[int, PlacedInput]]:
        """Return the inputs whose boxes touch a window, with their positions."""
        return [(int(i), self.inputs[i]) for i in np.flatnonzero(self._touching(window))]

    def touches(self, window: Window) -> bool:
        """Whether the box of an input touches a window."""
        return bool(self._touching(window).any())

    def restricted(self, window: Window) -> tuple["MosaicPlan", tuple[int, ...]]:
        """Return the mosaic with the inputs that touch a window, and their positions."""
        near = self.near(window)
        # The mosaic has the classes, once.
        inputs = [replace(p, source=replace(p.source, classes=None)) for _, p in near]
        return replace(self, inputs=inputs), tuple(i for i, _ in near)

    def absolute(self) -> tuple["MosaicPlan", dict[str, str]]:
        """Return the mosaic with names that do not depend on the working folder.

        The second value has the names that were given, by these.
        """
        given = dict[str, str]()

        def absolute(name: str | None) -> str | None:
            if name is None or not os.path.exists(name):
                return name
            given[os.path.abspath(name)] = name
            return os.path.abspath(name)

        inputs = []
        for placed in self.inputs:
            source = replace(
                placed.source,
                path=absolute(placed.source.path) or "",
                confidence=absolute(placed.source.confidence),
                probabilities=absolute(placed.source.probabilities),
            )
            inputs.append(replace(placed, source=source))
        return replace(self, inputs=inputs), given

    def _touching(self, window: Window) -> NDArray[np.bool_]:
        start, end = np.hsplit(self._boxes, 2)
        left, top, right, bottom = window.bounds
        inside = np.logical_and(start < (right, bottom), end > (left, top))
        touching: NDArray[np.bool_] = np.all(inside, axis=1)
        return touching

    @cached_property
    def _boxes(self) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
        return np.array([placed.box.bounds for placed in self.inputs], float)

    def _names(self) -> ClassTable:
        """Return the inputs as classes, so that a viewer names and colours them."""
        count, seen = len(self.inputs), Counter[str]()
        rows = []
        for i, placed in enumerate(self.inputs):
            name = base_name(placed.source.path)
            seen[name] += 1
            rgb = colorsys.hsv_to_rgb(i * 0.618 % 1, 0.5 + 0.5 * (i % 2), 0.6 + 0.4 * (i % 3) / 2)
            color = "#" + "".join(f"{round(255 * part):02x}" for part in rgb)
            rows.append(
                LandClass(i, name if seen[name] == 1 else f"{name} ({i} of {count})", color)
            )
        return ClassTable(tuple(rows))


def plan(inputs: MosaicInputs, outputs: MosaicOutputs, options: MosaicOptions) -> MosaicPlan:
    """Check options, outputs and inputs; errors as in `cafe_cli.mosaic.mosaic`."""
    method = _check_options(inputs, outputs, options)
    like = [options.target.like] if options.target.like else []
    if outputs.block_size is None:
        check_rasters(outputs.paths, [*inputs.paths, *like], outputs.overwrite, [outputs.settings])
    else:
        check_folders(outputs, [*inputs.paths, *like])
    summed = method.needs == "probabilities"
    sources = inspect_inputs(
        inputs,
        confidences=method.needs == "confidences" or bool(outputs.confidence and not summed),
        probabilities=summed,
    )
    classes = common_classes(sources)
    _check_sources(len(sources), outputs, classes, summed)
    acquired = None
    if outputs.stac:
        require_pystac()
        acquired = find_acquired(outputs.stac.datetime, [source.path for source in sources])
    grid = target_grid(sources, options.target)
    return MosaicPlan(outputs, grid, classes, method, place(sources, grid), acquired)


def _check_options(inputs: MosaicInputs, outputs: MosaicOutputs, options: MosaicOptions) -> Method:
    if options.method not in METHODS:
        raise ConfigError(f"unknown method {options.method!r}; known: {', '.join(METHODS)}")
    method = METHODS[options.method]
    if not options.min_area >= 0:
        raise ConfigError(f"min area {options.min_area} is below 0: give square metres")
    if options.min_area and outputs.block_size:
        raise ConfigError(
            "--min-area needs the whole map at once, so it cannot be written in blocks: leave "
            "--min-area out, or --block-size; cafe vectorize --min-area merges small regions of "
            "the index"
        )
    if outputs.resume and outputs.block_size is None:
        raise ConfigError("--resume continues a mosaic in blocks: add --block-size")
    if inputs.confidences and method.needs != "confidences" and outputs.confidence is None:
        raise ConfigError(
            f"nothing uses the confidence rasters: method {options.method!r} does not, and no "
            "confidence output is asked for; leave them out, or choose method 'confidence'"
        )
    if inputs.probabilities and method.needs != "probabilities":
        raise ConfigError(
            f"nothing uses the probabilities: method {options.method!r} does not; leave them out, "
            "or choose method 'probabilities'"
        )
    if outputs.sources and method.choose is None:
        raise ConfigError(
            f"method {options.method!r} combines all inputs, so no label has a single source; "
            "leave --sources out, or choose another method"
        )
    return method


def _check_sources(
    count: int, outputs: MosaicOutputs, classes: ClassTable | None, summed: bool
) -> None:
    if outputs.sources and count > NODATA:
        raise ConfigError(
            f"--sources can distinguish at most {NODATA} inputs, but there are {count}; merge "
            "them in groups, or leave it out"
        )
    if summed and classes is None:
        raise LabelError(
            "the sum of probabilities needs label rasters with a class table; predict them with "
            "cafe, or choose another method"
        )
