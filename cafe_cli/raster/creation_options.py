"""Creation options of GDAL's COG driver: which ones a user may set, and what they accept."""

import re
from collections.abc import Mapping

import rasterio.shutil
from rasterio.io import MemoryFile

from cafe_cli.errors import ConfigError
from cafe_cli.raster.geodesy import GDAL_ERRORS
from cafe_cli.raster.reader import gdal_message

_RESAMPLING = "NEAREST|AVERAGE|BILINEAR|CUBIC|CUBICSPLINE|LANCZOS|MODE|RMS"
_LOSSLESS = "NONE|LZW|DEFLATE|ZSTD|LZMA"
_BLOCKS = "128|256|512|1024|2048|4096"

CREATION_OPTIONS = {
    "BIGTIFF": "YES|NO|IF_NEEDED|IF_SAFER",
    "BLOCKSIZE": _BLOCKS,
    "COMPRESS": _LOSSLESS,
    "GEOTIFF_VERSION": "AUTO|1.0|1.1",
    "LEVEL": "1 to 22",
    "NUM_THREADS": "ALL_CPUS|1 to 999",
    "OVERVIEWS": "AUTO|NONE",
    "OVERVIEW_COMPRESS": f"AUTO|{_LOSSLESS}",
    "OVERVIEW_RESAMPLING": _RESAMPLING,
    "PREDICTOR": "YES|NO|STANDARD",
    "SPARSE_OK": "YES|NO|TRUE|FALSE",
    "STATISTICS": "AUTO|YES|NO|TRUE|FALSE",
}
"""Options of GDAL's COG driver that change the storage of a map but not its values, and the values
that they accept. GDAL only warns of unknown options, and some invalid values crash it."""


def check_creation_options(options: Mapping[str, str]) -> None:
    """Refuse creation options that are not in `CREATION_OPTIONS` or that this GDAL cannot write.

    Raises
    ------
    ConfigError
        The message names the option.
    """
    for name, value in options.items():
        if (known := CREATION_OPTIONS.get(name.upper())) is None:
            raise ConfigError(f"--co {name}={value}: choose from {', '.join(CREATION_OPTIONS)}")
        if not _is_one_of(value, known):
            raise ConfigError(f"--co {name}={value}: it can be {known.replace('|', ', ')}")
    given = {name.upper(): value for name, value in options.items()}
    if given and (failure := _try_options(given)):
        said = " ".join(f"--co {name}={value}" for name, value in options.items())
        raise ConfigError(f"{said}: this GDAL cannot write that: {failure}")


def _is_one_of(value: str, known: str) -> bool:
    """Whether a value is one of alternatives like ``A|B|1 to 9``."""
    *words, last = known.split("|")
    if span := re.fullmatch(r"(\d+) to (\d+)", last):
        low, high = map(int, span.groups())
        return value.upper() in words or (value.isdecimal() and low <= int(value) <= high)
    return value.upper() in (*words, last)


def _try_options(options: Mapping[str, str]) -> str | None:
    """Write one pixel with creation options (upper case); return the error message, if any."""
    pixel = {"driver": "GTiff", "width": 1, "height": 1, "count": 1, "dtype": "uint8"}
    compress = options.get("COMPRESS", "DEFLATE").upper()
    try:
        with MemoryFile() as memory, MemoryFile() as copy:
            with memory.open(**pixel):
                pass
            rasterio.shutil.copy(memory.name, copy.name, driver="COG", **options)
            with copy.open() as written:
                used = written.compression.value.upper() if written.compression else "NONE"
    except GDAL_ERRORS as error:
        return gdal_message(error)
    return None if used == compress or "COMPRESS" not in options else f"it uses {used} instead"
