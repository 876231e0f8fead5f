"""Make the sample survey: orthophotos, surface models and labels of a town that does not exist.

One world is drawn at 12.5 cm (terrain, water, streets, buildings, cars, trees); three scenes are
cut out of it, lit by a sun, blurred, and written as a survey would deliver them. The same seed
gives the same bytes: ``python sample_data/generate.py [OUTDIR]``. See README.md beside this file.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from math import cos, hypot, pi, radians, sin, tan
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.transform import Affine, from_origin
from rasterio.warp import transform as reproject_points
from rasterio.warp import transform_bounds
from scipy import ndimage

Array = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Window = tuple[slice, slice]
Colour = tuple[float, float, float]
Place = tuple[float, float, float]  # x, y, direction
Size = tuple[float, float]  # along, across

SEED = 20240617
GSD = 0.25  # metres, orthophoto and labels
FINE = 0.125  # metres, the grid on which the world is drawn
COLS, ROWS = 2160, 1600  # the world, in orthophoto pixels
WIDTH, HEIGHT = COLS * GSD, ROWS * GSD  # the world, in metres
ORTHO_CRS, DSM_CRS = "EPSG:32632", "EPSG:25833"
EAST, NORTH = 707_300.0, 5_577_900.0  # top left of the world in ORTHO_CRS
ALL: Window = (slice(None), slice(None))
DSM_GSD, DSM_MARGIN, DSM_NODATA = 0.5, 6.0, -9999.0
TOWN_OVERLAP = 100  # pixels shared by neighbouring pieces of the town

GROUND, BUILDING, LOW, TREE, CAR, WATER, UNLABELLED = 0, 1, 2, 3, 4, 5, 255
CLASSES: dict[int, tuple[str, tuple[int, int, int]]] = {
    GROUND: ("ground", (200, 196, 188)),
    BUILDING: ("building", (204, 60, 48)),
    LOW: ("low vegetation", (172, 214, 112)),
    TREE: ("tree", (38, 120, 54)),
    CAR: ("car", (250, 190, 30)),
    WATER: ("water", (58, 120, 204)),
}

TILES: list[Colour] = [(150, 92, 74), (134, 76, 64), (160, 106, 84), (118, 86, 74), (98, 74, 66)]
SLATES: list[Colour] = [(92, 92, 96), (74, 74, 78), (118, 116, 114), (138, 134, 128)]
FLATS: list[Colour] = [
    (126, 124, 122),
    (150, 148, 142),
    (172, 168, 160),
    (96, 95, 94),
    (196, 194, 190),
]
SEDUM: list[Colour] = [(104, 116, 72), (120, 122, 76), (92, 110, 66)]
LEAVES: list[Colour] = [(76, 98, 50), (66, 88, 46), (92, 112, 56), (56, 76, 44), (104, 116, 60)]
NEEDLES: list[Colour] = [(44, 62, 46), (50, 66, 44), (40, 56, 44)]
GREYS: list[Colour] = [(226, 226, 226), (206, 208, 210), (168, 170, 174), (112, 114, 118)]
PAINTS: list[Colour] = [
    *GREYS,
    *GREYS,
    (58, 60, 64),
    (38, 38, 42),
    (38, 38, 42),
    (46, 66, 112),
    (142, 36, 34),
]
CHURCH = (170.0, 130.0)
PONDS = [
    (384.0, 60.0),
    (492.0, 150.0),
    (405.0, 232.0),
    (488.0, 345.0),
    (90.0, 110.0),
    (270.0, 280.0),
]


class Scene(NamedTuple):
    """A part of the world (in orthophoto pixels) and the light in which it was flown."""

    name: str
    col: int
    row: int
    width: int
    height: int
    azimuth: float
    elevation: float
    gain: Colour
    haze: float


SCENES = [
    Scene("a", 1420, 100, 640, 640, 152.0, 44.0, (1.14, 1.14, 1.11), 0.010),
    Scene("b", 1420, 860, 640, 640, 158.0, 45.0, (1.20, 1.16, 1.09), 0.014),
    Scene("town", 100, 280, 1200, 1000, 166.0, 47.0, (1.10, 1.13, 1.17), 0.018),
]


@dataclass
class World:
    """The town on the fine grid: x to the east, y to the south, in metres from the top left."""

    rng: np.random.Generator
    u: Array
    v: Array
    ground: Array
    surface: Array
    albedo: Array
    label: npt.NDArray[np.uint8]
    taken: Mask
    grain: dict[str, Array]


@dataclass
class Streets:
    """Two families of lines (u constant, v constant) and which of their segments are built."""

    lines: tuple[Array, Array]
    widths: tuple[Array, Array]
    built: tuple[Mask, Mask]


# ---------------------------------------------------------------------- coordinates


def to_uv(x: Any, y: Any) -> tuple[Any, Any]:
    """Warp metres into street coordinates, in which the streets are straight."""
    c, s = cos(radians(-13.0)), sin(radians(-13.0))
    u = c * x + s * y + 7.0 * np.sin(y / 37.0 + 0.6) + 4.0 * np.sin(x / 31.0 + y / 53.0)
    v = -s * x + c * y + 8.0 * np.sin(x / 44.0 + 1.9) + 4.0 * np.sin(x / 61.0 - y / 33.0)
    return u, v


def to_xy(u: float, v: float) -> tuple[float, float]:
    """Invert `to_uv` at one point by fixed-point iteration."""
    c, s = cos(radians(-13.0)), sin(radians(-13.0))
    x, y = c * u - s * v, s * u + c * v
    for _ in range(60):
        du, dv = (float(value) for value in to_uv(x, y))
        du, dv = u - du, v - dv
        x, y = x + 0.8 * (c * du - s * dv), y + 0.8 * (s * du + c * dv)
    return x, y


def heading(u: float, v: float, family: int) -> float:
    """Direction of the street of that family (0: u constant, 1: v constant) at a point."""
    step = (0.0, 1.0) if family == 0 else (1.0, 0.0)
    x0, y0 = to_xy(u - step[0], v - step[1])
    x1, y1 = to_xy(u + step[0], v + step[1])
    return float(np.arctan2(y1 - y0, x1 - x0))


def inside(x: float, y: float, margin: float = 1.0) -> bool:
    """Tell whether a point lies in the world."""
    return margin < x < WIDTH - margin and margin < y < HEIGHT - margin


def frame(x: float, y: float, angle: float, radius: float) -> tuple[Window, Array, Array]:
    """Window around a point, and its pixels' coordinates along and across a direction."""
    shape = (round(HEIGHT / FINE), round(WIDTH / FINE))
    row0, row1 = (int(np.clip((y + d) / FINE, 0, shape[0])) for d in (-radius, radius))
    col0, col1 = (int(np.clip((x + d) / FINE, 0, shape[1])) for d in (-radius, radius))
    dx = ((np.arange(col0, col1) + 0.5) * FINE - x).astype(np.float32)[None, :]
    dy = ((np.arange(row0, row1) + 0.5) * FINE - y).astype(np.float32)[:, None]
    along = dx * np.float32(cos(angle)) + dy * np.float32(sin(angle))
    across = dy * np.float32(cos(angle)) - dx * np.float32(sin(angle))
    return (slice(row0, row1), slice(col0, col1)), along, across


# ---------------------------------------------------------------------- noise, colour


def linear(colour: Colour) -> Array:
    """Turn a colour as seen on a screen into reflectance."""
    return (np.asarray(colour, np.float32) / 255.0) ** np.float32(2.2)


def pick(rng: np.random.Generator, colours: list[Colour], spread: float = 0.06) -> Colour:
    """Choose a colour and vary it a little."""
    base = np.asarray(colours[int(rng.integers(len(colours)))])
    varied = base * rng.normal(1.0, spread) * rng.normal(1.0, spread / 3, 3)
    r, g, b = (float(value) for value in np.clip(varied, 12, 245))
    return r, g, b


def smoothstep(x: Any) -> Any:
    """Rise smoothly from 0 to 1 as x does."""
    x = np.clip(x, 0.0, 1.0)
    return x * x * (3.0 - 2.0 * x)


