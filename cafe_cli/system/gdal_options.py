"""Options of GDAL that hold wherever `cafe` opens a file; GDAL reads them from the environment.

Values that the user has set win, but for code in files, which stays off.
"""

import os

_DEFAULTS = {
    # GDAL's default is 5 % of the machine's memory, more than the bounds on memory set elsewhere
    # allow. This number is in MB; as an argument of rasterio.Env it would be in bytes.
    "GDAL_CACHEMAX": "32",
    # GDAL's default is to wait for ever, and to give up at the first 503.
    "GDAL_HTTP_CONNECTTIMEOUT": "15",  # seconds
    "GDAL_HTTP_LOW_SPEED_TIME": "30",  # seconds below GDAL_HTTP_LOW_SPEED_LIMIT
    "GDAL_HTTP_LOW_SPEED_LIMIT": "100",  # bytes per second
    "GDAL_HTTP_TIMEOUT": "300",  # seconds of one request, which asks for some MB at most
    "GDAL_HTTP_MAX_RETRY": "3",
    "GDAL_HTTP_RETRY_DELAY": "1",  # seconds before the first retry; each further waits longer
    "GDAL_HTTP_RETRY_CODES": "429,500,502,503,504",
}

CODE_OFF = {
    "GDAL_VRT_ENABLE_PYTHON": "NO",
    "GDAL_MEM_ENABLE_OPEN": "NO",
    "OGR_SQLITE_STATIC_VIRTUAL_OGR": "NO",
}
"""A virtual raster may hold code for its pixels, a name an address in memory, and a view of a
database functions that open other files and servers; all would do so with the rights of the user.
"""


def set_gdal_options() -> None:
    """Set the options, before GDAL opens a file: those of rasterio's GDAL and of pyogrio's."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    os.environ.update(CODE_OFF)
