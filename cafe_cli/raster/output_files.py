"""The files that an output raster consists of, checked before anything is written."""

import os
from collections.abc import Sequence
from pathlib import Path

from cafe_cli.errors import ConfigError, OutputError
from cafe_cli.system.atomic_write import check_outputs

_SIDE_FILES = (".aux.xml", ".ovr", ".msk", ".msk.ovr", ".vat.dbf", ".vat.cpg")

SUFFIXES = (".tif", ".tiff")
"""Ends of the names of rasters that are written."""


def side_files(path: Path) -> list[Path]:
    """Return the files that GDAL and ArcGIS read with a GeoTIFF; they are replaced with it."""
    return [path.with_name(f"{path.name}{suffix}") for suffix in _SIDE_FILES]


def metadata_path(path: Path) -> Path:
    """Return GDAL's side file of a raster, for category names and the attribute table."""
    return path.with_name(f"{path.name}.aux.xml")


def overviews_path(path: Path) -> Path:
    """Return the file in which GDAL finds overviews of a raster."""
    return path.with_name(f"{path.name}.ovr")


def style_path(path: Path) -> Path:
    """Return the file from which QGIS takes the style of a raster: ``NAME.qml`` of ``NAME.tif``."""
    return path.with_suffix(".qml")


def stac_path(path: Path) -> Path:
    """Return the STAC item of a raster, ``NAME.stac.json`` of ``NAME.tif``."""
    return path.with_suffix(".stac.json")


def check_rasters(
    outputs: Sequence[Path],
    inputs: Sequence[str],
    overwrite: bool,
    others: Sequence[Path] = (),
    styled: bool = True,
) -> None:
    """Refuse output rasters that cannot be files, exist, or are an input, with their side files.

    Parameters
    ----------
    outputs : sequence of Path
    inputs : sequence of str
        Any names that GDAL understands.
    overwrite : bool
        Whether outputs may exist.
    others : sequence of Path
        More files that are written with the first output.
    styled : bool
        Whether a style for QGIS is written beside each, and a STAC item beside the first.

    Raises
    ------
    ConfigError, OutputError
        Two outputs share a style; or see `check_file`, `check_name` and
        `cafe_cli.system.atomic_write.check_outputs`.
    """
    for path in outputs:
        check_file(path)
        check_name(path)
    sides = {side: path for path in outputs for side in side_files(path)}
    if styled:
        _check_styles(outputs)
        sides |= {style_path(path): path for path in outputs}
        sides[stac_path(outputs[0])] = outputs[0]
    check_outputs(outputs, inputs, overwrite, {**sides, **dict.fromkeys(others, outputs[0])})


def _check_styles(outputs: Sequence[Path]) -> None:
    """Refuse different outputs whose style is one file, as of ``a.tif`` and ``a.tiff``."""
    owners: dict[str, Path] = {}
    for path in {os.path.realpath(path): path for path in outputs}.values():
        owner = owners.setdefault(os.path.realpath(style_path(path)), path)
        if owner != path:
            raise ConfigError(
                f"{owner} and {path} would share the style {style_path(path)}; give them names "
                "that differ before the dot"
            )


def check_name(path: Path) -> None:
    """Refuse a file name that does not end like that of a GeoTIFF, the only format written.

    Raises
    ------
    ConfigError
    """
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(
            f"{path}: rasters are written as GeoTIFF, with a name that ends in "
            f"{' or '.join(SUFFIXES)}: {path.with_suffix('.tif')}; gdal_translate converts it"
        )


def check_file(path: Path) -> None:
    """Refuse a folder for an output."""
    if path.is_dir():
        raise OutputError(f"{path} is a folder; name a file")
