"""Inspect the inputs of a mosaic, and find the rasters that belong to each label raster."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from rasterio.io import DatasetReader

from cafe_cli.classes import ClassTable
from cafe_cli.errors import BandError, ConfigError, GridError, InputError, LabelError
from cafe_cli.mosaic.grid import MosaicInput
from cafe_cli.mosaic.job import MosaicInputs
from cafe_cli.raster.grid import Grid, describe_grid
from cafe_cli.raster.header import read_tags
from cafe_cli.raster.product import NO_LABELS, product_of
from cafe_cli.raster.reader import open_raster
from cafe_cli.raster.writer import check_nodata, read_classes

log = logging.getLogger("cafe")


@dataclass(frozen=True)
class _Other:
    """A raster among the inputs that holds no labels, but belongs to a label raster."""

    path: str
    product: str
    grid: Grid
    origin: tuple[str, ...]


def inspect_inputs(
    inputs: MosaicInputs, *, confidences: bool = False, probabilities: bool = False
) -> list[MosaicInput]:
    """Inspect every input: a label raster, with its confidences and probabilities if needed.

    Parameters
    ----------
    inputs : MosaicInputs
    confidences, probabilities : bool
        Whether they are needed: if they are not given, those among the labels are taken that were
        written together with each label raster.

    Raises
    ------
    InputError, BandError, GridError, LabelError
        A file is missing, damaged or none of its kind, or lies elsewhere than its labels.
    ConfigError
        There are no inputs, or confidences or probabilities are missing or too many.
    """
    if not inputs.labels:
        raise ConfigError("no inputs: name at least one label raster")
    found, others, origins = [], list[_Other](), dict[str, tuple[str, ...]]()
    for path in inputs.labels:
        with open_raster(path) as dataset:
            tags = read_tags(dataset)
            product = product_of(tags)
            if product in NO_LABELS:
                others.append(_Other(path, product, Grid.of(dataset), _origin(tags)))
                continue
            _check_kind(path, dataset, "label raster")
            model = tags.get("CAFE_MODEL", ""), tags.get("CAFE_MODEL_SHA256", "")
            source = MosaicInput(path, Grid.of(dataset), read_classes(dataset), model)
            if source.classes:
                check_nodata(dataset, source.classes)
            origins[path] = _origin(tags)
            found.append(source)
    _say_left_out(found, others)
    if confidences:
        names = _partners("confidence", found, inputs.confidences, others, origins)
        found = [replace(s, confidence=n) for s, n in zip(found, names, strict=True)]
    if probabilities:
        names = _partners("probabilities", found, inputs.probabilities, others, origins)
        found = [replace(s, probabilities=n) for s, n in zip(found, names, strict=True)]
    return found


def common_classes(sources: Sequence[MosaicInput]) -> ClassTable | None:
    """Return the table of the first input, None if no input has one.

    Raises
    ------
    LabelError
        Only some have a table, or the names of the classes differ.
    """
    first, classes = sources[0].path, sources[0].classes
    for source in sources[1:]:
        if (classes is None) != (source.classes is None):
            knows, lacks = (first, source.path) if classes else (source.path, first)
            raise LabelError(
                f"{lacks} has no class table, {knows} has one: the classes may differ; leave it "
                "out, or predict it again"
            )
        if classes and source.classes and classes.names != source.classes.names:
            difference = _first_difference(classes.names, source.classes.names)
            raise LabelError(
                f"{first} and {source.path} have different classes: {difference}; mosaic only "
                "what was made with the same class table"
            )
    if classes is None:
        log.warning("no input has a class table, so the mosaic has no class names either")
    return classes


def _origin(tags: Mapping[str, str]) -> tuple[str, ...]:
    """Return what the rasters of one run have in common."""
    return tuple(tags.get(f"CAFE_{key}", "") for key in ("INPUTS", "MODEL_SHA256", "METHOD"))


def _say_left_out(found: Sequence[MosaicInput], others: Sequence[_Other]) -> None:
    counts = Counter(other.product for other in others)
    listed = ", ".join(f"{count} of {product}" for product, count in counts.items())
    if not found:
        raise InputError(
            f"none of the {len(others)} inputs is a label raster, they are rasters of "
            f"{', '.join(counts)}; name the maps"
        )
    if others:
        log.info("not merged, since they are not label rasters: %s", listed)


def _partners(
    product: str,
    sources: Sequence[MosaicInput],
    given: Sequence[str],
    others: Iterable[_Other],
    origins: Mapping[str, tuple[str, ...]],
) -> list[str]:
    """Return the raster of a product for each label raster: the given ones, or those beside it."""
    if given and len(given) != len(sources):
        raise ConfigError(
            f"{len(given)} {product} rasters for {len(sources)} label rasters; pass one per label "
            "raster, in the same order; quote a pattern, so that the shell does not make inputs "
            f"of it: --{product} 'FOLDER/*.tif'"
        )
    if given:
        for path, source in zip(given, sources, strict=True):
            _check_partner(path, source, product)
        return [*given]
    return [_find_beside(product, s, others, origins[s.path]) for s in sources]


def _find_beside(
    product: str, source: MosaicInput, others: Iterable[_Other], origin: tuple[str, ...]
) -> str:
    fitting = [
        other.path
        for other in others
        if other.product == product
        and other.origin == origin
        and other.grid.same_pixels(source.grid)
    ]
    if len(fitting) != 1:
        why = f"{len(fitting)} fit" if fitting else "none among the inputs fits"
        raise ConfigError(
            f"{source.path} needs its {product} raster, and {why}; pass one per label raster, in "
            f"the same order, with --{product}, or choose another method"
        )
    return fitting[0]


def _check_partner(path: str, source: MosaicInput, product: str) -> None:
    kind = "confidence raster" if product == "confidence" else "raster of probabilities"
    bands = len(source.classes) if source.classes and product == "probabilities" else 1
    with open_raster(path) as dataset:
        _check_kind(path, dataset, kind, bands)
        grid = Grid.of(dataset)
    if not grid.same_pixels(source.grid):
        raise GridError(
            f"{path} ({describe_grid(grid)}) does not have the pixels of {source.path} "
            f"({describe_grid(source.grid)}); pass the rasters in the order of the label rasters"
        )


def _check_kind(path: str, dataset: DatasetReader, kind: str, bands: int = 1) -> None:
    if dataset.count != bands:
        count = "one" if bands == 1 else str(bands)
        raise BandError(f"{path} has {dataset.count} bands, a {kind} has {count}; leave it out")
    if dataset.dtypes[0] != "uint8":
        raise InputError(
            f"{path} is {dataset.dtypes[0]}, a {kind} is uint8; leave it out, or convert it with "
            "gdal_translate -ot Byte"
        )


def _first_difference(ours: Sequence[str], theirs: Sequence[str]) -> str:
    for id_, (one, other) in enumerate(zip(ours, theirs, strict=False)):
        if one != other:
            return f"{id_} is {one!r} in the first, {other!r} in the second"
    return f"the first has {len(ours)}, the second {len(theirs)}"
