"""The ground under synthetic surfaces whose terrain is known, and under the real scene."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.vrt import WarpedVRT
from scipy.ndimage import map_coordinates, minimum_filter

from cafe_cli.errors import ConfigError
from cafe_cli.scenes import ground_filter as ground_module
from cafe_cli.scenes import ground_interpolation
from cafe_cli.scenes.ground_filter import GroundFilter, estimate_ground

AUTZEN = Path(__file__).parents[3] / "shared/data/autzen"
UNREDUCED = GroundFilter(pixel=2.0)
FACTOR = 4  # cells of 2 m from pixels of 0.5 m

Array = NDArray[np.float32]


def plane(height: int, width: int, south: float = 0.0, east: float = 0.0) -> Array:
    """Terrain in cells of 2 m that rises by these slopes."""
    y, x = np.mgrid[:height, :width] * 2.0
    return np.asarray(100 + south * y + east * x, np.float32)


def reduce(dsm: Array) -> Array:
    height, width = dsm.shape
    blocks = dsm.reshape(height // FACTOR, FACTOR, width // FACTOR, FACTOR)
    return np.asarray(blocks.min(axis=(1, 3)))


def sample(ground: Array, shape: tuple[int, ...]) -> Array:
    """Sample the ground bilinearly at the pixels of the DSM, as the caller does."""
    rows, cols = ((np.arange(size) + 0.5) / FACTOR - 0.5 for size in shape)
    at = np.meshgrid(rows, cols, indexing="ij")
    sampled: Array = map_coordinates(ground, at, order=1, mode="nearest")
    return sampled


def hillside(degrees: float = 20.0, size: int = 640) -> tuple[Array, Array, NDArray[np.uint8]]:
    """Return DSM and terrain in pixels of 0.5 m, and what is there: 1 tree, 2 house."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size] * 0.5
    slope = np.tan(np.radians(degrees))
    terrain = 100 + slope * (0.87 * x + 0.5 * y) + np.sin(x / 25) * np.sin(y / 31)
    dsm = terrain + rng.normal(0, 0.05, terrain.shape)
    kind = np.zeros(terrain.shape, np.uint8)
    for row in range(60, size - 60, 80):
        for col in range(60, size - 60, 80):
            house = np.s_[row : row + 20, col : col + 24]
            dsm[house], kind[house] = terrain[house].mean() + 6, 2
            tree = np.hypot(y - (row + 45) / 2, x - (col + 50) / 2) < 4
            dsm[tree], kind[tree] = terrain[tree] + 8 + rng.random(tree.sum()), 1
    return dsm.astype(np.float32), terrain.astype(np.float32), kind