def noise(rng: np.random.Generator, shape: tuple[int, int], scale: float) -> Array:
    """Smooth noise of unit variance whose grains are `scale` pixels wide."""
    if scale < 6:
        raw = ndimage.gaussian_filter(rng.standard_normal(shape, np.float32), scale / 2)
    else:
        coarse = [int(size / scale) + 4 for size in shape]
        seeds = ndimage.gaussian_filter(rng.standard_normal(coarse, np.float32), 0.6)
        raw = ndimage.zoom(seeds, scale, order=3)[: shape[0], : shape[1]]
    return np.asarray((raw - raw.mean()) / raw.std(), np.float32)


# ---------------------------------------------------------------------- land and water


def river_offsets(x: Any, y: Any) -> tuple[Any, Any]:
    """Distance from the bank of the main river and of its tributary (negative: in the water)."""
    centre = 436.0 + 22.0 * np.sin(y / 36.0 + 0.4) + 9.0 * np.sin(y / 17.0)
    slope = 22.0 / 36.0 * np.cos(y / 36.0 + 0.4) + 9.0 / 17.0 * np.cos(y / 17.0)
    main = np.abs(x - centre) / np.sqrt(1 + slope**2) - 5.5 - 1.2 * np.sin(y / 11.0)
    middle = 200.0 + 24.0 * np.sin(x / 41.0 + 0.5) + 7.0 * np.sin(x / 19.0)
    slope = 24.0 / 41.0 * np.cos(x / 41.0 + 0.5) + 7.0 / 19.0 * np.cos(x / 19.0)
    brook = np.abs(y - middle) / np.sqrt(1 + slope**2) - 3.8 - 0.7 * np.sin(x / 9.0)
    return main, np.where(x > centre, 99.0 + np.abs(brook), brook)


def terrain(x: Array, y: Array, grain: dict[str, Array]) -> Array:
    """Heights of a valley: hills that rise from the rivers' level."""
    main, brook = river_offsets(x, y)
    away = np.maximum(np.minimum(main, brook), 0.0)
    share = (brook + 20.0) ** 2 / ((brook + 20.0) ** 2 + (main + 20.0) ** 2)
    level = 478.0 + 0.004 * (HEIGHT - y)
    level = share * level + (1 - share) * (478.8 + 0.006 * (440.0 - x))
    hills = 26.0 * smoothstep(away / 190.0) * (1.0 + 0.3 * grain["hill"])
    bumps = (1.1 * grain["broad"] + 3.0 * grain["hill"]) * smoothstep(away / 70.0)
    return np.asarray(level + 1.3 * smoothstep(away / 3.0) + hills + bumps, np.float32)


def dig_pond(world: World, water: Mask, u: float, v: float, radius: float) -> None:
    """Level the ground around a point and fill the middle with water."""
    x, y = to_xy(u, v)
    win, dx, dy = frame(x, y, 0.0, radius + 22.0)
    away = np.hypot(dx, dy * 1.25) + 2.0 * world.grain["broad"][win] - radius
    wet = away < 0
    level = world.ground[win][wet].min()
    keep = smoothstep((away + 1.0) / 16.0)
    shore = level + 0.5 * smoothstep(away / 1.2)
    world.ground[win] = shore + keep * (world.ground[win] - shore)
    water[win] |= wet


def fill_water(world: World, water: Mask) -> None:
    """Paint the water: dark and smooth, brownish at the banks."""
    depth = smoothstep(2.2 * (ndimage.gaussian_filter(water.astype(np.float32), 1.6 / FINE) - 0.5))
    tone = 1.0 + 0.10 * world.grain["broad"] + 0.03 * world.grain["small"]
    for band, (bank, deep) in enumerate(
        zip(linear((84, 84, 62)), linear((50, 64, 52)), strict=True)
    ):
        colour = (bank + (deep - bank) * depth) * tone
        world.albedo[band] = np.where(water, colour, world.albedo[band])
    world.label[water] = WATER
    world.taken |= water


def cover_with_grass(world: World) -> None:
    """Start with meadows everywhere: lush, dry, patchy."""
    dry = smoothstep(0.5 + 0.28 * world.grain["broad"] + 0.14 * world.grain["hill"])
    tone = (
        1.0 + 0.10 * world.grain["small"] + 0.08 * world.grain["leaf"] + 0.06 * world.grain["broad"]
    )
    for band, (lush, pale) in enumerate(
        zip(linear((96, 118, 62)), linear((134, 134, 84)), strict=True)
    ):
        world.albedo[band] = (lush + (pale - lush) * dry) * tone
    world.label[:] = LOW


# ---------------------------------------------------------------------- streets


def plan_streets(rng: np.random.Generator) -> Streets:
    """Lay out both families of lines; leave out what would run along a river, and a few more."""
    u, v = (
        np.cumsum(rng.uniform(54.0, 72.0, 17)).astype(np.float32) - shift
        for shift in (190.0, 110.0)
    )
    widths = np.where(np.arange(17) % 3 == 1, 9.0, 6.6).astype(np.float32)
    streets = Streets((u, v), (widths, widths), (np.ones((17, 18), bool), np.ones((17, 18), bool)))
    for family, built in enumerate(streets.built):
        for k, j in rng.permutation([(k, j) for k in range(17) for j in range(1, 17)]):
            start, stop = streets.lines[1 - family][j - 1 : j + 1]
            wet = share_in_water(float(streets.lines[family][k]), float(start), float(stop), family)
            ends = [(k, j - 1), (k, j)] if family == 0 else [(j - 1, k), (j, k)]
            spare = min(degree(streets, *end) for end in ends) == 4 and rng.random() < 0.07
            built[k, j] = wet < 0.3 and not (wet == 0 and spare)
    prune(streets)
    return streets


def degree(streets: Streets, k: int, j: int) -> int:
    """Count the built segments that meet where lines k and j of the two families cross."""
    first, second = streets.built
    return int(first[k, j]) + int(first[k, j + 1]) + int(second[j, k]) + int(second[j, k + 1])


def prune(streets: Streets) -> None:
    """Take away streets that end nowhere."""
    first, second = streets.built
    loose = True
    while loose:
        loose = False
        for k in range(17):
            for j in range(17):
                if degree(streets, k, j) == 1:
                    first[k, j : j + 2] = second[j, k : k + 2] = False
                    loose = True


def share_in_water(line: float, start: float, stop: float, family: int) -> float:
    """Share of a street segment that lies in or near a river."""
    points = [
        (line, float(t)) if family == 0 else (float(t), line) for t in np.linspace(start, stop, 25)
    ]
    offsets = [min(float(d) for d in river_offsets(*to_xy(*point))) for point in points]
    return float(np.mean(np.asarray(offsets) < 1.0))


def street_offsets(world: World, streets: Streets, family: int) -> tuple[Array, Array]:
    """Signed offset from the nearest line of a family; distance to its kerb (negative: road)."""
    value, other = (world.u, world.v) if family == 0 else (world.v, world.u)
    lines = streets.lines[family]
    nearest = np.searchsorted((lines[1:] + lines[:-1]) / 2, value)
    segment = np.searchsorted(streets.lines[1 - family], other)
    slope = np.hypot(*np.gradient(value, np.float32(FINE)))
    offset = (value - lines[nearest]) / slope
    kerb = np.abs(offset) - streets.widths[family][nearest] / 2
    kerb = np.where(streets.built[family][nearest, segment], kerb, 99.0)
    return np.asarray(offset, np.float32), np.asarray(kerb, np.float32)


def pave(world: World, win: Window, mask: Mask, colour: Colour, rough: float = 0.05) -> None:
    """Paint a hard surface with stains and patches."""
    stains = sum(world.grain[name][win][mask] for name in ("small", "fine", "broad"))
    world.albedo[:, *win][:, mask] = linear(colour)[:, None] * (1.0 + rough * stains)
    world.label[win][mask] = GROUND


