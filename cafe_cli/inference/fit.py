"""Whether a scene fits the models: its bands, GSD, pixel values and heights.

What cannot be meant is an error, which names the remedy; what is doubtful is a warning. Ground that
is merely unlike that of training is the subject of `cafe_cli.inference.foreign_ground`.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from cafe_cli.errors import BandError
from cafe_cli.findings import Finding
from cafe_cli.inference.ensemble import Ensemble
from cafe_cli.inference.foreign_ground import describe_foreign_ground
from cafe_cli.model.card import ModelCard
from cafe_cli.model.comparison import Mismatch, compare_heights, compare_values, find_order
from cafe_cli.model.distribution import PixelDistribution, normal_distribution
from cafe_cli.model.stored import StoredModel
from cafe_cli.raster.mosaic_view import Member
from cafe_cli.scenes.band_names import band_colors, color_of, reordering
from cafe_cli.scenes.height_rasters import HeightRasters, says_unit
from cafe_cli.scenes.inspection import SceneInspection
from cafe_cli.scenes.sampling import sample
from cafe_cli.scenes.scene import Scene
from cafe_cli.text import list_some
from cafe_cli.vector.area_of_interest import Area

log = logging.getLogger("cafe")

_ANYWAY = "--ignore-mismatch predicts anyway"
_UNITS_APART = 2.5  # times as tall: feet, or taller buildings


def order_bands(
    inspection: SceneInspection, card: ModelCard, asked: tuple[int, ...] | None
) -> SceneInspection:
    """Read the bands of a scene in the order of the model, where their names tell it.

    Parameters
    ----------
    inspection : SceneInspection
    card : ModelCard
    asked : tuple of int or None
        Bands that the user chose: their order is kept.

    Raises
    ------
    BandError
        The number of bands differs from that of the training data.
    """
    wanted = [*map(color_of, card.band_names)]
    colors = [*map(band_colors, inspection.optical)]
    orders = [reordering(given, wanted) for given in colors]
    chosen = ",".join(str(inspection.bands[i]) for i in orders[0] or ())
    name, names = inspection.files.name, ", ".join(inspection.band_names)
    trained = ", ".join(card.band_names)
    if len(inspection.bands) != len(wanted):
        raise BandError(
            f"{name} has {len(inspection.bands)} bands, the model was trained on "
            f"{len(wanted)} ({trained}); choose them with --bands {chosen}".rstrip()
        )
    same = (*range(len(wanted)),)
    if orders[0] is None and None not in (*colors[0], *wanted):
        log.warning(
            "the bands of %s are %s, the model was trained on %s; choose them with --bands",
            name, names, trained,
        )  # fmt: skip
    if asked:
        if orders[0] not in (None, same):
            log.warning(
                "--bands reads %s of %s, the model was trained on %s: --bands %s follows the names",
                names, name, trained, chosen,
            )  # fmt: skip
        return inspection
    members = [*zip(inspection.optical, orders, strict=True)]
    if changed := [member.path for member, order in members if order not in (None, same)]:
        log.info(
            "the bands of %s are read in the order of the model, by their names: %s",
            list_some(changed, 2), trained,
        )  # fmt: skip
    optical = tuple(_reordered(member, order or same) for member, order in members)
    band_names = tuple(inspection.band_names[i] for i in orders[0] or same)
    return replace(inspection, optical=optical, bands=optical[0].bands, band_names=band_names)


def _reordered(member: Member, order: Sequence[int]) -> Member:
    return replace(member, bands=tuple(member.bands[i] for i in order))


def check_fit(scene: Scene, area: Area, ensemble: Ensemble) -> list[Finding]:
    """Compare a sample of the pixels of a scene with those that the models were trained on.

    What fits one model of an ensemble fits the ensemble.

    Parameters
    ----------
    scene : Scene
        Without heights, if these are not to be compared.
    area : Area
        Area of interest; pixels outside do not count.
    ensemble : Ensemble

    Returns
    -------
    list of Finding
        Errors where the map would be worthless, warnings where it may be poor.

    Raises
    ------
    InputError
        A file of the scene is damaged.
    """
    if (found := sample(scene, area)) is None:
        return []
    comparisons = [_Comparison.of(scene.inspection, found, model) for model in ensemble.files]
    best = min(comparisons, key=lambda c: (c.errors, len(c.findings)))
    heights = scene.inspection.heights
    foreign = describe_foreign_ground(
        scene,
        area,
        ensemble,
        heights=heights is not None and best.heights is None,
        colors=best.values is None,
        found=found,
    )
    if foreign and heights and _may_be_feet(found, best.known, heights):
        foreign += "; if the heights are in feet, set --height-unit"
    warnings = [Finding("warning", foreign)] if foreign else []
    name = scene.inspection.files.name
    return [replace(finding, where=name) for finding in (*best.findings, *warnings)]


@dataclass(frozen=True)
class _Comparison:
    """A scene compared with the training data of one model."""

    known: PixelDistribution | None
    values: Mismatch | None
    heights: Mismatch | None
    findings: list[Finding]

    @property
    def errors(self) -> int:
        return sum(finding.level == "error" for finding in self.findings)

    @classmethod
    def of(
        cls, scene: SceneInspection, found: PixelDistribution, model: StoredModel
    ) -> "_Comparison":
        card = model.card
        if (known := card.training_pixels or _distribution_of(model)) is None:
            return cls(None, None, None, [*_describe(scene, card, None, None)])
        values = compare_values(found.bands, known.bands, (scene.dtype, card.dtype))
        heights = None
        if scene.heights and card.has_height and found.heights and known.heights:
            ground, settings = scene.heights.ground, scene.heights.settings
            told = says_unit(scene.heights)
            heights = compare_heights(
                found.heights, known.heights, settings, ground, unit_known=told
            )
        if card.training_pixels is None:  # mean and deviation alone are no proof
            values, heights = (m and replace(m, certain=False) for m in (values, heights))
        findings = [*_describe(scene, card, values, heights)]
        if not values:
            findings += _check_order(scene, found, known)
        return cls(known, values, heights, findings)


def _describe(
    scene: SceneInspection, card: ModelCard, values: Mismatch | None, heights: Mismatch | None
) -> Iterator[Finding]:
    """Yield findings about values and heights."""
    name, kinds = scene.files.name, ""
    if scene.dtype != card.dtype:
        kinds = f" is {scene.dtype}, the model was trained on {card.dtype}"
    if values:
        yield _finding(f"{name}{kinds and f'{kinds},'}", "values", values)
    elif kinds and card.training_pixels is None:
        yield Finding("warning", f"{name}{kinds}: pixel values may mean something else")
    if heights and scene.heights:
        kind = "heights" if card.height.kind == "dsm" and card.height.ground == "none" else (
            "heights above ground")  # fmt: skip
        yield _finding(scene.heights.surface[0].path, kind, heights)


def _finding(subject: str, what: str, found: Mismatch) -> Finding:
    if not found.certain:
        return Finding(
            "warning",
            f"{subject} may not fit the model: {what} of {found.found}, in training "
            f"{found.known}; {found.remedy}",
        )
    return Finding(
        "error",
        f"{subject} does not fit the model: {what} of {found.found}, it was trained on "
        f"{found.known}; {found.remedy}; {_ANYWAY}",
    )


def _check_order(
    scene: SceneInspection, found: PixelDistribution, known: PixelDistribution
) -> Iterator[Finding]:
    if order := find_order(found.bands, known.bands):
        bands = ",".join(str(scene.bands[i]) for i in order)
        yield Finding(
            "warning",
            f"the bands of {scene.files.name} look like those of the training data in another "
            f"order; if so, predict with --bands {bands}",
        )


def _may_be_feet(
    found: PixelDistribution, known: PixelDistribution | None, heights: HeightRasters
) -> bool:
    if says_unit(heights) or not known or not found.heights or not known.heights:
        return False
    return found.heights.p99 > _UNITS_APART * known.heights.p99 > 0


def _distribution_of(model: StoredModel) -> PixelDistribution | None:
    """Return the distribution that the statistics in a model stand for, if it has any."""
    if not any(model.statistics.get("optical_mean", ())):
        return None
    return normal_distribution(model.statistics, model.card.dtype)
