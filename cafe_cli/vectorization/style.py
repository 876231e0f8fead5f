"""Colours of classes for QGIS: a style in its format QML, also stored inside a GeoPackage."""

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from xml.etree import ElementTree as Xml  # nosec B405  # parses nothing

from cafe_cli.classes import LandClass

_COLUMNS = """
    id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, f_table_catalog TEXT(256),
    f_table_schema TEXT(256), f_table_name TEXT(256), f_geometry_column TEXT(256),
    styleName TEXT(30), styleQML TEXT, styleSLD TEXT, useAsDefault BOOLEAN, description TEXT,
    owner TEXT(30), ui TEXT(30),
    update_time DATETIME DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now'))
"""


def make_qml(classes: Sequence[LandClass]) -> str:
    """Return a QGIS style that gives the polygons of each class its colour and its name."""
    root = Xml.Element("qgis", version="3.22.0", styleCategories="Symbology")
    renderer = Xml.SubElement(
        root, "renderer-v2", type="categorizedSymbol", attr="class", enableorderby="0",
        forceraster="0", symbollevels="0",
    )  # fmt: skip
    categories = Xml.SubElement(renderer, "categories")
    symbols = Xml.SubElement(renderer, "symbols")
    for number, land in enumerate(classes):
        Xml.SubElement(
            categories, "category", value=str(land.id), symbol=str(number), label=land.name,
            render="true", type="long",
        )  # fmt: skip
        _add_symbol(symbols, number, land)
    text = Xml.tostring(root, encoding="unicode")
    return f"<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n{text}\n"


def _add_symbol(symbols: Xml.Element, number: int, land: LandClass) -> None:
    red, green, blue = land.rgb
    symbol = Xml.SubElement(
        symbols, "symbol", name=str(number), type="fill", alpha="1", clip_to_extent="1"
    )
    layer = Xml.SubElement(
        symbol,
        "layer",
        {"class": "SimpleFill", "enabled": "1", "locked": "0", "pass": "0"},  # nosec B105  # QGIS
    )
    fill, line = f"{red},{green},{blue},255", f"{red // 2},{green // 2},{blue // 2},255"
    values = {
        "color": fill, "style": "solid", "outline_color": line, "outline_style": "solid",
        "outline_width": "0.1", "outline_width_unit": "MM", "joinstyle": "bevel",
    }  # fmt: skip
    options = Xml.SubElement(layer, "Option", type="Map")
    for key, value in values.items():
        Xml.SubElement(options, "Option", type="QString", name=key, value=value)
        Xml.SubElement(layer, "prop", k=key, v=value)


def store_style(path: Path, layer: str, geometry: str, qml: str) -> None:
    """Store the style of a layer in a GeoPackage, in the table in which QGIS looks for it."""
    with closing(sqlite3.connect(path)) as database, database:
        database.execute(f"CREATE TABLE layer_styles ({_COLUMNS})")
        database.execute(
            "INSERT INTO layer_styles (f_table_catalog, f_table_schema, f_table_name, "
            "f_geometry_column, styleName, styleQML, styleSLD, useAsDefault, description, owner) "
            "VALUES ('', '', ?, ?, 'classes', ?, '', 1, 'colours of the classes', '')",
            (layer, geometry, qml),
        )
        database.execute(
            "INSERT INTO gpkg_contents (table_name, data_type, identifier, description) "
            "VALUES ('layer_styles', 'attributes', 'layer_styles', '')"
        )