def draw_streets(world: World, streets: Streets, water: Mask) -> None:
    """Pave roads and pavements, mark lanes and crossings; bridges win over water."""
    offset0, kerb0 = street_offsets(world, streets, 0)
    offset1, kerb1 = street_offsets(world, streets, 1)
    kerb = np.asarray(-1.2 * np.logaddexp(-kerb0 / 1.2, -kerb1 / 1.2), np.float32)
    rail = ndimage.binary_dilation(water, iterations=8) & (kerb > 1.5) & (kerb < 1.85)
    water &= kerb > 1.7
    pave(world, ALL, kerb < 1.7, (166, 162, 154))
    pave(world, ALL, (kerb > -0.1) & (kerb < 0.12), (190, 188, 182), 0.03)
    pave(world, ALL, kerb <= -0.1, (126, 124, 122), 0.055)
    pave(world, ALL, rail, (206, 204, 198))
    world.surface[rail] += 0.9
    broad0, broad1 = (np.abs(o) - k > 4.0 for o, k in ((offset0, kerb0), (offset1, kerb1)))
    for mine, theirs, offset, along, broad in (
        (kerb0, kerb1, offset0, world.v, (broad0, broad1)),
        (kerb1, kerb0, offset1, world.u, (broad1, broad0)),
    ):
        wide = (mine < 0) & broad[0]
        dashes = wide & (np.abs(offset) < 0.11) & (np.mod(along, 6.0) < 3.2) & (theirs > 4.5)
        zebra = (
            wide
            & (mine < -0.3)
            & broad[1]
            & (theirs > 1.0)
            & (theirs < 3.9)
            & (np.mod(offset, 1.1) < 0.55)
        )
        bays = wide & (np.abs(mine + 2.2) < 0.07) & (theirs > 6.0)
        pave(world, ALL, dashes | zebra | bays, (212, 210, 204))
    world.taken |= kerb < 1.7


def line_banks(world: World, x: Array, y: Array) -> None:
    """Give the rivers a strip of stones and reeds, and the main river a path on its east side."""
    main, brook = river_offsets(x, y)
    east = np.gradient(main, axis=1) > 0
    path = east & (main > 4.2) & (main < 5.7) & (brook > 1.0) & (world.label == LOW)
    pave(world, ALL, path, (172, 162, 142))
    strip = np.minimum(main, brook) + 0.35 * world.grain["small"]
    mixed = (strip < 1.0) & (world.label == LOW)
    tone = 1.0 + 0.16 * world.grain["leaf"][mixed] + 0.10 * world.grain["small"][mixed]
    world.albedo[:, mixed] = linear((116, 116, 78))[:, None] * tone
    world.surface[mixed] += 0.15 + 0.15 * np.maximum(world.grain["leaf"][mixed], 0.0)


# ---------------------------------------------------------------------- shapes


def rectangle(
    world: World, at: Place, size: Size, colour: Colour, label: int, rise: float = 0.0
) -> None:
    """Paint a rotated rectangle onto meadow (patio, drive, bed, hedge, pool)."""
    win, along, across = frame(*at, hypot(*size) / 2 + 0.5)
    mask = (np.abs(along) < size[0] / 2) & (np.abs(across) < size[1] / 2)
    mask &= (world.label[win] == LOW) & ~world.taken[win]
    tone = (
        1.0
        + 0.05 * world.grain["small"][win]
        + (0.05 + 0.05 * (rise > 0)) * world.grain["leaf"][win]
    )
    world.albedo[:, *win][:, mask] = linear(colour)[:, None] * tone[mask]
    world.label[win][mask] = label
    bumps = 1.0 + 0.12 * world.grain["leaf"][win]
    world.surface[win][mask] += (rise * bumps)[mask] if rise > 0 else rise


def is_free(world: World, at: Place, size: Size, gap: float) -> bool:
    """Tell whether a rotated rectangle and a gap around it are still free."""
    if not inside(at[0], at[1], 2.0):
        return False
    win, along, across = frame(*at, hypot(*size) / 2 + gap + 0.5)
    mask = (np.abs(along) < size[0] / 2 + gap) & (np.abs(across) < size[1] / 2 + gap)
    return not bool(world.taken[win][mask].any())


def fit(world: World, at: Place, size: Size) -> Size | None:
    """Shrink a rectangle until it is free; None if it never is."""
    for share in (1.0, 0.92, 0.84, 0.76, 0.66, 0.56):
        smaller = (size[0] * share, size[1] * (1 + share) / 2)
        if is_free(world, at, smaller, 0.4):
            return smaller
    return None


class Roof(NamedTuple):
    """Shape and colour of a roof: `pitch` is rise over run (0: flat)."""

    eave: float
    pitch: float
    hip: float
    colour: Colour
    solar: bool = False


def shifted(at: Place, along: float, across: float) -> Place:
    """Move a placed frame along its own axes."""
    x, y, angle = at
    return (
        x + along * cos(angle) - across * sin(angle),
        y + along * sin(angle) + across * cos(angle),
        angle,
    )


def raise_building(world: World, at: Place, size: Size, roof: Roof) -> None:
    """Draw one body of a building: walls, roof, what stands on the roof."""
    win, along, across = frame(*at, hypot(*size) / 2 + 0.5)
    end, side = size[0] / 2 - np.abs(along), size[1] / 2 - np.abs(across)
    mask = (end > 0) & (side > 0)
    base = float(world.ground[win][mask].mean()) if mask.any() else 0.0
    run = np.minimum(side, end / roof.hip) if roof.hip > 0 else side
    height = base + roof.eave + roof.pitch * run
    tone = 1.0 + 0.05 * world.grain["leaf"][win] + 0.05 * world.grain["small"][win]
    tone = tone + 0.04 * world.grain["broad"][win]
    if roof.pitch > 0:
        tone = tone * np.where((np.abs(across) < 0.16) & (run > 1), 1.18, 1.0)
        tone = tone * np.where(np.minimum(side, end) < 0.22, 0.82, 1.0)
        tone = tone * (1.0 + 0.05 * np.sign(np.sin(np.abs(along) * 9.0)))
    else:
        rim = np.minimum(side, end) < 0.4
        height = height + np.where(rim, 0.35, 0.0)
        tone = np.where(rim, 1.2, tone)
    higher = mask & (height > world.surface[win])
    world.surface[win][higher] = height[higher]
    world.albedo[:, *win][:, higher] = linear(roof.colour)[:, None] * tone[higher]
    world.label[win][mask] = BUILDING
    world.taken[win] |= mask
    furnish_roof(world, at, size, roof)


def furnish_roof(world: World, at: Place, size: Size, roof: Roof) -> None:
    """Put chimneys, windows and solar panels on pitched roofs, plant and skylights on flat ones."""
    rng = world.rng
    if roof.pitch == 0:
        for _ in range(int(size[0] * size[1] / 70)):
            spot = shifted(at, *(rng.uniform(-0.38, 0.38) * edge for edge in size))
            shade: Colour = (188, 188, 184) if rng.random() < 0.6 else (84, 86, 90)
            fixture(
                world,
                spot,
                (rng.uniform(1.0, 2.6), rng.uniform(1.0, 1.8)),
                shade,
                rng.uniform(0.3, 1.2),
            )
        return
    fixture(
        world,
        shifted(at, rng.uniform(-0.3, 0.3) * size[0], rng.uniform(-0.9, 0.9)),
        (0.8, 0.7),
        (120, 92, 80),
        1.1,
    )
    for _ in range(int(rng.integers(0, 4))):
        spot = shifted(at, rng.uniform(-0.38, 0.38) * size[0], rng.choice([-0.24, 0.24]) * size[1])
        fixture(world, spot, (0.8, 1.1), (66, 76, 88), 0.05)
    if roof.solar:
        south = 1.0 if cos(at[2]) > 0 else -1.0
        fixture(
            world,
            shifted(at, 0.0, south * 0.25 * size[1]),
            (0.62 * size[0], 0.26 * size[1]),
            (34, 42, 62),
            0.08,
        )


def fixture(world: World, at: Place, size: Size, colour: Colour, rise: float) -> None:
    """Set a small box on a roof."""
    win, along, across = frame(*at, hypot(*size) / 2 + 0.3)
    mask = (
        (np.abs(along) < size[0] / 2)
        & (np.abs(across) < size[1] / 2)
        & (world.label[win] == BUILDING)
    )
    panes = np.where(np.mod(along, 1.6) < 0.12, 1.5, 1.0) + 0.03 * world.grain["leaf"][win]
    world.albedo[:, *win][:, mask] = linear(colour)[:, None] * panes[mask]
    world.surface[win][mask] += rise


