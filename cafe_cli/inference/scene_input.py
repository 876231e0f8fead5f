"""A scene as the input of models: its rasters, height settings and area of interest."""

import logging
import math
from dataclasses import asdict, dataclass

from cafe_cli.config.schema import HeightSettings
from cafe_cli.errors import ConfigError, InputError
from cafe_cli.findings import log_warnings
from cafe_cli.inference.ensemble import Ensemble
from cafe_cli.inference.fit import order_bands
from cafe_cli.inference.job import PredictInput
from cafe_cli.model.card import ModelCard
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.input_files import InputFiles
from cafe_cli.raster.skipped import Skipped
from cafe_cli.redaction import redact_all
from cafe_cli.scenes.discovery import SceneFiles
from cafe_cli.scenes.inspection import SceneInspection, inspect_scene
from cafe_cli.vector.area_of_interest import Area

log = logging.getLogger("cafe")

_GSD_TOLERANCE = 0.1
_GSD_LIMIT = 8  # times as large or small: nothing has the size that the model knows


@dataclass(frozen=True)
class SceneInput:
    """The rasters of a scene that the models use, and how to read them.

    Attributes
    ----------
    source : PredictInput
    files : SceneFiles
        The rasters of `source` without heights that the models do not use.
    height : HeightSettings
    gsd : float or None
        Ground sampling distance in metres to resample the scene to; None for its own.
    """

    source: PredictInput
    files: SceneFiles
    height: HeightSettings
    gsd: float | None

    @classmethod
    def of(cls, source: PredictInput, ensemble: Ensemble) -> "SceneInput":
        """Select the rasters that the models use, without opening a file.

        Raises
        ------
        ConfigError
            There is a terrain model without a surface model, or `bbox_crs` without `bbox`, or the
            pixel size is not above 0.
        """
        if source.pixel_size is not None and not 0 < source.pixel_size < math.inf:
            raise ConfigError(f"--pixel-size {source.pixel_size:g} is not above 0")
        if source.dtm and not source.elevation:
            raise ConfigError(
                "--dtm needs --elevation: cafe subtracts the terrain model from the surface model"
            )
        if source.bbox is None and source.bbox_crs is not None:
            raise ConfigError("--bbox-crs is the CRS of --bbox: give --bbox too")
        heights = (source.elevation, source.dtm) if ensemble.has_height else ((), ())
        files = SceneFiles("scene", source.optical, *heights)
        gsd = ensemble.card.gsd if source.gsd == "model" else None
        return cls(source, files, height_settings(source, ensemble), gsd)

    def inspect(self, ensemble: Ensemble) -> tuple[SceneInspection, Area]:
        """Inspect the rasters, warn where they differ from the training data, find the area.

        Returns
        -------
        inspection : SceneInspection
        area : Area
            The area of interest.

        Raises
        ------
        BandError
            The number of bands differs from that of the training data.
        InputError
            The GSD is another by far.
        InputError, GridError, ConfigError
            See `cafe_cli.scenes.inspection.inspect_scene` and
            `cafe_cli.vector.area_of_interest.Area`.
        """
        _warn_about_heights(self.source, ensemble)
        inspection = inspect_scene(
            self.files, self.height, self.source.bands, gsd=self.gsd, crs=self.source.crs,
            pixel_size=self.source.pixel_size, optical_nodata=self.source.optical_nodata,
            skipped=Skipped() if self.source.on_error == "skip" else None,
        )  # fmt: skip
        log_warnings(inspection.findings)
        inspection = order_bands(inspection, ensemble.card, self.source.bands)
        _check_gsd(inspection, ensemble.card, self.source.ignore_mismatch)
        return inspection, _area(self.source, inspection.grid, inspection.files.name)

    def fingerprint(self, inputs: InputFiles) -> dict[str, object]:
        """Return all that map pixels depend on: files, bands, height settings, resampling.

        `inputs` are the files behind the names of the source.
        """
        source = asdict(self.source)
        # `Area.key` stands for the area; nothing depends on the last two, as strips with skipped
        # pixels are not kept.
        for name in ("aoi", "bbox", "bbox_crs", "ignore_mismatch", "on_error"):
            del source[name]
        return redact_all({**inputs.described(), **source, "height": self.height.model_dump()})


def height_settings(source: PredictInput, ensemble: Ensemble) -> HeightSettings:
    """Return the height settings of the training data, with kind, unit and nodata of the source.

    Heights with a terrain model are absolute, whatever the model was trained on.
    """
    height, kind = ensemble.height, source.height_kind
    if kind is None and source.dtm and height.kind == "ndsm":
        kind = "dsm"
    given = {"kind": kind, "unit": source.height_unit, "nodata": source.height_nodata}
    changes: dict[str, object] = {k: v for k, v in given.items() if v is not None}
    if height.ground in ("dtm", "estimate") or (kind == "dsm" and height.kind == "ndsm"):
        changes["ground"] = "auto"
    return height.model_copy(update=changes)


def _warn_about_heights(source: PredictInput, ensemble: Ensemble) -> None:
    if not ensemble.has_height:
        if source.elevation:
            unused = ", ".join(source.elevation)
            log.warning("the model was trained without heights: %s will not be read", unused)
    elif not source.elevation:
        log.warning("the model was trained with heights but gets none: expect a poorer map")
    elif ensemble.height.ground == "dtm" and not source.dtm and source.height_kind != "ndsm":
        log.warning(
            "the model was trained with heights above a terrain model but gets none (--dtm): the "
            "ground is estimated"
        )
    if ensemble.height.shows_valleys and not height_settings(source, ensemble).shows_valleys:
        log.warning(
            "the model was trained to see how high the ground lies above the floor of its valley, "
            "which heights above ground do not tell: give absolute heights, or expect poorer rivers"
        )


def _area(source: PredictInput, grid: Grid, name: str) -> Area:
    """Return the area of interest: the whole scene, or the intersection of box and polygons."""
    area = Area.whole(grid)
    if source.bbox is not None:
        area = Area.from_bbox(source.bbox, grid, source.bbox_crs, name=name)
    if source.aoi is None:
        return area
    inside = Area.from_file(source.aoi, grid, name=name)
    return inside if source.bbox is None else inside.intersection(area, name=name)


def _check_gsd(scene: SceneInspection, card: ModelCard, lenient: bool) -> None:
    """Compare the GSD of a scene with that of the training data."""
    name, gsd = scene.files.name, scene.grid.gsd
    ratio = max(gsd / card.gsd, card.gsd / gsd)
    message = (
        f"the GSD of {name} is {gsd:.3g} m, the model was trained at {card.gsd:.3g} m; --gsd model "
        "resamples"
    )
    if not scene.native.has_pixel_size:  # a warning of the inspection says so
        return
    # Pixels of unknown size counted as metres in training tiles, too.
    if ratio > _GSD_LIMIT and card.gsd != 1 and not lenient:
        raise InputError(f"{message}; --ignore-mismatch predicts anyway")
    if abs(gsd / card.gsd - 1) > _GSD_TOLERANCE:
        log.warning("%s", message)
