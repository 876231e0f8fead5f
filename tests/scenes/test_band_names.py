"""What bands show is read from their names, and from their colours where names say nothing."""

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp

from cafe_cli.raster.mosaic_view import inspect_rasters
from cafe_cli.scenes.band_names import band_colors, color_of, reordering
from tests.support.rasters import grid


@pytest.mark.parametrize(
    ("name", "color"),
    [
        ("red", "red"), ("R", "red"), ("Red band", "red"), ("B4 Red", "red"), ("Grün", "green"),
        ("Blue (490 nm)", "blue"), ("NIR", "nir"), ("IR", "nir"), ("near-infrared", "nir"),
        ("Near Infrared", "nir"), ("red edge", "rededge"), ("band_green", "green"),
        ("band 1", None), ("B4", None), ("", None), ("redness", None), ("gray", None),
        ("undefined", None), ("Layer_1", None),
    ],
)  # fmt: skip
def test_names(name, color):
    assert color_of(name) == color


@pytest.mark.parametrize(
    ("names", "bands", "colors"),
    [
        ((None, None, None), None, ("blue", "green", "red")),
        (("Layer_1", "x", "y"), None, ("blue", "green", "red")),
        (("nir", None, None), None, ("nir", "green", "red")),
        ((None, None, None), (3, 1), ("red", "blue")),
    ],
)
def test_colours_where_names_say_nothing(write, names, bands, colors):
    path = write("bgr.tif", np.ones((3, 6, 8), np.uint8), grid(), photometric="rgb")
    with rasterio.open(path, "r+") as dataset:
        dataset.colorinterp = [ColorInterp.blue, ColorInterp.green, ColorInterp.red]
        dataset.descriptions = names
    (member,) = inspect_rasters([path], stream="image", bands=bands)
    assert band_colors(member) == colors


@pytest.mark.parametrize(
    ("given", "wanted", "places"),
    [
        ("blue green red", "red green blue", (2, 1, 0)),
        ("nir red green", "red green nir", (1, 2, 0)),
        ("red green blue", "red green blue", (0, 1, 2)),
        ("red green blue nir", "nir red green", (3, 0, 1)),
        ("red green blue -", "red green blue", (0, 1, 2)),
        ("nir red green", "red green blue", None),
        ("- - -", "red green blue", None),
        ("red green blue", "- - -", None),
        ("red red blue", "red green blue", None),
        ("red green blue", "red red blue", None),
    ],
)
def test_reordering(given, wanted, places):
    one, other = ([None if c == "-" else c for c in text.split()] for text in (given, wanted))
    assert reordering(one, other) == places