def park_car(world: World, x: float, y: float, angle: float) -> None:
    """Draw a car or van on a hard surface: body, cabin, dark panes."""
    rng = world.rng
    if not inside(x, y, 4.0):
        return
    van = rng.random() < 0.1
    length, width = (5.4, 2.1) if van else (rng.uniform(4.2, 4.8), rng.uniform(1.85, 2.0))
    win, along, across = frame(x, y, angle + rng.normal(0, 0.02), 3.4)
    nose = 0.25 * np.maximum(np.abs(along) - length / 2 + 0.7, 0.0) ** 2
    mask = (np.abs(along) < length / 2) & (np.abs(across) < width / 2 - nose)
    if (world.label[win][mask] != GROUND).any():
        return
    cabin = (along > -length * 0.42) & (along < length * (0.36 if van else 0.18))
    top = cabin & (np.abs(across) < width / 2 - 0.22)
    glass = mask & cabin & ~(top & (along > -length * 0.32) & (along < length * 0.06))
    body = linear(pick(rng, PAINTS, 0.05))[:, None]
    shine = 1.0 + 0.25 * (across > 0.3) - 0.1 * (across < -0.5)
    world.albedo[:, *win][:, mask] = body * shine[mask]
    glass &= (along > -length * 0.42) & ~(van & (along < length * 0.2))
    world.albedo[:, *win][:, glass] = linear((44, 50, 58))[:, None]
    high = 2.3 if van else 1.55
    world.surface[win][mask] += np.where(cabin, high, 1.0 if not van else 1.3)[
        np.broadcast_to(mask, cabin.shape)
    ]
    world.label[win][mask] = CAR
    world.taken[win] |= mask


def plant_tree(
    world: World, x: float, y: float, radius: float, height: float, conifer: bool = False
) -> None:
    """Grow one crown: a lumpy dome with a ragged outline."""
    rng = world.rng
    if not inside(x, y):
        return
    win, dx, dy = frame(x, y, 0.0, radius * 1.4)
    angle, away = np.arctan2(dy, dx), np.hypot(dx, dy) / radius
    edge = 1.0 + 0.05 * world.grain["leaf"][win]
    for waves in (2, 3, 5, 7):
        edge = edge + rng.normal(0, 0.05) * np.cos(waves * angle + rng.uniform(0, 2 * pi))
    away = away / edge
    lumps = np.zeros_like(away)
    for _ in range(int(4 + radius * 3)):
        turn, reach, size = rng.uniform(0, 2 * pi), rng.uniform(0, 0.85), rng.uniform(0.22, 0.42)
        d2 = (dx / radius - reach * cos(turn)) ** 2 + (dy / radius - reach * sin(turn)) ** 2
        lumps = np.maximum(lumps, np.sqrt(np.maximum(size**2 - d2, 0.0)) / 0.42)
    dome = 1.0 - 0.85 * away if conifer else 0.45 + 0.55 * np.sqrt(np.maximum(1.0 - away**2, 0.0))
    crown = height * dome + 0.32 * radius * (lumps - 0.5) + 0.16 * world.grain["leaf"][win]
    ground = float(world.ground[min(int(y / FINE), world.ground.shape[0] - 1), int(x / FINE)])
    mask = (away < 1.0) & (ground + crown > world.surface[win] + 0.5) & (crown > 1.0)
    colour = linear(pick(rng, NEEDLES if conifer else LEAVES, 0.09))
    tone = 0.80 + 0.55 * lumps + 0.16 * world.grain["leaf"][win] + 0.06 * world.grain["fine"][win]
    world.albedo[:, *win][:, mask] = colour[:, None] * tone[mask]
    world.surface[win][mask] = (ground + crown)[mask]
    world.label[win][mask] = TREE


# ---------------------------------------------------------------------- quarters


class Cell(NamedTuple):
    """A block between four streets, in street coordinates."""

    u0: float
    u1: float
    v0: float
    v1: float

    def place(self, s: float, t: float, family: int = 0) -> Place:
        """Point at shares s, t of the block, with the direction of a street there."""
        u, v = self.u0 + s * (self.u1 - self.u0), self.v0 + t * (self.v1 - self.v0)
        return (*to_xy(u, v), heading(u, v, family))

    def fronts(self) -> list[tuple[int, float, float, float, float]]:
        """List the four streets around: family, line, sign of the way in, start and end."""
        u0, u1, v0, v1 = self
        return [
            (0, u0, 1.0, v0, v1),
            (0, u1, -1.0, v0, v1),
            (1, v0, 1.0, u0, u1),
            (1, v1, -1.0, u0, u1),
        ]

    def front(self, family: int, off: float, along: float, inward: float) -> Place:
        """Place of a house along one of the fronts; its +across side looks at the street."""
        u, v = (off, along) if family == 0 else (along, off)
        turn = pi if (inward > 0) == (family == 1) else 0.0
        return (*to_xy(u, v), heading(u, v, family) + turn)

    def yard(self, world: World, win: Window, inset: float) -> Mask:
        """Pixels of a window that lie inside the block by some metres."""
        u, v = world.u[win], world.v[win]
        within = (u > self.u0 + inset) & (u < self.u1 - inset)
        return np.asarray(within & (v > self.v0 + inset) & (v < self.v1 - inset))

    def window(self, world: World) -> tuple[Window, Mask]:
        """Pixels of the block that are not taken."""
        x, y, _ = self.place(0.5, 0.5)
        win, _, _ = frame(x, y, 0.0, 80.0)
        return win, self.yard(world, win, 0.0) & ~world.taken[win]


def homes(world: World, cell: Cell) -> None:
    """Detached houses along the four streets of a block, then their gardens."""
    rng = world.rng
    built = []
    for family, side, inward, start, stop in cell.fronts():
        t = start + 7.5 + rng.uniform(0.0, 2.0)
        while t < stop - 16.0:
            size = (rng.uniform(9.5, 14.0), rng.uniform(8.0, 11.0))
            setback = 7.4 + size[1] / 2 + float(rng.choice([0.0, 0.4, 2.5]))
            at = cell.front(family, side + inward * setback, t + size[0] / 2, inward)
            if is_free(world, at, size, 1.4):
                raise_home(world, at, size)
                built.append((at, size))
            t += size[0] + rng.uniform(3.2, 5.5)
    for _ in range(14):
        at, size = cell.place(*rng.uniform(0.25, 0.75, 2)), (rng.uniform(9.0, 12.0), 8.5)
        if is_free(world, at, size, 5.5):
            raise_home(world, at, size)
            built.append((at, size))
    for at, size in built:
        garden(world, at, size)


def raise_home(world: World, at: Place, size: Size) -> None:
    """One house, some with a wing or an annexe; the street lies at +across."""
    rng = world.rng
    colour = pick(rng, TILES if rng.random() < 0.65 else SLATES)
    hip = float(rng.choice([0.0, 0.0, 1.0]))
    roof = Roof(rng.uniform(3.4, 6.2), rng.uniform(0.55, 0.95), hip, colour, rng.random() < 0.25)
    if rng.random() < 0.18:
        roof = Roof(rng.uniform(5.5, 7.0), 0.0, 0.0, pick(rng, FLATS + SEDUM))
    raise_building(world, at, size, roof)
    spot = shifted(at, float(rng.choice([-0.27, 0.27])) * size[0], -size[1] * 0.6)
    if rng.random() < 0.4:
        turned = (spot[0], spot[1], spot[2] + pi / 2)
        raise_building(
            world, turned, (size[1] * 0.8, size[0] * 0.45), roof._replace(hip=0.0, solar=False)
        )
    elif rng.random() < 0.3:
        raise_building(world, spot, (size[0] * 0.4, 3.4), Roof(3.0, 0.0, 0.0, pick(rng, FLATS)))


