"""STAC items: a map and the rasters beside it, described for catalogues (``NAME.stac.json``)."""

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from shapely.geometry import mapping

from cafe_cli.classes import NODATA, ClassTable
from cafe_cli.errors import ConfigError
from cafe_cli.raster.acquired import Acquired
from cafe_cli.raster.footprint import bounding_box, footprint
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.header import read_tags
from cafe_cli.raster.product import Product
from cafe_cli.raster.reader import open_raster
from cafe_cli.raster.value_counts import Counts, count_files, statistics_tags

if TYPE_CHECKING:
    from pystac import Asset, Item
    from pystac.extensions.classification import Classification

_COG = "image/tiff; application=geotiff; profile=cloud-optimized"
_SHA256 = "1220"  # prefix of a multihash: SHA-256, 32 bytes


@dataclass(frozen=True)
class StacOptions:
    """That a STAC item is written, and how.

    Parameters
    ----------
    datetime : str, optional
        When the images were taken, as `cafe_cli.raster.acquired.parse_acquired` reads it; if None,
        the inputs have to say it.
    """

    datetime: str | None = None


@dataclass(frozen=True)
class ModelFacts:
    """What an item says about the model of a map.

    Parameters
    ----------
    files : sequence of (Path, str)
        Model files, and the SHA-256 of each.
    architecture, torch_version : str
    parameters : int
        Of all files together.
    bands : tuple of str
        Optical bands.
    dtype : str
        Data type of the optical bands.
    has_height : bool
    window : int
        Side of the windows that the network runs on, in pixels.
    classes : ClassTable
    """

    files: Sequence[tuple[Path, str]]
    architecture: str
    torch_version: str
    parameters: int
    bands: tuple[str, ...]
    dtype: str
    has_height: bool
    window: int
    classes: ClassTable


def require_pystac() -> None:
    """Refuse to continue without pystac.

    Raises
    ------
    ConfigError
        The message names the extra to install.
    """
    try:
        import pystac.extensions.mlm  # noqa: F401
    except ImportError as error:
        raise ConfigError("--stac needs pystac: pip install 'pystac>=1.15.2'") from error


def item_text(
    products: Sequence[Product],
    grid: Grid,
    acquired: Acquired,
    model: ModelFacts | None = None,
    finished: Mapping[Path, Path] | None = None,
) -> str:
    """Return the item of a map as JSON. It depends on nothing but the arguments and the files.

    Parameters
    ----------
    products : sequence of Product
        The map, beside which the item is to lie, and its other rasters.
    grid : Grid
        Grid of all of them.
    acquired : Acquired
    model : ModelFacts, optional
        The model, where its file is at hand.
    finished : mapping, optional
        The files that will be renamed to the paths of the products.
    """
    from pystac.extensions.projection import ProjectionExtension

    item = _empty_item(products[0].path, grid, acquired)
    item.properties |= _provenance((finished or {}).get(products[0].path, products[0].path))
    projection = ProjectionExtension.ext(item, add_if_missing=True)
    code = grid.crs.to_epsg() if grid.crs else None
    projection.apply(
        code=f"EPSG:{code}" if code else None,
        wkt2=grid.crs.to_wkt(version="WKT2_2019") if grid.crs and not code else None,
        shape=[grid.height, grid.width],
        transform=list(grid.transform)[:6],
    )
    folder = products[0].path.absolute().parent
    for product in products:
        file = (finished or {}).get(product.path, product.path)
        _add_raster(item, product, file, grid, folder)
    if model:
        _add_model(item, model, folder)
    return json.dumps(item.to_dict(include_self_link=False, transform_hrefs=False), indent=2) + "\n"


def _provenance(file: Path) -> dict[str, str]:
    """Return what a map was made of: the tag ``CAFE_MODEL`` is the property ``cafe:model``."""
    with open_raster(str(file)) as dataset:
        tags = read_tags(dataset)
    mine = (name for name in sorted(tags) if name.startswith("CAFE_"))
    return {name.lower().replace("_", ":", 1): tags[name] for name in mine}


def _empty_item(path: Path, grid: Grid, acquired: Acquired) -> "Item":
    from pystac import Item

    shape = footprint(grid)
    moment = acquired.start == acquired.end
    return Item(
        path.stem,
        geometry=json.loads(json.dumps(mapping(shape))) if shape else None,
        bbox=bounding_box(shape) if shape else None,
        datetime=acquired.start if moment else None,
        start_datetime=None if moment else acquired.start,
        end_datetime=None if moment else acquired.end,
        properties={},
    )


