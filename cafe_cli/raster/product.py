"""The rasters that cafe writes: what their bands and values stand for."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cafe_cli.classes import ClassTable
from cafe_cli.raster.output_files import style_path

_TAG = "CAFE_PRODUCT"
NO_LABELS = ("confidence", "probabilities", "quality", "sources")
"""Products that lie beside a map and are none."""

PERCENT = "%"
"""Unit of bands that hold 0 to 100 per cent."""


@dataclass(frozen=True)
class Product:
    """An output raster: uint8, nodata 255.

    Parameters
    ----------
    name : str
        Name of its content, e.g. ``labels``; part of the names of the strip files.
    path : Path
    count : int
        Bands.
    classes : ClassTable, optional
        Classes that the values of the only band stand for.
    descriptions : tuple of str
        One for every band, or empty.
    unit : str
        Unit of all bands: `PERCENT`, or empty.
    overviews : str, optional
        Resampling of the overviews. If None, ``mode`` with classes and ``average`` without.
    """

    name: str
    path: Path
    count: int = 1
    classes: ClassTable | None = None
    descriptions: tuple[str, ...] = ()
    unit: str = ""
    overviews: str | None = None

    @property
    def tags(self) -> dict[str, str]:
        """Tags that tell labels from other rasters; see `product_of`."""
        return {_TAG: self.name}

    @property
    def claimed(self) -> tuple[Path, Path]:
        """The files to lock: a raster whose name ends otherwise would share the style."""
        return self.path, style_path(self.path)

    @property
    def overview_resampling(self) -> str:
        """Resampling of the overviews."""
        return self.overviews or ("mode" if self.classes else "average")


def product_of(tags: Mapping[str, str]) -> str:
    """Return the name of the product that a raster with these tags is; "" if they do not say."""
    return tags.get(_TAG, "")


def label_product(path: Path, classes: ClassTable | None) -> Product:
    """Return the product of a label raster; without classes, its values have no known meaning."""
    return Product("labels", path, classes=classes, descriptions=("class",), overviews="mode")


def confidence_product(path: Path) -> Product:
    """Return the product of the confidence of a label raster."""
    return Product("confidence", path, descriptions=("confidence",), unit=PERCENT)
