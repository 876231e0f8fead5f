"""``cafe heights --with-image``: a scene as bands of 8 bits, the height last.

For programs that read nothing else. `cafe_cli.exporting.eight_bit` has the inverse, as a part of a
network.
"""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp

from cafe_cli.config.provenance import dump_settings, provenance_tags, settings_path
from cafe_cli.config.schema import HeightSettings
from cafe_cli.errors import ConfigError
from cafe_cli.findings import Report, log_warnings
from cafe_cli.raster.grid import describe_grid
from cafe_cli.raster.output_files import check_rasters
from cafe_cli.raster.window import blocks
from cafe_cli.raster.writer import create_image_cog
from cafe_cli.scenes.band_names import color_of
from cafe_cli.scenes.discovery import SceneFiles
from cafe_cli.scenes.height_map import ABOVE, HeightSource, HeightSummary
from cafe_cli.scenes.inspection import SceneInspection, inspect_scene
from cafe_cli.scenes.scene import Patch, find_scene_ground, open_scene
from cafe_cli.system.output_group import claim_outputs
from cafe_cli.system.threads import ProgressCallback

log = logging.getLogger("cafe")

_WINDOW = 1024  # pixels along each side; a multiple of the blocks of a COG

HEIGHT_STEP = 0.25
"""Metres between two values of the height band."""

HEIGHT_VOID = 255
"""Value of the height band where there is no height."""

HIGHEST = (HEIGHT_VOID - 1) * HEIGHT_STEP
"""Metres, 63.5: higher ground and buildings have this height in the band."""


