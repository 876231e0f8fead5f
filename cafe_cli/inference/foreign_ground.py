"""Compare a scene with the ground that the models were trained on, from a sample of its pixels.

The thresholds were set on seven sites: a half of a site is not foreign to its other half, wooded
mountains are foreign to a town.
"""

from collections.abc import Iterator

from cafe_cli.inference.ensemble import Ensemble
from cafe_cli.model.card import ModelCard
from cafe_cli.model.distribution import Percentiles, PixelDistribution
from cafe_cli.scenes.sampling import sample
from cafe_cli.scenes.scene import Scene
from cafe_cli.text import list_some, percent
from cafe_cli.vector.area_of_interest import Area

_BEYOND_QUARTILES = 0.4  # of the distance of the quartiles: where a median is foreign
_LEAST_SHIFT = 0.1  # of the median: bands of nearly constant training tiles differ by noise
_LEAST_METRES = 1.0  # heights of flat training tiles differ by noise, too
_MORE_VOIDS = 0.2  # of the pixels, more than in training


def describe_foreign_ground(
    scene: Scene,
    area: Area,
    ensemble: Ensemble,
    *,
    heights: bool = True,
    colors: bool = True,
    found: PixelDistribution | None = None,
) -> str | None:
    """Describe in one line what in a scene lies outside the training data of the models.

    Ground that one model of an ensemble knows is not foreign to the ensemble.

    Parameters
    ----------
    scene : Scene
    area : Area
        Area of interest; pixels outside do not count.
    ensemble : Ensemble
    heights, colors : bool
        Whether to compare the heights, and the bands.
    found : PixelDistribution, optional
        The sample of the area, if there is one already.

    Returns
    -------
    str or None
        None if nothing lies outside, or the model files are too old to tell.

    Raises
    ------
    InputError
        A file of the scene is damaged.
    """
    cards = [card for card in ensemble.cards if card.training_pixels is not None]
    if not cards or (found := found or sample(scene, area)) is None:
        return None
    fewest = min((list(_differences(found, card, heights, colors)) for card in cards), key=len)
    if not fewest:
        return None
    name = scene.inspection.files.name
    return f"{name} is unlike the training data, the map may be poor: {'; '.join(fewest)}"


def _differences(
    found: PixelDistribution, card: ModelCard, heights: bool, colors: bool
) -> Iterator[str]:
    known = card.training_pixels
    if known is None:
        return
    if heights and known.heights and card.has_height:
        absolute = card.height.kind == "dsm" and card.height.ground == "none"
        name = "heights" if absolute else "heights above ground"
        if found.heights:
            yield from _height_differences(found.heights, known.heights, name)
        if found.voids > known.voids + _MORE_VOIDS:
            share, before = percent(found.voids, 0), percent(known.voids, 0)
            yield f"{share} of the image has no height, in training {before}"
    bands = zip(card.band_names, found.bands, known.bands, strict=False) if colors else ()
    shifted = [text for band in bands if (text := _describe_shift(*band))]
    if shifted:
        yield list_some(shifted, 4)


def _height_differences(found: Percentiles, known: Percentiles, name: str) -> Iterator[str]:
    """Yield where 1 % of the heights lie beyond 99.9 % of those of training."""
    if found.p99 > known.p99_9 + _LEAST_METRES:
        yield f"{name} reach {found.p99_9:.0f} m, 99.9 % of training lies below {known.p99_9:.0f} m"
    if found.p1 < known.p0_1 - _LEAST_METRES:
        low, before = f"{found.p0_1:.0f} m", f"{known.p0_1:.0f} m"
        yield f"{name} go down to {low}, 99.9 % of training lies above {before}"


def _describe_shift(name: str, found: Percentiles, known: Percentiles) -> str | None:
    """Say how much brighter a band is, if its median lies far outside the training's quartiles."""
    shift, median = found.p50 - known.p50, known.p50
    margin = _BEYOND_QUARTILES * (known.p75 - known.p25)
    inside = known.p25 - margin <= found.p50 <= known.p75 + margin
    if inside or abs(shift) <= _LEAST_SHIFT * abs(median):
        return None
    if median <= 0:
        return f"{name} has a median of {found.p50:.3g}, in training {median:.3g}"
    return f"{name} is {percent(abs(shift) / median, 0)} {'brighter' if shift > 0 else 'darker'}"
