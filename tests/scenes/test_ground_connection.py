"""Terrain that looks like an object to the filter, and objects that look like terrain."""

import numpy as np
import pytest
from numpy.typing import NDArray

from cafe_cli.scenes.ground_connection import find_connected
from cafe_cli.scenes.ground_filter import GroundFilter, estimate_ground

Array = NDArray[np.float32]

UNREDUCED = GroundFilter(pixel=2.0)
Y, X = np.mgrid[:120, :120].astype(np.float32)


def noisy(surface: Array) -> Array:
    noise = np.random.default_rng(0).normal(0, 0.03, surface.shape)
    return (surface + noise).astype(np.float32)


def crest(rise: float) -> Array:
    """A ridge of 40 cells to either side, that rises by so many metres per cell, round on top."""
    distance = np.sqrt((X - 60) ** 2 + 9)
    return (100 + rise * np.clip(43 - distance, 0, None)).astype(np.float32)


def wooded(terrain: Array, bare: NDArray[np.bool_]) -> Array:
    """Trees but for a tenth of the cells, and for bare ground."""
    random = np.random.default_rng(1)
    trees = ~bare & (random.random(terrain.shape) >= 0.1)
    return np.where(trees, terrain + random.normal(20, 2, terrain.shape), terrain).astype(
        np.float32
    )


@pytest.mark.parametrize("rise", [1.2, 1.4])
def test_a_hill_that_is_steep_and_flat_on_top_stays(rise: float) -> None:
    slope = np.clip((np.hypot(X - 60, Y - 60) - 27) * rise, 0, 25)
    terrain = (125 - slope).astype(np.float32)
    ground = estimate_ground(noisy(terrain), UNREDUCED)
    np.testing.assert_allclose(ground, terrain, atol=1)  # at the rim; a roof would be 25 m off


def test_a_clearing_on_a_wooded_crest_needs_a_way_up() -> None:
    terrain = crest(1.0)
    clearing = np.hypot(X - 60, Y - 60) < 12
    track = (np.abs(Y - 60) <= 2) & (X < 60)
    led, hidden = (
        estimate_ground(noisy(wooded(terrain, bare)), UNREDUCED)
        for bare in (clearing | track, clearing)
    )
    inside = np.hypot(X - 60, Y - 60) < 9
    assert np.abs(led - terrain)[inside].max() < 0.5
    assert np.median((terrain - hidden)[clearing]) > 15  # the limit that is documented


def test_a_roof_with_a_ramp_stays_a_roof() -> None:
    """A car park of 20 x 30 cells that a ramp of 4 cells, no steeper than terrain, leads up to."""
    surface = np.full(X.shape, 100, np.float32)
    roof = (np.abs(X - 60) < 10) & (np.abs(Y - 60) < 15)
    ramp = (np.abs(Y - 60) < 2) & (X >= 30) & (X <= 50)
    surface[roof] = 109
    surface[ramp] = 100 + np.clip((X - 30) * 9 / 20, 0, 9)[ramp]
    ground = estimate_ground(noisy(surface), UNREDUCED)
    assert np.abs(ground - 100)[roof].max() < 0.5


def test_a_bridge_stays_a_bridge() -> None:
    """A deck of 6 cells over a cutting, level with the ground at its ends."""
    terrain = (100 - 9 * np.exp(-(((X - 60) / 14) ** 4))).astype(np.float32)
    deck = (np.abs(Y - 60) < 3) & (np.abs(X - 60) < 18)
    surface = np.where(deck, np.float32(100), terrain)
    ground = estimate_ground(noisy(surface), UNREDUCED)
    middle = deck & (np.abs(X - 60) < 8)
    assert np.abs(ground - terrain)[middle].max() < 1


def parts(**changes: object) -> dict[str, object]:
    """Level ground, half of which was cut."""
    heights = np.zeros((20, 20), np.float32)
    objects = np.zeros((20, 20), bool)
    objects[:, 10:] = True
    return {"heights": heights, "known": np.ones((20, 20), bool), "objects": objects,
            "bend": 0.5, "step": 1.5} | changes  # fmt: skip


def test_only_what_was_cut_is_found() -> None:
    given = parts()
    np.testing.assert_array_equal(find_connected(**given), given["objects"])


@pytest.mark.parametrize(("columns", "enough"), [(6, False), (7, True)])
def test_a_little_ground_leads_nowhere(columns: int, enough: bool) -> None:
    """24 and 28 cells of ground, where 25 are needed: a gap between crowns is no proof."""
    heights, known = np.zeros((4, 20), np.float32), np.ones((4, 20), bool)
    objects = np.broadcast_to(np.arange(20) >= columns, known.shape)
    assert find_connected(heights, known, objects, 0.5, 1.5).any() == enough


def test_a_step_parts() -> None:
    heights = np.zeros((20, 20), np.float32)
    heights[:, 10:] = 1.6
    assert not find_connected(**parts(heights=heights)).any()
    heights[:, 10:] = 0.4  # a kerb
    assert find_connected(**parts(heights=heights)).any()


def test_voids_part() -> None:
    known = np.ones((20, 20), bool)
    known[:, 9:11] = False
    heights = np.zeros((20, 20), np.float32)
    heights[~known] = np.nan
    assert not find_connected(**parts(heights=heights, known=known)).any()


def test_nothing_known_or_nothing_cut() -> None:
    nothing = np.zeros((20, 20), bool)
    assert not find_connected(**parts(known=nothing)).any()
    assert not find_connected(**parts(objects=nothing)).any()
    one = {"heights": np.zeros((1, 1), np.float32), "known": np.ones((1, 1), bool)}
    assert not find_connected(**parts(**one, objects=np.ones((1, 1), bool))).any()


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_the_search_commutes_with_turns_and_flips(turns: int) -> None:
    surface = noisy(wooded(crest(1.0), np.abs(Y - 60) < 6))
    objects = surface > 118
    given = {"known": np.ones(X.shape, bool), "bend": 0.5, "step": 1.5}
    found = find_connected(heights=surface, objects=objects, **given)
    turned = find_connected(
        heights=np.rot90(surface, turns)[::-1], objects=np.rot90(objects, turns)[::-1], **given
    )
    assert found.any()
    np.testing.assert_array_equal(turned, np.rot90(found, turns)[::-1])