def garden(world: World, at: Place, size: Size) -> None:
    """Lay out a garden: lawn, garage, drive, patio, pool or bed or shed, plants."""
    rng = world.rng
    tend_lawn(world, shifted(at, 0.0, -3.0), (size[0] + 6.0, 25.0))
    flank = float(rng.choice([-1.0, 1.0]))
    garage = shifted(at, flank * (size[0] / 2 + 1.9), -0.5)
    if rng.random() < 0.6 and is_free(world, garage, (3.2, 6.0), 0.0):
        raise_building(world, garage, (3.2, 6.0), Roof(2.8, 0.0, 0.0, pick(rng, FLATS + SEDUM)))
    drive = shifted(garage, 0.0, 6.6)
    rectangle(world, drive, (3.3, 8.0), pick(rng, [(150, 146, 140), (136, 122, 112)]), GROUND)
    if rng.random() < 0.35:
        park_car(world, *shifted(drive, 0.0, -0.6)[:2], at[2] + pi / 2)
    rectangle(
        world,
        shifted(at, rng.uniform(-2, 2), size[1] / 2 + 3.0),
        (1.6, 7.0),
        (164, 156, 146),
        GROUND,
    )
    patio = shifted(at, rng.uniform(-2, 2), -size[1] / 2 - 1.6)
    rectangle(
        world,
        patio,
        (rng.uniform(4, 7), 3.4),
        pick(rng, [(172, 166, 156), (158, 140, 126)]),
        GROUND,
    )
    back = shifted(at, rng.uniform(-3.5, 3.5), -size[1] / 2 - 6.0)
    chance = rng.random()
    if chance < 0.25:
        pool(world, back, (rng.uniform(5.5, 7.5), 3.4))
    elif chance < 0.55:
        rectangle(world, back, (rng.uniform(4, 7), rng.uniform(2.5, 4)), (124, 100, 78), GROUND)
    elif chance < 0.8 and is_free(world, back, (3.0, 2.4), 0.3):
        raise_building(world, back, (3.0, 2.4), Roof(2.2, 0.3, 0.0, pick(rng, SLATES + TILES)))
    plant_garden(world, at, size)


def plant_garden(world: World, at: Place, size: Size) -> None:
    """Hedges, shrubs and trees of one garden."""
    rng = world.rng
    for edge in (-1.0, 1.0):
        if rng.random() < 0.6:
            hedge = shifted(at, edge * (size[0] / 2 + 4.0), -3.0)
            rectangle(world, (*hedge[:2], at[2] + pi / 2), (20.0, 1.2), (84, 104, 56), LOW, 1.3)
    for _ in range(int(rng.integers(4, 14))):
        spot = shifted(
            at, rng.uniform(-9, 9), rng.choice([rng.uniform(-14, -6), rng.uniform(5, 9)])
        )
        plant_shrub(world, spot)
    for _ in range(int(rng.integers(2, 6))):
        spot = shifted(at, rng.uniform(-9, 9), -size[1] / 2 - rng.uniform(3.0, 11.0))
        tree_if_free(world, spot[0], spot[1], rng.uniform(1.4, 3.8))
    if rng.random() < 0.4:
        spot = shifted(at, rng.uniform(-6, 6), size[1] / 2 + 3.5)
        tree_if_free(world, spot[0], spot[1], rng.uniform(1.3, 2.4))


def tend_lawn(world: World, at: Place, size: Size) -> None:
    """Give the lawn of one plot its own tint."""
    rng = world.rng
    win, along, across = frame(*at, hypot(*size) / 2)
    mask = (np.abs(along) < size[0] / 2) & (np.abs(across) < size[1] / 2)
    mask &= (world.label[win] == LOW) & ~world.taken[win]
    tint = rng.normal(1.0, 0.13) * np.asarray([rng.normal(1.0, 0.10), 1.0, 1.0], np.float32)
    world.albedo[:, *win][:, mask] *= tint.astype(np.float32)[:, None]


def plant_shrub(world: World, at: Place) -> None:
    """Grow a bush on a lawn: low vegetation, not a tree."""
    rng = world.rng
    radius, height = rng.uniform(0.5, 1.0), rng.uniform(0.7, 1.5)
    win, dx, dy = frame(at[0], at[1], 0.0, radius)
    dome = 1.0 - (dx**2 + dy**2) / radius**2 + 0.1 * world.grain["leaf"][win]
    mask = (dome > 0.1) & (world.label[win] == LOW) & ~world.taken[win]
    world.surface[win][mask] += (height * np.sqrt(np.maximum(dome, 0.0)))[mask]
    tone = 0.9 + 0.2 * world.grain["leaf"][win][mask]
    world.albedo[:, *win][:, mask] = linear(pick(rng, LEAVES, 0.12))[:, None] * tone


def pool(world: World, at: Place, size: Size) -> None:
    """Sink a swimming pool into its paved surround."""
    rectangle(world, at, (size[0] + 1.6, size[1] + 1.4), (176, 172, 164), GROUND)
    win, along, across = frame(*at, hypot(*size))
    mask = (np.abs(along) < size[0] / 2) & (np.abs(across) < size[1] / 2)
    if world.taken[win][mask].any() or not mask.any():
        return
    tone = 1.0 + 0.08 * world.grain["small"][win]
    world.albedo[:, *win][:, mask] = linear((84, 150, 162))[:, None] * tone[mask]
    world.label[win][mask] = WATER
    world.taken[win] |= mask
    world.surface[win][mask] = world.ground[win][mask].min() - 0.2
    world.ground[win][mask] = world.surface[win][mask]


def tree_if_free(world: World, x: float, y: float, radius: float, conifer: float = 0.18) -> None:
    """Plant a tree unless its trunk would stand on something."""
    rng = world.rng
    if not inside(x, y, 3.0) or world.taken[int(y / FINE), int(x / FINE)]:
        return
    needles = rng.random() < conifer
    height = radius * rng.uniform(2.0, 2.8) * (1.4 if needles else 1.0)
    plant_tree(world, x, y, radius, float(np.clip(height, 4.0, 15.0)), needles)


def terraces(world: World, cell: Cell) -> None:
    """Town houses wall to wall along the streets, a paved yard with cars and trees behind."""
    rng = world.rng
    win, mask = cell.window(world)
    u, v = world.u[win], world.v[win]
    core = (np.abs(u - (cell.u0 + cell.u1) / 2) < 10.0) & (
        np.abs(v - (cell.v0 + cell.v1) / 2) < 12.0
    )
    pave(world, win, mask & core, (144, 140, 134))
    for family, side, inward, start, stop in cell.fronts():
        t, eave = start + 6.5, rng.uniform(7.5, 10.5)
        while t < stop - 13.0:
            length = rng.uniform(7.5, 11.0)
            at = cell.front(family, side + inward * 11.0, t + length / 2, inward)
            roof = Roof(
                eave + rng.normal(0, 0.8), rng.uniform(0.5, 0.8), 0.0, pick(rng, TILES + SLATES[:2])
            )
            if rng.random() < 0.2:
                roof = Roof(eave + 2.0, 0.0, 0.0, pick(rng, FLATS))
            if is_free(world, at, (length - 2.6, 9.6), 0.0):
                raise_building(
                    world, at, (length + 0.2, 10.4), roof._replace(solar=rng.random() < 0.15)
                )
            t += length
    for t in np.arange(0.34, 0.68, 0.05):
        x, y, angle = cell.place(0.5, float(t))
        if rng.random() < 0.7:
            park_car(world, x, y, angle + pi / 2)
    for _ in range(9):
        x, y, _ = cell.place(rng.uniform(0.3, 0.7), rng.uniform(0.3, 0.7))
        tree_if_free(world, x, y, rng.uniform(1.6, 3.4))


def shops(world: World, cell: Cell) -> None:
    """Build a flat hall with a wing, and a car park before it."""
    rng = world.rng
    win, mask = cell.window(world)
    pave(world, win, mask & cell.yard(world, win, 7.0), (118, 116, 115))
    span, depth = cell.u1 - cell.u0 - 18.0, cell.v1 - cell.v0 - 18.0
    eave, hall, wing = rng.uniform(5.0, 9.0), cell.place(0.5, 0.3, 1), cell.place(0.26, 0.66, 1)
    if size := fit(world, hall, (span, depth * 0.46)):
        raise_building(world, hall, size, Roof(eave, 0.0, 0.0, pick(rng, FLATS + SEDUM[:2])))
    if size := fit(world, wing, (span * 0.36, depth * 0.44)):
        raise_building(world, wing, size, Roof(eave - 1.6, 0.0, 0.0, pick(rng, FLATS + SEDUM)))
    for row in (0.62, 0.77):
        v = cell.v0 + row * (cell.v1 - cell.v0)
        for u in np.arange(cell.u0 + 9.0, cell.u1 - 9.0, 2.6):
            at = (*to_xy(float(u), v), heading(float(u), v, 0))
            mark_bay(world, shifted(at, 0.0, 1.3))
            if rng.random() < 0.6:
                park_car(world, at[0], at[1], at[2] + (pi if rng.random() < 0.5 else 0.0))
    for s in np.linspace(0.2, 0.85, 6):
        x, y, _ = cell.place(float(s), 0.695)
        if rng.random() < 0.6:
            tree_if_free(world, x, y, rng.uniform(1.5, 2.4), 0.0)


