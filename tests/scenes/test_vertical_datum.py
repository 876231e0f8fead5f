"""Shifts between the vertical datums of surface and terrain model, and what is none."""

import numpy as np
import pytest
from rasterio.crs import CRS

from cafe_cli.config.schema import HeightSettings
from cafe_cli.scenes.inspection import inspect_scene
from cafe_cli.scenes.vertical_datum import describe_shift
from tests.support.rasters import grid, scene_files

RNG = np.random.default_rng(0)


def normal(mean, spread, count=20_000):
    return RNG.normal(mean, spread, count)


def town(shift):
    return np.concatenate([normal(shift, 0.3), normal(shift + 8, 3)])


@pytest.mark.parametrize("shift", [12, 25, 47, 80])
def test_all_above_the_terrain(shift):
    assert "of the pixels lie more than" in describe_shift(town(shift))
    assert "above ground" in describe_shift(town(shift))


@pytest.mark.parametrize("shift", [-100, -30, -8])
def test_the_ground_below_the_terrain(shift):
    assert "below ground" in describe_shift(town(shift))


@pytest.mark.parametrize(
    "heights",
    [
        town(0),
        town(0.8),
        town(-1),
        normal(25, 4),
        normal(18, 2),
        np.concatenate([normal(30, 5), normal(0, 0.2, 400)]),
        np.concatenate([town(0), normal(-8, 1, 2000)]),
        np.array([]),
    ],
    ids=["town", "lawn", "coarse", "canopy", "plantation", "gaps", "quarry", "nothing"],
)
def test_no_shift(heights):
    assert describe_shift(heights) == ""


@pytest.fixture
def look(write):
    """Inspect a scene of 40 x 40 pixels, whose surface lies `shift` metres above ground."""

    def inspect(shift, surface="EPSG:32632", terrain="EPSG:32632", **settings):
        shape = (40, 40)
        ground = 200 + RNG.random(shape).astype("float32")
        at = {name: grid(40, 40, crs=CRS.from_user_input(name)) for name in (surface, terrain)}
        files = scene_files(
            "s",
            optical=write("optical.tif", np.ones((3, *shape), np.uint8), grid(40, 40)),
            elevation=write("dsm.tif", ground + np.float32(shift), at[surface]),
            dtm=write("dtm.tif", ground, at[terrain]),
        )
        return inspect_scene(files, HeightSettings(**settings)).findings

    return inspect


def test_an_inspection_names_both_files_and_the_remedy(look):
    (found,) = look(47)
    assert found.level == "warning"
    assert "dsm.tif, minus " in found.message
    assert "dtm.tif: 99 % of the pixels lie more than 47.0 m above ground" in found.message
    assert "gdalwarp" in found.message


@pytest.mark.parametrize("settings", [{"ground": "none"}, {"kind": "ndsm"}, {"ground": "estimate"}])
def test_heights_that_no_terrain_model_is_subtracted_from_are_not_compared(look, settings):
    assert look(47, **settings) == ()


def test_datums_with_different_names_are_noted(look):
    (found,) = look(0, "EPSG:32632+7837", "EPSG:32632+5783")
    assert found.level == "note"
    assert "DHHN2016 height" in found.message
    assert "DHHN92 height" in found.message
    assert look(0, "EPSG:32632+7837", "EPSG:32632+7837") == ()
    assert look(0, "EPSG:32632+7837") == ()