def encode_heights(height: NDArray[np.float32], valid: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return heights in steps of `HEIGHT_STEP`, (height, width) uint8, `HEIGHT_VOID` if not valid.

    Parameters
    ----------
    height : ndarray of float32, (height, width)
        Metres above ground. Those below 0 become 0, those above `HIGHEST` become that.
    valid : ndarray of bool, (height, width)
    """
    # where first: a void may hold NaN, which has no value as an integer.
    steps = np.rint(np.where(valid, height, 0) / HEIGHT_STEP).clip(0, HEIGHT_VOID - 1)
    return np.where(valid, steps, HEIGHT_VOID).astype(np.uint8)


def encode_image(optical: NDArray[np.generic], valid: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return the bands of an image, 0 in all of them where it has no data, and only there.

    Black pixels with data become 1 in all bands.

    Parameters
    ----------
    optical : ndarray of uint8, (bands, height, width)
    valid : ndarray of bool, (height, width)
    """
    black = valid & (optical == 0).all(axis=0)
    return np.where(valid, np.where(black, 1, optical), 0).astype(np.uint8)


def encode(patch: Patch, heights: bool) -> NDArray[np.uint8]:
    """Return a patch as bands of 8 bits, (bands, height, width), the heights last if asked for."""
    image = encode_image(patch.optical, patch.optical_valid)
    if not heights:
        return image
    # Beyond the image there is nothing: programs fill what lies beyond a raster with zeros.
    known = encode_heights(patch.height, patch.height_valid)
    return np.concatenate([image, np.where(patch.optical_valid, known, 0)[None]])


def write_heights(
    source: HeightSource,
    output: Path,
    settings: HeightSettings | None = None,
    *,
    overwrite: bool = False,
    progress: ProgressCallback = lambda done, total: None,
) -> HeightSummary:
    """Write the bands of an orthophoto and the heights above ground as one raster of 8 bits.

    Parameters
    ----------
    source : HeightSource
        With an orthophoto, whose grid the raster has.
    output : Path
        COG, uint8, without nodata; its settings are written to a file with ``.toml`` appended to
        the name.
    settings : HeightSettings, optional
        Unit, nodata and ground among others.
    overwrite : bool
        Replace an output that exists.
    progress : callable
        Called with the number of windows done and in total.

    Raises
    ------
    ConfigError
        The orthophoto does not have 8 bits, the heights are to be absolute, the output is an input
        or is not named like a GeoTIFF, or the ground is to come from a missing terrain model.
    InputError, GridError, BandError
        See `cafe_cli.scenes.inspection.inspect_scene`.
    OutputError
        The output exists or cannot be written.
    """
    settings = settings or HeightSettings()
    _check_output(source, output, overwrite)
    inspection, description = _inspect(source, settings)
    log_warnings(inspection.findings)
    grid = inspection.grid
    made = dump_settings({"source": vars(source), "height": settings.model_dump()})
    texts, tags = {settings_path(output): made}, provenance_tags(source.paths, [])
    todo = list(blocks(grid.width, grid.height, _WINDOW))
    lowest, highest, known = np.inf, -np.inf, 0
    with (
        claim_outputs([output], overwrite),
        create_image_cog(output, grid, overwrite, _bands(inspection), tags, texts) as dataset,
        open_scene(inspection, find_scene_ground(inspection)) as scene,
    ):
        for done, window in enumerate(todo, start=1):
            patch = scene.read(window)
            rows, cols = window.slices()
            place = ((rows.start, rows.stop), (cols.start, cols.stop))
            dataset.write(encode(patch, heights=True), window=place)
            if patch.height_valid.any():
                lowest = min(lowest, float(patch.height[patch.height_valid].min()))
                highest = max(highest, float(patch.height[patch.height_valid].max()))
                known += int(patch.height_valid.sum())
            progress(done, len(todo))
    if highest > HIGHEST:
        log.warning(
            "heights above %g m do not fit into 8 bits and are written as %g m; the highest is "
            "%.1f m", HIGHEST, HIGHEST, highest,
        )  # fmt: skip
    return HeightSummary(description, lowest, highest, 1 - known / (grid.width * grid.height))


def dry_run(
    source: HeightSource,
    output: Path,
    settings: HeightSettings | None = None,
    *,
    overwrite: bool = False,
) -> Report:
    """Check everything that `write_heights` checks; report the output. Arguments as there."""
    report = Report("heights")
    with report.capture_errors(str(output)):
        _check_output(source, output, overwrite)
    with report.capture_errors():
        inspection, description = _inspect(source, settings or HeightSettings())
        report.add(*inspection.findings)
        bands, grid = _bands(inspection), inspection.grid
        report.facts |= {
            "output": str(output),
            "heights": description,
            "bands": list(bands),
            "map": describe_grid(grid),
            "estimate": {"disk_at_most": grid.width * grid.height * len(bands)},
        }
    return report


def _check_output(source: HeightSource, output: Path, overwrite: bool) -> None:
    check_rasters([output], source.paths, overwrite, [settings_path(output)], styled=False)


def _inspect(source: HeightSource, settings: HeightSettings) -> tuple[SceneInspection, str]:
    """Inspect the rasters as tiles and maps do; return also what the heights are."""
    files = SceneFiles("scene", source.optical, source.elevation, source.dtm)
    found = inspect_scene(files, settings, crs=source.crs, pixel_size=source.pixel_size)
    if found.dtype != "uint8":
        raise ConfigError(
            f"{found.files.name} is {found.dtype}, and --with-image writes 8 bits: give an 8-bit "
            "orthophoto, or leave out --with-image"
        )
    ground = found.heights.ground if found.heights else "none"
    if ground == "none" and settings.kind == "dsm":
        raise ConfigError(
            "absolute heights do not fit into 8 bits: leave out --ground none, or --with-image"
        )
    return found, ABOVE[ground]


def _bands(inspection: SceneInspection) -> dict[str, ColorInterp]:
    """Return names and colours of the bands to write, the height last."""
    names: Sequence[str] = (*inspection.band_names, "height")
    colours = {name: getattr(ColorInterp, name) for name in ("red", "green", "blue")}
    unique = [n if names.count(n) == 1 else f"{n} {i}" for i, n in enumerate(names, start=1)]
    return {name: colours.get(color_of(name) or "", ColorInterp.undefined) for name in unique}
