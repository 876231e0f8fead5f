import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cafe_cli.checks.height_rules import (
    check_above_ground,
    check_heights,
    check_voids,
    largest_gap,
)
from cafe_cli.config.schema import HeightSettings
from tests.support.findings import said

DSM, NDSM = HeightSettings(), HeightSettings(kind="ndsm")
RANDOM = np.random.default_rng(0)
VALLEY = RANDOM.uniform(477, 518, 2000)
"""Absolute heights."""
TOWN = np.concatenate([RANDOM.normal(0, 0.1, 1400), RANDOM.uniform(2, 25, 600)])
"""Heights above ground."""


def with_value(values, value, share):
    return np.where(np.arange(len(values)) < share * len(values), value, values)


# Heights


@pytest.mark.parametrize(
    ("values", "settings"),
    [
        (VALLEY, DSM),
        (VALLEY - 500, DSM),  # a polder
        (TOWN, NDSM),
        (TOWN, HeightSettings(ground="none")),
        (np.abs(TOWN), NDSM),
        (with_value(VALLEY, 470, 0.3), DSM),  # a lake
        (with_value(RANDOM.uniform(0, 15, 2000), 0.0, 0.4), DSM),  # a harbour
    ],
)
def test_nothing_is_said_of_good_heights(values, settings):
    assert not list(check_heights(values, settings))


def test_no_height_at_all():
    (found,) = check_heights(np.array([]), DSM)
    assert (found.level, found.message) == ("error", "holds no valid height: everything is nodata")


def test_constant_heights():
    assert "every height is 477.5 m" in said(check_heights(np.full(9, 477.5), DSM), "warning")
    assert "every height is 0 m" in said(check_heights(np.zeros(9), DSM), "warning")


def test_feet():
    unit = "US survey foot"
    found = said(check_heights(VALLEY, DSM, crs_unit=unit), "warning")
    assert "read as metres, but their CRS is in US survey foot" in found
    assert not list(check_heights(VALLEY, DSM, crs_unit=unit, unit_known=True))
    named = HeightSettings(unit="foot")
    assert not list(check_heights(VALLEY, named, 0.3048, crs_unit=unit))


@pytest.mark.parametrize(
    ("factor", "dtype", "unit"),
    [(10, "uint8", "decimetre"), (10, "int16", "decimetre"), (100, "uint16", "centimetre")],
)
def test_whole_numbers_above_ground_look_like_finer_units(factor, dtype, unit):
    values = np.round(np.maximum(TOWN, 0) * factor)
    found = said(check_heights(values, NDSM, dtype=dtype), "warning")
    assert f"integers ({dtype}) up to" in found
    assert f"height.unit = '{unit}'" in found
    settings = HeightSettings(kind="ndsm", unit=unit)
    assert not list(check_heights(values, settings, 1 / factor, dtype=dtype))


def test_whole_metres_are_noted():
    found = check_heights(np.round(VALLEY), DSM, dtype="int16")
    assert "integers (int16) without a unit, read as metres" in said(found, "note")
    assert not list(check_heights(np.round(VALLEY), DSM, dtype="int16", unit_known=True))


def test_feet_above_ground_are_too_tall():
    found = said(check_heights(TOWN * 3.28, NDSM), "warning")
    assert "1 % of the pixels lie more than" in found
    assert "height.unit" in found


def test_absolute_heights_are_no_ndsm():
    found = said(check_heights(VALLEY, NDSM), "warning")
    assert "95 % of the heights are above 478.8 m" in found
    assert "unit" not in found
    assert "height.kind = 'dsm'" in found


def test_an_ndsm_does_not_lie_below_ground():
    found = check_heights(TOWN - 5, NDSM)
    assert "5 % of the heights are below -5" in said(found, "warning")


def test_heights_above_ground_are_no_dsm():
    found = said(check_heights(TOWN, DSM), "warning")
    assert "of the heights are within 0.3 m of zero" in found
    assert "height.kind = 'ndsm'" in found


@given(
    st.lists(st.floats(-500, 5000, width=32), min_size=1, max_size=50),
    st.sampled_from(["dsm", "ndsm"]),
    st.sampled_from([1.0, 0.3048, 0.1]),
    st.sampled_from(["float32", "int16"]),
)
def test_every_finding_is_one_line(values, kind, metres, dtype):
    found = check_heights(np.array(values), HeightSettings(kind=kind), metres, dtype=dtype)
    for finding in found:
        assert "\n" not in finding.message
        assert "nan" not in finding.message


# Heights above ground


def test_nothing_is_said_of_a_town():
    assert not list(check_above_ground(-0.1, 0.1, 25))


@pytest.mark.parametrize(
    ("percentiles", "level", "message"),
    [
        ((0, 0.1, 123), "warning", "1 % of the pixels lie more than 123 m above ground"),
        ((0, 17.5, 30), "note", "half of the pixels lie more than 17.5 m above ground"),
        ((-4.5, 0.1, 20), "warning", "1 % of the pixels lie more than 4.5 m below ground"),
    ],
)
def test_ground_that_cannot_be(percentiles, level, message):
    assert message in said(check_above_ground(*percentiles), level)


@pytest.mark.parametrize(
    ("ground", "given", "says"),
    [
        ("estimate", False, "the ground is too low; give a terrain model (scenes.dtm, --dtm)"),
        (
            "estimate",
            True,
            "the estimate is too low; use the terrain model (height.ground = 'dtm')",
        ),
        ("dtm", True, "the terrain model is of another place, unit or vertical datum"),
    ],
)
def test_a_terrain_model_is_asked_for_only_if_there_is_none(ground, given, says):
    assert said(check_above_ground(0, 17.5, 30, ground, given), "note").endswith(
        f"forest, or {says}" + (" if there is one" if not given else "")
    )


@pytest.mark.parametrize("ground", ["estimate", "dtm"])
def test_what_may_be_too_high_below_the_heights(ground):
    message = said(check_above_ground(-4.5, 0.1, 20, ground, True), "warning")
    assert ("terrain model" in message) == (ground == "dtm")


# Voids


def test_the_largest_gap_does_not_touch_the_border():
    void = np.zeros((20, 20), bool)
    void[:, :5] = void[0] = True
    void[10:12, 10:12] = void[15, 15] = True
    assert largest_gap(void) == 4 / 400


@pytest.mark.parametrize("everywhere", [False, True])
def test_no_gap_inside(everywhere):
    assert largest_gap(np.full((5, 6), everywhere)) == 0


def test_few_voids_are_nothing():
    assert not list(check_voids(0.01, 8, 2))


def test_many_voids():
    (found,) = check_voids(0.05, 35.2, 2)
    assert found.level == "note"
    assert found.message.startswith(
        "5.0 % of the image has no height, the largest gap between heights is about 35 m wide; "
    )
    assert "height.fill = 2 m" in found.message
    assert "40.0 % of the image has no height; " in said(check_voids(0.4, 0, 2), "warning")
