"""The side files of a raster: names and counts of its values for GIS programs, and their colours.

GDAL, and with it QGIS and ArcGIS, reads category names and the raster attribute table from
``FILE.aux.xml``; QGIS reads a style from ``NAME.qml``.
"""

from pathlib import Path
from xml.sax.saxutils import escape  # nosec B406  # parses nothing

from cafe_cli.classes import ClassTable
from cafe_cli.raster.output_files import metadata_path, side_files, style_path
from cafe_cli.raster.product import PERCENT, Product
from cafe_cli.raster.qgis_style import paletted_style, percent_style
from cafe_cli.raster.value_counts import Counts
from cafe_cli.system.atomic_write import remove, write_text

_INTEGER, _REAL, _TEXT = 0, 1, 2  # GDALRATFieldType
_COLUMNS = (
    ("Value", _INTEGER, 5), ("Count", _REAL, 1), ("Class", _TEXT, 2),
    ("Red", _INTEGER, 6), ("Green", _INTEGER, 7), ("Blue", _INTEGER, 8),
)  # fmt: skip
"""Columns of the attribute table: name, type, and usage (GDALRATFieldUsage). GDAL's integers have
32 bits, too few for the pixels of a large map."""


def side_texts(product: Product, counts: Counts) -> dict[Path, str]:
    """Return the side files of a raster and their text; none if the meaning of values is unknown.

    Parameters
    ----------
    product : Product
    counts : ndarray of int, (bands, 256)
        Pixels by value.
    """
    if classes := product.classes:
        return {
            metadata_path(product.path): attribute_table(classes, counts),
            style_path(product.path): paletted_style(classes),
        }
    return {style_path(product.path): percent_style()} if product.unit == PERCENT else {}


def write_side_files(product: Product, counts: Counts) -> None:
    """Write the side files of a raster; remove those of the raster that it has replaced."""
    texts = side_texts(product, counts)
    for path in (*side_files(product.path), style_path(product.path)):
        if path in texts:
            write_text(path, texts[path])
        else:
            remove(path)


def attribute_table(classes: ClassTable, counts: Counts) -> str:
    """Return ``FILE.aux.xml``; arguments as of `legend_elements`."""
    legend = legend_elements(classes, counts)
    return f'<PAMDataset><PAMRasterBand band="1">\n{legend}</PAMRasterBand></PAMDataset>\n'


def legend_elements(classes: ClassTable, counts: Counts) -> str:
    """Return category names, and the attribute table with a row for each class, as GDAL's XML.

    Parameters
    ----------
    classes : ClassTable
    counts : ndarray of int, (1, 256)
        Pixels by class id.
    """
    names = "".join(f"<Category>{escape(c.name)}</Category>" for c in classes)
    fields = "".join(
        f'<FieldDefn index="{index}"><Name>{name}</Name><Type>{kind}</Type><Usage>{usage}</Usage>'
        "</FieldDefn>\n"
        for index, (name, kind, usage) in enumerate(_COLUMNS)
    )
    rows = "".join(
        f'<Row index="{c.id}">'
        + "".join(f"<F>{cell}</F>" for cell in (c.id, counts[0, c.id], escape(c.name), *c.rgb))
        + "</Row>\n"
        for c in classes
    )
    return (
        f"<CategoryNames>{names}</CategoryNames>\n"
        f'<GDALRasterAttributeTable tableType="thematic">\n{fields}{rows}'
        "</GDALRasterAttributeTable>\n"
    )
