"""Names and colours that a label raster gives to its values, as rows for a config."""

import xml.etree.ElementTree as ET  # nosec B405  # without a DOCTYPE, see below
from collections.abc import Iterator, Mapping

from rasterio.io import DatasetReader

from cafe_cli.classes import NODATA
from cafe_cli.errors import InputError
from cafe_cli.raster.reader import open_raster
from cafe_cli.raster.writer import read_classes
from cafe_cli.system.untrusted import read_text

_LARGEST = 64_000_000  # bytes
_NAME, _VALUE = "2", "5"  # usages of columns in GDAL's raster attribute tables
_NAMES = ("name", "class", "class_name", "classname", "category", "label")


def propose_classes(path: str) -> str:
    """Return ``[[classes]]`` for the named values of a label raster; empty if it names none.

    Names come from the raster's class table, if cafe wrote it, or from GDAL's category names or
    raster attribute table beside it; colours from its colour table.

    Raises
    ------
    InputError
        The raster cannot be opened.
    """
    with open_raster(path) as dataset:
        names = _names(dataset)
        colors = _colors(dataset)
    values = sorted(v for v, name in names.items() if name and v != NODATA)
    rows = (
        f"{{ id = {i}, name = {_quote(names[v])}, "
        + (f'color = "{colors[v]}", ' if v in colors else "")
        + f"values = [{v}] }}"
        for i, v in enumerate(values)
    )
    return f"classes = [{', '.join(rows)}]" if values else ""


def _names(dataset: DatasetReader) -> dict[int, str]:
    """Return the name of each value."""
    if table := read_classes(dataset):
        return {c.id: c.name for c in table}
    try:
        text = read_text(f"{dataset.name}.aux.xml", _LARGEST)
        if "<!DOCTYPE" in text:  # GDAL writes none; entities could expand without end
            return {}
        root = ET.fromstring(text)  # nosec B314  # no DOCTYPE, so no entities
    except (InputError, OSError, UnicodeError, ET.ParseError):
        return {}  # most rasters have none, and it is only for a hint
    categories = enumerate(root.iterfind(".//CategoryNames/Category"))
    found = {value: (node.text or "").strip() for value, node in categories}
    return found or dict(_attribute_table(root))


def _attribute_table(root: ET.Element) -> Iterator[tuple[int, str]]:
    """Yield value and name of the rows of GDAL's raster attribute table."""
    fields = [
        ((node.findtext("Name") or "").lower(), node.findtext("Usage"))
        for node in root.iterfind(".//GDALRasterAttributeTable/FieldDefn")
    ]
    value = next((i for i, (n, use) in enumerate(fields) if use == _VALUE or n == "value"), None)
    name = next((i for i, (n, use) in enumerate(fields) if use == _NAME or n in _NAMES), None)
    if value is None or name is None:
        return
    for row in root.iterfind(".//GDALRasterAttributeTable/Row"):
        cells = [(node.text or "").strip() for node in row.iterfind("F")]
        if len(cells) == len(fields) and cells[value].removesuffix(".0").lstrip("-").isdecimal():
            yield int(cells[value].removesuffix(".0")), cells[name]


def _colors(dataset: DatasetReader) -> Mapping[int, str]:
    try:
        table = dataset.colormap(1)
    except ValueError:  # rasterio's word for a raster without a colour table
        return {}
    return {value: "#" + bytes(rgba[:3]).hex() for value, rgba in table.items()}


def _quote(name: str) -> str:
    """Return a name as a TOML string."""
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