def mark_bay(world: World, at: Place) -> None:
    """Draw the line between two parking bays."""
    if not inside(at[0], at[1], 4.0):
        return
    win, along, across = frame(*at, 3.0)
    mask = (np.abs(along) < 2.5) & (np.abs(across) < 0.09) & (world.label[win] == GROUND)
    world.albedo[:, *win][:, mask] = linear((206, 204, 198))[:, None]


def park(world: World, cell: Cell) -> None:
    """Lay gravel paths and plant clumps of trees."""
    rng = world.rng
    win, mask = cell.window(world)
    u, v = world.u[win] - (cell.u0 + cell.u1) / 2, world.v[win] - (cell.v0 + cell.v1) / 2
    bend = rng.uniform(3.0, 6.0)
    paths = np.abs(u - bend * np.sin(v / 8.0) - 12.0) < 1.1
    paths |= np.abs(v - bend * np.sin(u / 9.0 + 1.0) - 13.0) < 1.0
    pave(world, win, mask & paths, (176, 164, 142))
    for _ in range(7):
        s, t = rng.uniform(0.14, 0.86, 2)
        for _ in range(int(rng.integers(1, 5))):
            x, y, _ = cell.place(s + rng.normal(0, 0.05), t + rng.normal(0, 0.05))
            tree_if_free(world, x, y, rng.uniform(2.2, 5.2))


def fields(world: World, cell: Cell) -> None:
    """Lay crops in rows beside bare, ploughed soil."""
    rng = world.rng
    win, mask = cell.window(world)
    u, v = world.u[win], world.v[win]
    mask &= cell.yard(world, win, 8.0)
    split = cell.v0 + rng.uniform(0.4, 0.6) * (cell.v1 - cell.v0)
    soil, crop = mask & (v < split), mask & (v > split + 1.0)
    furrows = 1.0 + 0.10 * np.sin(u * 2 * pi / 1.1) + 0.10 * world.grain["small"][win]
    pave(world, win, soil, (142, 116, 90))
    world.albedo[:, *win][:, soil] *= furrows[soil]
    rows = 1.0 + 0.22 * np.sin(u * 2 * pi / 0.9) + 0.1 * world.grain["broad"][win]
    colour = pick(rng, [(128, 138, 62), (92, 124, 58), (164, 152, 88)])
    world.albedo[:, *win][:, crop] = linear(colour)[:, None] * rows[crop]
    world.surface[win][crop] += 0.4 + 0.1 * world.grain["small"][win][crop]
    for _ in range(4):
        x, y, _ = cell.place(float(rng.choice([0.13, 0.87])), rng.uniform(0.2, 0.8))
        tree_if_free(world, x, y, rng.uniform(2.0, 4.0))


def sports(world: World, cell: Cell) -> None:
    """Lay clay courts and a mown pitch, a club house with a green roof, a row of trees."""
    rng = world.rng
    win, mask = cell.window(world)
    u, v = world.u[win], world.v[win]
    pitch = mask & cell.yard(world, win, 9.0) & (v > (cell.v0 + cell.v1) / 2)
    mown = 1.0 + 0.08 * np.sign(np.sin(u * 2 * pi / 7.0)) + 0.05 * world.grain["leaf"][win]
    world.albedo[:, *win][:, pitch] = linear((92, 128, 66))[:, None] * mown[pitch]
    for s in (0.34, 0.62):
        lay_court(world, cell.place(s, 0.33))
    house = cell.place(0.5, 0.13, 1)
    if size := fit(world, house, (16.0, 6.5)):
        raise_building(world, house, size, Roof(3.4, 0.0, 0.0, pick(rng, SEDUM)))
    for t in np.arange(0.2, 0.9, 0.09):
        x, y, _ = cell.place(0.87, float(t))
        tree_if_free(world, x, y, rng.uniform(2.0, 3.2), 0.0)


def lay_court(world: World, at: Place) -> None:
    """Lay a tennis court: clay, white lines."""
    rectangle(world, at, (30.0, 15.0), (168, 98, 70), GROUND)
    win, along, across = frame(*at, 14.0)
    x, y = np.abs(along), np.abs(across)
    field = (x < 11.9) & (y < 5.5) & (world.label[win] == GROUND)
    lines = (x > 11.75) | (y > 5.35) | (np.abs(y - 4.1) < 0.07)
    lines |= (np.abs(x - 6.4) < 0.07) & (y < 4.1) | (y < 0.07) & (x < 6.4) | (x < 0.12)
    mask = field & lines
    world.albedo[:, *win][:, mask] = linear((216, 206, 196))[:, None]


def grove(world: World, cell: Cell) -> None:
    """Grow a small wood with a clearing."""
    rng = world.rng
    centre = rng.uniform(0.3, 0.7, 2)
    for _ in range(70):
        s, t = rng.uniform(0.15, 0.85, 2)
        if hypot(s - centre[0], t - centre[1]) > 0.2:
            x, y, _ = cell.place(s, t)
            tree_if_free(world, x, y, rng.uniform(1.8, 4.6), 0.4)


def slabs(world: World, cell: Cell) -> None:
    """Build long apartment houses with flat roofs among lawns, trees and parked cars."""
    rng = world.rng
    eave, colour = rng.uniform(10.0, 14.0), pick(rng, FLATS)
    for s, t, family, share in ((0.55, 0.24, 1, 0.66), (0.45, 0.76, 1, 0.62), (0.2, 0.5, 0, 0.3)):
        at = cell.place(s, t, family)
        if size := fit(world, at, ((cell.u1 - cell.u0) * share, rng.uniform(10.0, 12.5))):
            raise_building(world, at, size, Roof(eave + rng.normal(0, 1.0), 0.0, 0.0, colour))
    length = (cell.u1 - cell.u0) * 0.6
    rectangle(world, cell.place(0.62, 0.5, 1), (length, 6.2), (120, 118, 116), GROUND)
    for s in np.arange(0.36, 0.86, 0.045):
        x, y, angle = cell.place(float(s), 0.5)
        if rng.random() < 0.6:
            park_car(world, x, y, angle)
    for _ in range(22):
        x, y, _ = cell.place(rng.uniform(0.14, 0.86), float(rng.choice([0.12, 0.39, 0.62, 0.88])))
        tree_if_free(world, x, y, rng.uniform(1.8, 4.2))


def square(world: World, cell: Cell) -> None:
    """Build a church on a paved square, with trees in rows."""
    rng = world.rng
    win, mask = cell.window(world)
    pave(world, win, mask & cell.yard(world, win, 7.0), (178, 168, 154), 0.06)
    nave, slate = cell.place(0.55, 0.5, 1), pick(rng, SLATES[:2])
    if is_free(world, nave, (26.0, 12.0), 0.0):
        raise_building(world, nave, (24.0, 11.0), Roof(8.5, 1.0, 0.0, slate))
        raise_building(world, shifted(nave, 4.0, 0.0), (6.0, 18.0), Roof(7.0, 1.2, 0.0, slate))
        raise_building(
            world, shifted(nave, -14.0, 0.0), (5.6, 5.6), Roof(12.5, 1.0, 1.0, (84, 120, 104))
        )
    for s in np.linspace(0.2, 0.85, 8):
        for t in (0.18, 0.83):
            x, y, _ = cell.place(float(s), t)
            tree_if_free(world, x, y, rng.uniform(2.0, 2.8), 0.0)


QUARTERS = {
    "homes": homes,
    "terraces": terraces,
    "shops": shops,
    "slabs": slabs,
    "square": square,
    "park": park,
    "fields": fields,
    "sports": sports,
    "grove": grove,
}
DRY = ["homes", "terraces", "slabs", "homes", "shops", "homes", "terraces"]
DRY += ["homes", "fields", "slabs", "homes", "sports", "terraces", "grove"]
WET = ["homes", "homes", "slabs", "homes", "grove"]


