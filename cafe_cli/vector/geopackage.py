"""Check a GeoPackage that was written: GDAL passes over some failed writes without an error."""

import sqlite3
from contextlib import closing
from pathlib import Path


def check_geopackage(path: Path) -> None:
    """Read a GeoPackage back.

    Raises
    ------
    OSError
        A page is damaged, or a layer has no spatial index of all its geometries.
    """
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            faults = [
                row[0] for row in database.execute("PRAGMA integrity_check") if row[0] != "ok"
            ]
            layers = database.execute("SELECT table_name, column_name FROM gpkg_geometry_columns")
            faults += [name for name, column in layers if not _is_indexed(database, name, column)]
    except sqlite3.Error as error:
        raise OSError(f"what was written cannot be read back: {error}") from error
    if faults:
        raise OSError(f"what was written cannot be read back: {faults[0]}")


def _is_indexed(database: sqlite3.Connection, layer: str, column: str) -> bool:
    """Whether the spatial index of a layer holds as many boxes as the layer has geometries."""
    index, table, geometry = (  # the table behind the index, for an SQLite without R*Tree
        _quoted(name) for name in (f"rtree_{layer}_{column}_rowid", layer, column)
    )
    counts = (  # of names in the file itself, which are quoted
        f"SELECT count(*) FROM {index}",  # nosec B608
        f"SELECT count({geometry}) FROM {table}",  # nosec B608
    )
    indexed, geometries = (int(database.execute(text).fetchone()[0]) for text in counts)
    return indexed == geometries


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
