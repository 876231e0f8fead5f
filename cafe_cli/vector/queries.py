"""Layers that are queries: views of GeoPackage and SpatiaLite, and SQL in virtual data sources.

GDAL counts the features of a layer before it reads them, and a query may never end.
"""

import os
import sqlite3
from contextlib import closing
from functools import partial
from urllib.parse import quote

from cafe_cli.errors import InputError
from cafe_cli.system.atomic_write import is_file_name

_MOST_FEATURES = 10_000_000
_STEP, _MOST_STEPS = 1_000_000, 500  # instructions of SQLite, some seconds in all


def check_source(path: str) -> None:
    """Refuse a virtual data source (OGR VRT) with SQL in it.

    Raises
    ------
    InputError
        The message says how to store the result of the query.
    """
    head = _read_head(path)
    if b"<OGRVRT" in head and b"<srcsql" in head.lower():
        raise InputError(
            f"{path} holds an SQL query, which may never end; store its result with ogr2ogr "
            f"RESULT.gpkg {path}, and name that"
        )


def check_views(path: str, layer: str | None = None) -> None:
    """Refuse a database with a view that has no end, or too many features.

    Parameters
    ----------
    path : str
        A file of any format; only databases of SQLite have views.
    layer : str, optional
        The view to count. If None, the first feature of every view is looked for, as GDAL does
        when it opens the database.

    Raises
    ------
    InputError
        There are more than ten million features, or they are not found within some seconds.
    """
    if not _read_head(path).startswith(b"SQLite format 3\0"):
        return
    most = _MOST_FEATURES if layer else 0
    try:
        uri = f"file:{quote(os.path.abspath(path))}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True)) as db:
            db.text_factory = partial(str, encoding="utf-8", errors="replace")
            endless = [n for n, query in _views(db, layer) if not _ends(db, n, query, most)]
    except sqlite3.DatabaseError:  # told where GDAL reads the file
        return
    if endless:
        raise InputError(
            f"{path} has a view, {endless[0]}, whose query gives more than {_MOST_FEATURES:,} "
            f"features, or never ends; store its result with ogr2ogr RESULT.gpkg {path} "
            f"{endless[0]} if it ends, or drop the view"
        )


def _views(db: sqlite3.Connection, layer: str | None) -> list[tuple[str, str]]:
    """Return name and query of a view of that name, or of all views."""
    rows = db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'view'").fetchall()
    return [(n, q) for n, q in rows if layer is None or n.lower() == layer.lower()]


def _ends(db: sqlite3.Connection, view: str, query: str, most: int) -> bool:
    """Whether a view gives `most` rows or fewer, or any with `most` 0, within bounded steps."""
    steps = iter(range(_MOST_STEPS))
    db.set_progress_handler(lambda: next(steps, None) is None, _STEP)
    quoted = view.replace('"', '""')
    # A name cannot be a parameter, and is quoted.
    counted = 'SELECT count(*) FROM (SELECT 1 FROM "' + quoted + '" LIMIT ?)'  # nosec B608  # see above
    try:
        count = int(db.execute(counted, (most + 1,)).fetchone()[0])
    except sqlite3.OperationalError:
        # Interrupted; or it calls a function of GDAL, without which it cannot be counted here.
        return next(steps, None) is not None and "recursive" not in query.lower()
    return not most or count <= most


def _read_head(path: str) -> bytes:
    """Return the first bytes of a local file; none of what is none."""
    if not is_file_name(path) or not os.path.isfile(path):
        return b""
    try:
        with open(path, "rb") as file:
            return file.read(1_000_000)
    except OSError:
        return b""