def messy() -> Array:
    """Return terrain with buildings, trees, voids, pits and noise, of odd and even sides."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:91, :120]
    surface = 50 + 6 * np.sin(x / 30) + 0.1 * y + rng.normal(0, 0.05, x.shape)
    surface[10:25, 20:50] += 9
    surface[60:, 100:] += 5
    surface[rng.random(x.shape) < 0.03] += 7
    surface[rng.random(x.shape) < 0.002] -= 20
    surface[40:52, 30:45] = np.nan
    surface[rng.random(x.shape) < 0.02] = np.nan
    return np.asarray(surface, np.float32)


def test_building_on_flat_ground_is_removed() -> None:
    terrain = plane(80, 90)
    surface = terrain.copy()
    surface[20:40, 30:70] += 6
    ground = estimate_ground(surface)
    assert ground.dtype == np.float32
    assert ground.shape == surface.shape
    np.testing.assert_allclose(ground, terrain, atol=1e-3)


def test_hillside_with_houses_and_trees() -> None:
    dsm, terrain, kind = hillside()
    ground = sample(estimate_ground(reduce(dsm)), dsm.shape)
    assert np.percentile(np.abs(ground - terrain)[kind == 0], 95) < 0.2
    assert np.percentile(np.abs(ground - terrain)[kind > 0], 95) < 0.5
    assert np.percentile((dsm - ground)[kind == 2], 1) > 2.5
    assert np.percentile((dsm - ground)[kind == 1], 1) > 2.5


def test_hall_on_gentle_ground() -> None:
    terrain = plane(120, 120, south=0.05, east=-0.02)
    surface = terrain + np.random.default_rng(0).normal(0, 0.05, terrain.shape).astype(np.float32)
    hall = np.s_[40:60, 30:70]
    surface[hall] = terrain[hall].mean() + 6
    ground = estimate_ground(surface, UNREDUCED)
    assert np.abs(ground - terrain).max() < 0.3
    assert (surface - ground)[hall].min() > 3.5


@pytest.mark.parametrize(
    ("width", "max_window", "removed"), [(96, 100, True), (120, 100, False), (120, 130, True)]
)
def test_largest_building(width: int, max_window: float, removed: bool) -> None:
    surface = plane(160, 160)
    surface[20 : 20 + width // 2, 15:140] += 4
    ground = estimate_ground(surface, GroundFilter(max_window=max_window))
    assert ground[20 + width // 4, 80] == pytest.approx(100 if removed else 104, abs=0.1)


def test_window_is_measured_in_metres() -> None:
    surface = plane(100, 100)
    surface[20:60, 20:80] += 4  # 40 cells
    wide, narrow = (
        estimate_ground(surface, GroundFilter(cell=cell, max_window=100)) for cell in (2.0, 4.0)
    )
    assert wide[40, 50] == pytest.approx(100, abs=0.1)
    assert narrow[40, 50] == pytest.approx(104, abs=0.1)


@pytest.mark.parametrize("sigma", [30, 60])
def test_hills_stay(sigma: float) -> None:
    y, x = np.mgrid[:200, :200] * 2.0
    hill = 50 + sigma / 2 * np.exp(-((x - 200) ** 2 + (y - 200) ** 2) / 2 / sigma**2)
    ground = estimate_ground(hill.astype(np.float32), UNREDUCED)
    np.testing.assert_allclose(ground, hill, atol=0.05)


def test_slope_tolerance_keeps_a_ridge() -> None:
    x = np.arange(120) * 2.0
    ridge = np.tile(150 - 0.9 * np.abs(x - 120), (120, 1)).astype(np.float32)
    steep = ridge - estimate_ground(ridge, GroundFilter(pixel=2.0, slope=0.6))
    np.testing.assert_allclose(steep[:, x != 120], 0, atol=1e-3)
    assert steep.max() < 2  # the sharp crest itself
    assert (ridge - estimate_ground(ridge, UNREDUCED)).max() > 10  # the limit that is documented


def test_voids_are_bridged() -> None:
    terrain = plane(90, 90, south=0.2, east=0.1)
    surface = terrain.copy()
    surface[30:50, 20:60] = np.nan
    surface[70, 10:20] = np.inf
    surface[75, 10:20] = -np.inf
    ground = estimate_ground(surface, UNREDUCED)
    np.testing.assert_allclose(ground, terrain, atol=0.02)


def test_building_beside_a_void_is_removed() -> None:
    surface = plane(100, 100)
    surface[30:50, 30:60] += 8
    surface[30:70, 50:75] = np.nan
    np.testing.assert_allclose(estimate_ground(surface), 100, atol=1e-3)


def test_outside_of_a_rotated_footprint() -> None:
    y, x = np.mgrid[:120, :120]
    surface = plane(120, 120, east=0.1)
    inside = np.abs(x - 60) + np.abs(y - 60) < 50
    surface[~inside] = np.nan
    ground = estimate_ground(surface, UNREDUCED)
    np.testing.assert_allclose(ground[inside], surface[inside], atol=0.01)
    assert ground.min() > np.nanmin(surface) - 0.1
    assert ground.max() < np.nanmax(surface) + 0.1


def test_rows_and_columns_without_any_height() -> None:
    surface = np.full((9, 9), np.nan, np.float32)
    surface[2, 3] = 7
    np.testing.assert_allclose(estimate_ground(surface), 7, atol=1e-5)


def test_pits_are_removed() -> None:
    terrain = plane(100, 100, south=0.1)
    surface = terrain.copy()
    surface[20, 20] -= 30
    surface[50:53, 50:53] -= 10
    surface[70, 70:73] -= 4
    surface[0, 0] -= 30
    np.testing.assert_allclose(estimate_ground(surface, UNREDUCED), terrain, atol=0.2)


def test_many_pits_among_buildings() -> None:
    rng = np.random.default_rng(0)
    terrain = plane(150, 150, south=0.1, east=0.05)
    surface = terrain.copy()
    for row in range(10, 140, 30):
        surface[row : row + 12, 20:50] += 7
        surface[row : row + 15, 70:100] += 12
    pits = rng.random(surface.shape) < 0.005
    surface[pits] -= rng.uniform(3, 30, pits.sum()).astype(np.float32)
    error = np.abs(estimate_ground(surface, UNREDUCED) - terrain)
    assert np.percentile(error, 99) < 0.3


def test_streets_are_no_pits() -> None:
    surface = plane(150, 150)
    for row in range(2, 150, 26):
        surface[row : row + 22] += 15
    np.testing.assert_allclose(estimate_ground(surface), 100, atol=0.01)


def test_ground_seen_through_a_canopy() -> None:
    rng = np.random.default_rng(0)
    terrain = plane(150, 150, south=0.1)
    surface = terrain + 20 + rng.normal(0, 0.3, terrain.shape).astype(np.float32)
    gaps = rng.random(terrain.shape) < 0.06
    surface[gaps] = terrain[gaps]
    error = estimate_ground(surface, UNREDUCED) - terrain
    assert np.percentile(np.abs(error), 95) < 0.7


def test_bridged_ground_is_smooth() -> None:
    surface = plane(80, 80) + np.random.default_rng(0).normal(0, 0.2, (80, 80)).astype(np.float32)
    surface[20:60, 20:60] += 10
    inside = estimate_ground(surface, UNREDUCED)[24:56, 24:56]
    for axis in (0, 1):
        assert np.abs(np.diff(inside, n=2, axis=axis)).max() < 0.02


@pytest.mark.parametrize("size", [2, 30])
@pytest.mark.parametrize(("max_offset", "removed"), [(2.5, True), (3.5, False)])
def test_no_tolerance_hides_a_building(size: int, max_offset: float, removed: bool) -> None:
    surface = plane(60, 60)
    surface[15 : 15 + size, 15 : 15 + size] += 3
    spec = GroundFilter(slope=1, offset=3.2, max_offset=max_offset)
    assert estimate_ground(surface, spec)[15, 15] == pytest.approx(100 if removed else 103)


@pytest.mark.parametrize("place", [np.s_[:12, 40:60], np.s_[40:60, -9:], np.s_[:9, :9]])
def test_building_at_the_edge_is_removed(place: tuple[slice, slice]) -> None:
    terrain = plane(100, 100, south=0.03, east=0.03)
    surface = terrain.copy()
    surface[place] += 6
    np.testing.assert_allclose(estimate_ground(surface, UNREDUCED), terrain, atol=0.7)


@pytest.mark.parametrize("void", [False, True])
def test_hill_that_goes_on_beyond_the_edge_stays(void: bool) -> None:
    y, x = np.mgrid[:150, :150] * 2.0
    hill = 50 + 30 * np.exp(-((x - 80) ** 2 + (y - 150) ** 2) / 2 / 30**2)  # up to 31 degrees
    surface = np.asarray(hill, np.float32)
    surface[:, :40] = np.nan
    seen = surface if void else surface[:, 40:]
    error = (estimate_ground(seen, UNREDUCED) - seen)[:, -110:]
    np.testing.assert_allclose(error, 0, atol=1e-3)


@pytest.mark.parametrize(
    ("depth", "height", "removed"),
    [(24, 2, True), (28, 2, False), (28, 4, True), (48, 4, True), (54, 4, False)],
)
def test_hall_at_the_edge(depth: int, height: int, removed: bool) -> None:
    surface = plane(150, 150)
    surface[: depth // 2, 20:130] += height
    ground = estimate_ground(surface, GroundFilter(max_window=100))
    assert ground[3, 75] == pytest.approx(100 if removed else 100 + height, abs=0.1)


def test_slope_at_the_edge_stays() -> None:
    terrain = plane(100, 100, south=0.36, east=0.1)
    error = estimate_ground(terrain, UNREDUCED) - terrain
    np.testing.assert_allclose(error[:-1, :-1], 0, atol=1e-3)
    np.testing.assert_allclose(error, 0, atol=1)


def test_lift_undoes_the_minimum_over_a_slope() -> None:
    dsm = np.asarray(100 + 0.5 * np.mgrid[:160, :200][1] * 0.4, np.float32)
    dsm += 0.5 * np.mgrid[:160, :200][0].astype(np.float32) * 0.2
    inner = np.s_[8:-8, 8:-8]
    lifted, low = (
        sample(estimate_ground(reduce(dsm), spec), dsm.shape)[inner] - dsm[inner]
        for spec in (GroundFilter(), UNREDUCED)
    )
    np.testing.assert_allclose(lifted, 0, atol=0.01)
    np.testing.assert_allclose(low, -0.75 * (0.4 + 0.2), atol=0.01)


def test_wall_does_not_lift_the_ground_at_its_foot() -> None:
    surface = plane(60, 200)
    surface[:, 100:] += 5
    np.testing.assert_allclose(estimate_ground(surface), surface, atol=1e-3)


def test_bottom_of_a_valley_is_not_lifted() -> None:
    x = np.abs(np.arange(81) - 40) * 2.0
    valley = np.tile(100 + 0.4 * x, (60, 1)).astype(np.float32)
    lift = estimate_ground(valley) - valley
    np.testing.assert_allclose(lift[:, 40], 0, atol=1e-4)
    np.testing.assert_allclose(lift[:, 41:60], 0.75 * 0.4, atol=1e-4)


def test_never_above_the_surface() -> None:
    y, x = np.mgrid[:80, :80]
    rough = (100 + 8 * np.sin(x / 3) * np.sin(y / 3)).astype(np.float32)  # cut for the most part
    assert (estimate_ground(rough, UNREDUCED) <= rough).all()


@pytest.mark.parametrize("void", [np.nan, np.inf, -np.inf])
def test_all_void(void: float) -> None:
    ground = estimate_ground(np.full((5, 7), void, np.float32))
    assert ground.shape == (5, 7)
    assert ground.dtype == np.float32
    assert np.isnan(ground).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 2), (1, 60), (60, 1), (2, 2), (3, 60)])
def test_small_rasters(shape: tuple[int, int]) -> None:
    surface = np.full(shape, 3, np.float32)
    if surface.size > 50:
        surface.flat[20:30] = 9
    np.testing.assert_allclose(estimate_ground(surface), 3, atol=1e-4)


@pytest.mark.parametrize("radius", [1, 2, 3, 4, 9])
def test_windows_are_octagons(radius: int) -> None:
    rng = np.random.default_rng(radius)
    values = rng.random((2 * radius + 7, 2 * radius + 4)).astype(np.float32)
    y, x = np.abs(np.mgrid[-radius : radius + 1, -radius : radius + 1])
    octagon = x + y <= radius + radius // 2
    inner = np.s_[radius:-radius, radius:-radius]
    squares, crosses = radius // 2, (radius + 1) // 2
    expected = minimum_filter(values, footprint=octagon)[inner]
    found = ground_module._extreme(values, np.minimum, squares, crosses)
    np.testing.assert_array_equal(found, expected)


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    surface, spec = messy(), GroundFilter(max_window=28)
    whole = estimate_ground(surface, spec)
    for module in (ground_module, ground_interpolation):
        monkeypatch.setattr(module, "_BLOCK", 16)
    np.testing.assert_array_equal(estimate_ground(surface, spec), whole)


def test_input_is_left_alone() -> None:
    surface = messy()
    before = surface.copy()
    estimate_ground(surface)
    np.testing.assert_array_equal(surface, before)


def test_constant_shifts_the_ground() -> None:
    surface = messy()
    shifted = estimate_ground(surface + np.float32(256))
    np.testing.assert_allclose(shifted, estimate_ground(surface) + 256, atol=2e-3)


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("flip", [False, True])
def test_orientation_does_not_matter(turns: int, flip: bool) -> None:
    def turn(array: Array) -> Array:
        return np.rot90(array[::-1] if flip else array, turns)

    surface = messy()
    expected = turn(estimate_ground(surface))
    np.testing.assert_allclose(estimate_ground(turn(surface)), expected, atol=1e-3)


@pytest.mark.parametrize("name", ["cell", "pixel", "max_window", "slope", "offset", "max_offset"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_values_without_meaning(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be above 0, not {value}"):
        GroundFilter(**{name: value})


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.skipif(not AUTZEN.is_dir(), reason=f"the real scene is not at {AUTZEN}")
def test_real_scene() -> None:
    with rasterio.open(AUTZEN / "dsm.tif") as source, rasterio.open(AUTZEN / "labels.tif") as truth:
        dsm, labels = source.read(1, masked=True).filled(np.nan), truth.read(1)
        grid = Affine(2, 0, source.bounds.left, 0, -2, source.bounds.top)
        size = {"height": -(-source.height // FACTOR), "width": -(-source.width // FACTOR)}
        with WarpedVRT(source, transform=grid, resampling=Resampling.min, **size) as vrt:
            surface = vrt.read(1, masked=True).filled(np.nan)
    height = dsm - sample(estimate_ground(surface), dsm.shape)
    ground, building = (height[(labels == value) & ~np.isnan(dsm)] for value in (0, 2))
    assert np.percentile(np.abs(ground), 95) < 0.3  # measured: 0.21 m
    assert np.abs(np.median(ground)) < 0.1
    assert np.percentile(building, 5) > 3.4  # 3.52 m; 3.46 m above the labelled ground
    assert np.mean(building < 2.5) < 0.01  # 0.005