def _add_raster(item: "Item", product: Product, file: Path, grid: Grid, folder: Path) -> None:
    """Add the asset of a raster: bands, statistics, classes, size and checksum."""
    from pystac import Asset
    from pystac.extensions.classification import ClassificationExtension
    from pystac.extensions.raster import DataType, RasterBand, RasterExtension, Statistics

    counts = count_files([file], product.count)
    asset = Asset(_reference(product.path, folder), product.name, None, _COG, ["data"])
    item.add_asset(product.name, asset)
    asset.extra_fields["bands"] = [{"name": name} for name in product.descriptions]
    bands = []
    for band in counts:
        tags = statistics_tags(band, grid.width * grid.height)
        found = {name.removeprefix("STATISTICS_").lower(): float(v) for name, v in tags.items()}
        bands.append(
            RasterBand.create(
                nodata=NODATA,
                data_type=DataType.UINT8,
                unit=product.unit or None,
                spatial_resolution=grid.gsd if grid.crs or grid.pixel_size else None,
                statistics=Statistics.create(**found) if found else None,
            )
        )
    RasterExtension.ext(asset, add_if_missing=True).apply(bands)
    if product.classes:
        classes = ClassificationExtension.ext(asset, add_if_missing=True)
        classes.apply(classes=_classes(product.classes, counts))
    with file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
    _add_checksum(asset, digest, file.stat().st_size)


def _add_checksum(asset: "Asset", digest: str, size: int) -> None:
    from pystac.extensions.file import FileExtension

    FileExtension.ext(asset, add_if_missing=True).apply(checksum=_SHA256 + digest, size=size)


def _classes(classes: ClassTable, counts: Counts | None = None) -> "list[Classification]":
    """Return the classes, with their pixels (bands, 256) if these are given."""
    from pystac.extensions.classification import Classification

    slugs = [_slug(c.name) for c in classes]
    found = []
    for c, slug in zip(classes, slugs, strict=True):
        unique = slug if slug and slugs.count(slug) == 1 else f"{slug or 'class'}_{c.id}"
        count = None if counts is None else int(counts[0, c.id])
        color = c.color[1:].upper()
        found.append(
            Classification.create(c.id, name=unique, title=c.name, color_hint=color, count=count)
        )
    return found


def _slug(text: str) -> str:
    """Return a text with every run of characters that a name in STAC cannot hold as ``_``."""
    return re.sub(r"[^0-9A-Za-z-]+", "_", text).strip("_").lower()


def _reference(path: Path, folder: Path) -> str:
    """Return a relative URL of a file for an item in a folder."""
    relative = Path(os.path.relpath(path.absolute(), folder)).as_posix()
    return quote(relative if relative.startswith("../") else f"./{relative}")


def _add_model(item: "Item", model: ModelFacts, folder: Path) -> None:
    """Describe the model, and add its files as assets."""
    from pystac import Asset
    from pystac.extensions.mlm import (
        AssetGeneralMLMExtension,
        MLMExtension,
        ModelOutput,
        ResultStructure,
        TaskType,
    )

    size, count = model.window, len(model.classes)
    result = ResultStructure.create(
        [-1, count, size, size], ["batch", "class", "height", "width"], _float32()
    )
    name = "-".join(slug for path, _ in model.files if (slug := _slug(path.stem)))
    MLMExtension.ext(item, add_if_missing=True).apply(
        name=f"cafe-{name}".strip("-_"),
        architecture=model.architecture,
        tasks=[TaskType.SEMANTIC_SEGMENTATION],
        framework="PyTorch",
        framework_version=model.torch_version,
        total_parameters=model.parameters,
        input=_model_inputs(model),
        output=[
            ModelOutput.create(
                name="class probabilities",
                tasks=[TaskType.SEMANTIC_SEGMENTATION],
                result=result,
                classes=_classes(model.classes),
            )
        ],
    )
    # pystac writes null for what is not said, which would mean: trained from scratch.
    item.properties.pop("mlm:pretrained_source", None)
    for number, (path, digest) in enumerate(model.files, start=1):
        key = "model" if len(model.files) == 1 else f"model_{number}"
        kind, roles = "application/octet-stream", ["mlm:model"]
        asset = Asset(_reference(path, folder), path.name, None, kind, roles)
        item.add_asset(key, asset)
        asset.extra_fields["bands"] = [{"name": name} for name in _all_bands(model)]
        AssetGeneralMLMExtension.ext(asset).apply(artifact_type="safetensors")
        _add_checksum(asset, digest, path.stat().st_size)


def _model_inputs(model: ModelFacts) -> list[Any]:
    from pystac.extensions.mlm import InputStructure, ModelInput
    from pystac.extensions.raster import DataType

    size, order = model.window, ["batch", "channel", "height", "width"]
    shape = [-1, len(model.bands), size, size]
    optical = InputStructure.create(shape, order, DataType(model.dtype))
    inputs = [ModelInput.create("image", list(model.bands), optical)]
    if model.has_height:
        metres = InputStructure.create([-1, 1, size, size], order, _float32())
        inputs.append(ModelInput.create("height in metres", ["height"], metres))
    return inputs


def _all_bands(model: ModelFacts) -> list[str]:
    return [*model.bands, *(["height"] if model.has_height else [])]


def _float32() -> Any:
    from pystac.extensions.raster import DataType

    return DataType.FLOAT32
