"""A scene to predict: opener as the models were trained, and what of it is wanted."""

import logging
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

from cafe_cli.config.schema import HeightSettings
from cafe_cli.errors import BandError, ConfigError
from cafe_cli.inference.ensemble import Ensemble
from cafe_cli.inference.job import PredictInput
from cafe_cli.model.model_file import ModelCard
from cafe_cli.raster.grid import Grid
from cafe_cli.scenes.discovery import SceneFiles
from cafe_cli.scenes.heights import GroundSurface
from cafe_cli.scenes.inspection import SceneInspection, inspect_scene
from cafe_cli.scenes.scene import Scene, estimate_scene_ground, open_scene
from cafe_cli.vector.area_of_interest import Area

log = logging.getLogger("cafe")

_GSD_TOLERANCE = 0.1


@dataclass(frozen=True)
class SceneInput:
    """What it takes to open a scene, as often as there are threads.

    Attributes
    ----------
    source : Source
    files : SceneFiles
        Those of them that the models have a use for.
    height : HeightSettings
    gsd : float or None
        To resample the scene to.
    ground : Ground or None
        Estimated when the first heights are read if None.
    """

    source: PredictInput
    files: SceneFiles
    height: HeightSettings
    gsd: float | None
    ground: GroundSurface | None = None

    @classmethod
    def of(cls, source: PredictInput, ensemble: Ensemble) -> "SceneInput":
        """Choose what the models have a use for; warn where they get less than they know.

        Raises
        ------
        ConfigError
            A terrain model without a surface model.
        """
        files = SceneFiles("scene", source.optical, *_heights_used(source, ensemble))
        gsd = ensemble.card.gsd if source.gsd == "model" else None
        return cls(source, files, height_settings(source, ensemble), gsd)

    def inspect(self) -> SceneInspection:
        """Look at the rasters; see `cafe_cli.scenes.inspection.inspect_scene`."""
        return inspect_scene(
            self.files, self.height, self.source.bands, gsd=self.gsd, crs=self.source.crs
        )

    def open(self) -> AbstractContextManager[Scene]:
        """Open the scene; see `cafe_cli.scenes.scene.open_scene`."""
        return open_scene(self.inspect(), self.ground)

    def look(self, card: ModelCard) -> tuple[Grid, tuple[int, int], Area]:
        """Return the grid of the scene, its blocks and what of it is wanted.

        Raises
        ------
        BandError
            Another number of bands than the model was trained on.
        InputError, GridError, ConfigError
            See `cafe_cli.scenes.scene.open_scene` and `cafe_cli.vector.area_of_interest.Area`.
        """
        scene = self.inspect()
        _check_scene(scene, card)
        return scene.grid, scene.optical_block, _area(self.source, scene.grid)

    def with_ground(self) -> "SceneInput":
        """Estimate the ground once for all threads, if it is to be estimated."""
        return replace(self, ground=estimate_scene_ground(self.inspect()))


def height_settings(source: PredictInput, ensemble: Ensemble) -> HeightSettings:
    """Return how heights are brought to what the model was trained on."""
    height = ensemble.height
    given = {"unit": source.height_unit, "nodata": source.height_nodata}
    changes: dict[str, object] = {k: v for k, v in given.items() if v is not None}
    if height.ground in ("dtm", "estimate"):
        changes["ground"] = "auto"
    return height.model_copy(update=changes)


def _heights_used(
    source: PredictInput, ensemble: Ensemble
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the surface and terrain models that the models have a use for."""
    if source.dtm and not source.elevation:
        raise ConfigError("--dtm is the ground to take heights above: give --elevation too")
    if not ensemble.has_height:
        if source.elevation:
            unused = ", ".join(source.elevation)
            log.warning("the model was trained without heights: %s will not be read", unused)
        return (), ()
    if not source.elevation:
        log.warning("the model was trained with heights and gets none: expect a poorer map")
        return (), ()
    if ensemble.height.ground == "dtm" and not source.dtm:
        log.warning(
            "the model was trained with heights above a terrain model and gets none (--dtm): the "
            "ground is estimated"
        )
    return source.elevation, source.dtm


def _area(source: PredictInput, grid: Grid) -> Area:
    """Return what of a scene is wanted."""
    area = Area.whole(grid)
    if source.bbox is None and source.bbox_crs is not None:
        raise ConfigError("--bbox-crs is the CRS of --bbox: give --bbox too")
    if source.bbox is not None:
        area = Area.from_bbox(source.bbox, grid, source.bbox_crs)
    if source.aoi is None:
        return area
    inside = Area.from_file(source.aoi, grid)
    return inside if source.bbox is None else inside.intersection(area)


def _check_scene(scene: SceneInspection, card: ModelCard) -> None:
    wanted, given = card.band_names, scene.bands
    if len(given) != len(wanted):
        raise BandError(
            f"{scene.files.name} has {len(given)} bands, the model was trained on "
            f"{len(wanted)} ({', '.join(wanted)}); choose them with --bands"
        )
    if scene.dtype != card.dtype:
        log.warning(
            "%s is %s, the model was trained on %s: pixel values may mean something else",
            scene.files.name,
            scene.dtype,
            card.dtype,
        )
    ratio = scene.grid.gsd / card.gsd
    if abs(ratio - 1) > _GSD_TOLERANCE:
        log.warning(
            "the GSD of %s is %.3g m, the model was trained at %.3g m; --gsd model resamples",
            scene.files.name,
            scene.grid.gsd,
            card.gsd,
        )