# ---------------------------------------------------------------------- the town


def cells_of(streets: Streets) -> dict[tuple[int, int], Cell]:
    """Blocks whose middle lies in the world."""
    us, vs = streets.lines
    cells = {}
    for i in range(len(us) - 1):
        for j in range(len(vs) - 1):
            cell = Cell(float(us[i]), float(us[i + 1]), float(vs[j]), float(vs[j + 1]))
            if inside(*cell.place(0.5, 0.5)[:2], -25.0):
                cells[i, j] = cell
    return cells


def start_world(rng: np.random.Generator) -> tuple[World, Array, Array]:
    """Empty land with its noises and coordinates."""
    shape = (round(HEIGHT / FINE), round(WIDTH / FINE))
    scales = {"hill": 760.0, "broad": 72.0, "small": 9.0, "leaf": 3.4, "fine": 1.2}
    grain = {name: noise(rng, shape, scale) for name, scale in scales.items()}
    x = np.broadcast_to(((np.arange(shape[1]) + 0.5) * FINE).astype(np.float32)[None, :], shape)
    y = np.broadcast_to(((np.arange(shape[0]) + 0.5) * FINE).astype(np.float32)[:, None], shape)
    u, v = to_uv(x, y)
    ground = terrain(x, y, grain)
    albedo = np.zeros((3, *shape), np.float32)
    label = np.full(shape, LOW, np.uint8)
    world = World(rng, u, v, ground, ground, albedo, label, np.zeros(shape, bool), grain)
    return world, x, y


def line_streets(world: World, streets: Streets) -> None:
    """Park cars at the kerbs, send a few along the lanes, plant avenues on the wide streets."""
    rng = world.rng
    trees: list[Size] = []
    for family in (0, 1):
        for k, line in enumerate(streets.lines[family]):
            width = float(streets.widths[family][k])
            for j in range(1, len(streets.lines[1 - family])):
                if streets.built[family][k, j]:
                    start, stop = streets.lines[1 - family][j - 1 : j + 1]
                    trees += line_segment(
                        world, family, float(line), width, float(start), float(stop)
                    )
    for x, y in trees:
        plant_tree(world, x, y, rng.uniform(1.7, 3.0), rng.uniform(5.0, 9.0))


def line_segment(
    world: World, family: int, line: float, width: float, start: float, stop: float
) -> list[Size]:
    """Park cars along one segment; give back where its avenue trees stand."""
    rng = world.rng
    trees, avenue = [], width > 9 and rng.random() < 0.6
    for side in (-1.0, 1.0):
        t = start + 10.0 + rng.uniform(0, 3)
        while t < stop - 10.0:
            point = (line, t) if family == 0 else (t, line)
            x, y = to_xy(*point)
            if inside(x, y, 3.0):
                at = (x, y, heading(*point, family))
                if rng.random() < 0.34:
                    park_car(
                        world,
                        *shifted(at, 0.0, side * (width / 2 - 1.15))[:2],
                        at[2] + pi * (side > 0),
                    )
                elif rng.random() < 0.12:
                    park_car(world, *shifted(at, 0.0, side * 1.4)[:2], at[2] + pi * (side > 0))
                if avenue and rng.random() < 0.55:
                    trees.append(shifted(at, 2.9, side * (width / 2 + 0.6))[:2])
            t += rng.uniform(5.6, 7.0)
    return trees


def plant_banks(world: World) -> None:
    """Scatter willows along the rivers and single trees over free land."""
    rng = world.rng
    for _ in range(2600):
        x, y = rng.uniform(0, WIDTH), rng.uniform(0, HEIGHT)
        bank = min(float(d) for d in river_offsets(x, y))
        wanted = 0.55 if 0.5 < bank < 7.0 else 0.05
        if (
            rng.random() < wanted
            and inside(x, y, 3.0)
            and world.label[int(y / FINE), int(x / FINE)] == LOW
        ):
            tree_if_free(world, x, y, rng.uniform(1.6, 4.4), 0.1)


def settle(world: World, cells: dict[tuple[int, int], Cell], ponds: set[tuple[int, int]]) -> None:
    """Give every block its quarter: parks at the ponds, gardens and woods at the rivers."""
    dry, wet = 0, 0
    for key, cell in cells.items():
        spots = [
            cell.place(float(s), float(t))[:2]
            for s in np.linspace(0.1, 0.9, 7)
            for t in np.linspace(0.1, 0.9, 7)
        ]
        if key in ponds:
            kind = "park"
        elif np.mean([min(river_offsets(*spot)) < 3.0 for spot in spots]) > 0.04:
            kind, wet = WET[wet % len(WET)], wet + 1
        else:
            kind, dry = DRY[dry % len(DRY)], dry + 1
        if hypot(spots[24][0] - CHURCH[0], spots[24][1] - CHURCH[1]) < 30.0 and kind != "park":
            kind = "square"
        QUARTERS[kind](world, cell)


def build_world() -> World:
    """Draw everything, from the ground up."""
    rng = np.random.default_rng(SEED)
    world, x, y = start_world(rng)
    streets = plan_streets(rng)
    cells = cells_of(streets)
    water = np.minimum(*river_offsets(x, y)) < 0
    ponds = set()
    for px, py in PONDS:
        key = min(
            cells,
            key=lambda k: hypot(cells[k].place(0.5, 0.5)[0] - px, cells[k].place(0.5, 0.5)[1] - py),
        )
        ponds.add(key)
        cell = cells[key]
        dig_pond(
            world,
            water,
            cell.u0 + 0.42 * (cell.u1 - cell.u0),
            (cell.v0 + cell.v1) / 2 - 3.0,
            rng.uniform(6.5, 9.5),
        )
    world.surface = world.ground.copy()
    cover_with_grass(world)
    draw_streets(world, streets, water)
    line_banks(world, x, y)
    fill_water(world, water)
    settle(world, cells, ponds)
    line_streets(world, streets)
    plant_banks(world)
    return world


# ---------------------------------------------------------------------- the camera


def crop(scene: Scene, margin: float) -> Window:
    """Window of a scene on the fine grid, with a margin in metres."""
    pad, zoom = round(margin / FINE), round(GSD / FINE)
    rows = slice(scene.row * zoom - pad, (scene.row + scene.height) * zoom + pad)
    return rows, slice(scene.col * zoom - pad, (scene.col + scene.width) * zoom + pad)


def shadow_depth(surface: Array, azimuth: float, elevation: float) -> Array:
    """March towards the sun: metres by which each pixel lies below its rays (0: in the sun)."""
    east, south = sin(radians(azimuth)), -cos(radians(azimuth))
    reach, depth = round(24.0 / FINE), np.zeros_like(surface)
    padded = np.pad(surface, reach, mode="edge")
    rows, cols = surface.shape
    for step in np.arange(1.0, reach, 1.4):
        row, col = reach + round(south * step), reach + round(east * step)
        ray = padded[row : row + rows, col : col + cols] - np.float32(
            step * FINE * tan(radians(elevation))
        )
        np.maximum(depth, ray - surface, out=depth)
    return depth


def gentle_slope(surface: Array, axis: int) -> Array:
    """Slope per metre along an axis, taken on the flatter side so that walls do not count."""
    forward = np.diff(surface, axis=axis, append=surface.take([-1], axis=axis)) / np.float32(FINE)
    backward = np.roll(forward, 1, axis=axis)
    return np.where(np.abs(forward) < np.abs(backward), forward, backward)


def light(surface: Array, scene: Scene) -> tuple[Array, Array]:
    """Sunlight and skylight that reach each pixel; a flat open place gets 1 of both."""
    east, south = sin(radians(scene.azimuth)), -cos(radians(scene.azimuth))
    up = tan(radians(scene.elevation))
    dx, dy = gentle_slope(surface, 1), gentle_slope(surface, 0)
    facing = (up - dx * east - dy * south) / (up * np.sqrt(1.0 + dx**2 + dy**2))
    lit = 1.0 - smoothstep((shadow_depth(surface, scene.azimuth, scene.elevation) - 0.04) / 0.3)
    pit = ndimage.gaussian_filter(surface, 1.6 / FINE) - surface
    sky = 1.0 / (1.0 + 0.22 * np.maximum(pit, 0.0))
    return np.asarray(np.clip(facing, 0.0, 1.5) * lit, np.float32), np.asarray(sky, np.float32)


