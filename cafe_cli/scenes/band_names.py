"""What optical bands show, told from their descriptions and colour interpretation."""

import re
from collections.abc import Sequence

from cafe_cli.raster.mosaic_view import Member
from cafe_cli.raster.reader import open_raster

_COLORS = {
    "red": ("r", "red", "rot", "rouge", "rojo"),
    "green": ("g", "green", "gruen", "grün", "vert", "verde"),
    "blue": ("b", "blue", "blau", "bleu", "azul"),
    "nir": ("n", "nir", "ir", "cir", "infrared", "nearinfrared", "nearir", "infrarot", "pir"),
    "rededge": ("re", "rededge"),
    "coastal": ("coastal", "coastalblue"),
    "swir": ("swir",),
    "pan": ("pan", "panchromatic"),
}
_BY_NAME = {name: color for color, names in _COLORS.items() for name in names}
_FILLERS = re.compile(r"\(.*?\)|\w*\d\w*|\b(band|channel|reflectance)\b|[^a-zü]")


def color_of(name: str) -> str | None:
    """Return the colour that a band's name says for certain, such as ``nir``; else None."""
    plain = _FILLERS.sub(" ", name.lower().replace("_", " "))
    return _BY_NAME.get(plain.replace(" ", ""))


def band_colors(member: Member) -> tuple[str | None, ...]:
    """Return what the bands of a raster show that are read: by their names, or else their colours.

    Raises
    ------
    InputError
        The raster cannot be opened.
    """
    with open_raster(member.path, member.view) as dataset:
        about = [(dataset.descriptions[b - 1], dataset.colorinterp[b - 1]) for b in member.bands]
    return tuple(color_of(name or "") or color_of(kind.name) for name, kind in about)


def reordering(given: Sequence[str | None], wanted: Sequence[str | None]) -> tuple[int, ...] | None:
    """Return for each wanted colour its place among the given ones, from 0.

    Returns
    -------
    tuple of int or None
        None unless every wanted colour is known and given, and no colour comes twice.
    """
    places_of = [(color, place) for place, color in enumerate(given) if color is not None]
    known = dict(places_of)
    if len(known) < len(places_of) or len(set(wanted)) < len(wanted):
        return None
    places = [known.get(color, -1) for color in wanted if color is not None]
    return tuple(places) if len(places) == len(wanted) and min(places) >= 0 else None