def photograph(world: World, scene: Scene, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Orthophoto of a scene: light, haze, blur, sensor noise."""
    margin = 24.0
    sun, sky = light(world.surface[crop(scene, margin)], scene)
    inner = slice(round(margin / FINE), -round(margin / FINE))
    sun, sky = sun[inner, inner], sky[inner, inner]
    albedo = world.albedo[:, *crop(scene, 0.0)]
    falloff = 1.0 + 0.02 * noise(rng, (scene.height, scene.width), 300.0)
    bands = []
    for band, (warm, cool) in enumerate(zip((1.03, 1.0, 0.95), (0.86, 0.98, 1.2), strict=True)):
        radiance = albedo[band] * (0.78 * warm * sun + 0.22 * cool * sky) * scene.gain[band]
        seen = ndimage.gaussian_filter(radiance, 1.1)
        seen = seen.reshape(scene.height, 2, scene.width, 2).mean(axis=(1, 3)) * falloff
        screen = 255.0 * np.clip(seen + scene.haze * (0.8 + 0.2 * band), 0.0, 1.0) ** (1 / 2.2)
        bands.append(screen + rng.normal(0.0, 2.0, screen.shape))
    photo: npt.NDArray[np.uint8] = np.clip(np.rint(np.stack(bands)), 0, 255).astype(np.uint8)
    return photo


def interpret(world: World, scene: Scene) -> npt.NDArray[np.uint8]:
    """Label map of a scene; the rim of buildings and trees is left unlabelled."""
    label: npt.NDArray[np.uint8] = world.label[crop(scene, 0.0)][::2, ::2].copy()
    rim = np.zeros(label.shape, bool)
    for kind in (BUILDING, TREE):
        whole = label == kind
        rim |= whole & ~ndimage.binary_erosion(whole, border_value=1)
    label[rim] = UNLABELLED
    return label


# ---------------------------------------------------------------------- the surface model


def dsm_grid(scene: Scene) -> tuple[Affine, int, int]:
    """Grid of the surface model: another projection, coarser, a little larger than the scene."""
    left, top = EAST + scene.col * GSD, NORTH - scene.row * GSD
    bounds = (left, top - scene.height * GSD, left + scene.width * GSD, top)
    west, south, east, north = transform_bounds(ORTHO_CRS, DSM_CRS, *bounds)
    west, north = np.floor(west - DSM_MARGIN), np.ceil(north + DSM_MARGIN)
    width = int(np.ceil((east + DSM_MARGIN - west) / DSM_GSD))
    height = int(np.ceil((north - south + DSM_MARGIN) / DSM_GSD))
    return from_origin(west, north, DSM_GSD, DSM_GSD), width, height


def match_surface(world: World, scene: Scene, rng: np.random.Generator) -> tuple[Array, Affine]:
    """Surface model as image matching gives it: smoothed edges, noise, voids."""
    grid, width, height = dsm_grid(scene)
    cols, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    xs, ys = grid.a * cols + grid.c, grid.e * rows + grid.f
    east, north = reproject_points(DSM_CRS, ORTHO_CRS, xs.ravel().tolist(), ys.ravel().tolist())
    at = np.stack(
        [(NORTH - np.asarray(north)) / FINE - 0.5, (np.asarray(east) - EAST) / FINE - 0.5]
    )
    at = at.reshape(2, height, width)
    smooth = ndimage.gaussian_filter(world.surface, 0.3 / FINE)
    dsm = ndimage.map_coordinates(smooth, at, order=1, mode="nearest")
    depth = shadow_depth(world.surface[crop(scene, 24.0)], scene.azimuth, scene.elevation)
    corner = np.asarray([crop(scene, 24.0)[0].start, crop(scene, 24.0)[1].start]).reshape(2, 1, 1)
    gloom = ndimage.map_coordinates(depth, at - corner, order=1, mode="nearest")
    wet = ndimage.map_coordinates((world.label == WATER).astype(np.float32), at, order=1) > 0.5
    blotch = noise(rng, (height, width), 9.0)
    void = (wet & (blotch > 0.75)) | ((gloom > 5.5) & (blotch > 0.9))
    void |= noise(rng, (height, width), 5.0) > 2.85
    dsm = (
        dsm + 0.05 * noise(rng, (height, width), 2.4) + 0.03 * rng.standard_normal((height, width))
    )
    dsm = np.where(void, DSM_NODATA, np.rint(dsm * 128) / 128)
    return dsm.astype(np.float32), grid


# ---------------------------------------------------------------------- files


def write(path: Path, bands: npt.NDArray[Any], grid: Affine, crs: str, **options: Any) -> None:
    """Write a tiled GeoTIFF that says what is in it."""
    bands = bands if bands.ndim == 3 else bands[None]
    options |= {"count": bands.shape[0], "height": bands.shape[1], "width": bands.shape[2]}
    options |= {"tiled": True, "blockxsize": 256, "blockysize": 256, "dtype": bands.dtype}
    with rasterio.open(path, "w", "GTiff", crs=crs, transform=grid, **options) as file:
        file.write(bands)
        if len(bands) == 3:
            file.descriptions = ("red", "green", "blue")
        elif bands.dtype == np.float32:
            file.descriptions, file.units = ("surface height",), ("m",)
        else:
            file.descriptions = ("land cover",)
            colours = {number: (*colour, 255) for number, (_, colour) in CLASSES.items()}
            file.write_colormap(1, {**colours, UNLABELLED: (0, 0, 0, 0)})
            file.update_tags(1, **{f"class_{number}": CLASSES[number][0] for number in CLASSES})


def pieces(scene: Scene) -> list[tuple[str, int, int, int, int]]:
    """Names and windows (col, row, width, height) in which a scene's orthophoto is delivered."""
    if scene.name != "town":
        return [(scene.name, 0, 0, scene.width, scene.height)]
    width, height = (scene.width + TOWN_OVERLAP) // 2, (scene.height + TOWN_OVERLAP) // 2
    spots = [
        (0, 0),
        (scene.width - width, 0),
        (0, scene.height - height),
        (scene.width - width, scene.height - height),
    ]
    return [(f"{scene.name}_{n}", col, row, width, height) for n, (col, row) in enumerate(spots, 1)]


def deliver(world: World, scene: Scene, out: Path) -> None:
    """Write the files of one scene."""
    rng = np.random.default_rng([SEED, scene.col, scene.row])
    grid = from_origin(EAST + scene.col * GSD, NORTH - scene.row * GSD, GSD, GSD)
    photo = photograph(world, scene, rng)
    jpeg = {"compress": "JPEG", "photometric": "YCBCR", "JPEG_QUALITY": 90}
    for name, col, row, width, height in pieces(scene):
        piece = photo[:, row : row + height, col : col + width]
        write(
            out / f"{name}_ortho.tif", piece, grid @ Affine.translation(col, row), ORTHO_CRS, **jpeg
        )
    write(
        out / f"{scene.name}_labels.tif",
        interpret(world, scene),
        grid,
        ORTHO_CRS,
        compress="DEFLATE",
        nodata=UNLABELLED,
    )
    dsm, dsm_transform = match_surface(world, scene, rng)
    packing = {"compress": "DEFLATE", "predictor": 3, "zlevel": 9, "nodata": DSM_NODATA}
    write(out / f"{scene.name}_dsm.tif", dsm, dsm_transform, DSM_CRS, **packing)


def main() -> None:
    """Write all files into OUTDIR (default: the folder of this script)."""
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    out.mkdir(parents=True, exist_ok=True)
    world = build_world()
    for scene in SCENES:
        deliver(world, scene, out)
    files = sorted(out.glob("*.tif"))
    for file in files:
        print(f"{file.stat().st_size / 1e3:8.0f} kB  {file.name}")
    print(f"{sum(file.stat().st_size for file in files) / 1e3:8.0f} kB  together")


if __name__ == "__main__":
    main()
