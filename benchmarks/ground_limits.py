"""Limits of the ground estimate: the pictures and figures of docs/heights.md.

Surface models over a known ground, drawn at 0.5 m: halls, hillsides, bridges, cliffs, woods,
clearings, edges, and a valley.
``python benchmarks/ground_limits.py [OUTDIR]`` draws docs/heights_*.png and prints a table.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import rasterio
from matplotlib.axes import Axes
from matplotlib.colors import LightSource
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from rasterio.crs import CRS
from scipy.ndimage import gaussian_filter1d, map_coordinates

from cafe_cli.config.schema import HeightSettings
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.writer import write_geotiff
from cafe_cli.scenes.ground_filter import GroundFilter, estimate_ground
from cafe_cli.scenes.height_map import HeightSource, write_heights

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

PIXEL = 0.5  # metres
FACTOR = 4  # cells of 2 m
SIZE = 400.0  # metres
SURFACE, TRUTH, ESTIMATE = "#c9c4bb", "#333333", "#d7301f"
OTHER = "#1f6fb4"

Y, X = (np.mgrid[: round(SIZE / PIXEL), : round(SIZE / PIXEL)] + 0.5) * PIXEL


@dataclass
class Case:
    """A surface model, the ground below it, both in metres, and where objects are: all (H, W)."""

    name: str
    terrain: Array
    surface: Array = field(init=False)
    objects: Mask = field(init=False)

    def __post_init__(self) -> None:
        self.surface = self.terrain.copy()
        self.objects = np.zeros(self.terrain.shape, bool)

    def put(self, where: Mask, height: Array | float) -> None:
        """Add an object of this absolute height."""
        self.surface[where] = np.broadcast_to(height, where.shape)[where]
        self.objects |= where

    def measured(self) -> Array:
        """Return the surface with 5 cm of noise, always the same."""
        return self.surface + np.random.default_rng(0).normal(0, 0.05, self.surface.shape)


@dataclass(frozen=True)
class Result:
    """The ground estimated for a case, and its errors."""

    case: Case
    settings: str
    ground: Array

    @property
    def errors(self) -> Array:
        """Estimate minus truth on open ground."""
        return (self.ground - self.case.terrain)[~self.case.objects]

    @property
    def row(self) -> str:
        """One line of the table."""
        share = 100 * np.mean(np.abs(self.errors) > 1)
        spread = np.percentile(np.abs(self.errors), 95)
        true, seen = (
            (self.case.surface - below)[self.case.objects]
            for below in (self.case.terrain, self.ground)
        )
        found = f"{100 * np.mean(seen > true / 2):.0f} %" if true.size else "-"
        return f"| {self.case.name} | {self.settings} | {spread:.2f} m | {share:.1f} % | {found} |"


def main() -> None:
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1] / "docs"
    print("| scene | settings | 95 % of open ground within | off by > 1 m | objects found |")
    print("|---|---|---|---|---|")
    for draw in (hall, hillsides, bridges, cliffs, woods, clearings, edges, valley):
        figure = draw()
        figure.savefig(out / f"heights_{draw.__name__}.png", dpi=80, metadata={"Software": None})


def solve(case: Case, **settings: float) -> Result:
    """Estimate the ground as `cafe` does: on the lowest pixels of 2 m cells, read bilinearly."""
    dsm = case.measured()
    height, width = (size // FACTOR for size in dsm.shape)
    lowest = dsm.reshape(height, FACTOR, width, FACTOR).min(axis=(1, 3)).astype(np.float32)
    ground = estimate_ground(lowest, GroundFilter(pixel=PIXEL, **settings))
    at = np.meshgrid(*((np.arange(n) + 0.5) / FACTOR - 0.5 for n in dsm.shape), indexing="ij")
    text = ", ".join(f"{key} {value:g}" for key, value in settings.items()) or "defaults"
    result = Result(case, text, map_coordinates(ground, at, order=1, mode="nearest"))
    print(result.row, flush=True)
    return result


# ---------------------------------------------------------------------- scenes


def hall() -> Figure:
    """A warehouse, and what the window that finds it costs."""
    ramp = np.clip((np.hypot(X - 300, Y - 200) - 55) * np.tan(np.radians(35)), 0, 25)
    case = Case("warehouse 160 x 120 m and hill", 100 + 0.02 * X + 25 - ramp)
    case.put(rectangle(20, 140, 160, 120), 100 + 0.02 * 80 + 8)
    narrow, wide = solve(case, max_window=100), solve(case)
    figure = Figure(figsize=(13, 7.2), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(1.7, 1), squeeze=False).ravel()
    shown, *above = top.subplots(1, 3)
    shade(shown, case)
    shown.axhline(200, color=TRUTH, lw=1, ls=":")
    for axes, result, text in zip(above, (narrow, wide), ("100", "160 (default)"), strict=True):
        picture = heights(axes, result, f"height above ground, max_window = {text}")
    top.colorbar(picture, ax=above, label="m", shrink=0.85)
    section(
        bottom.subplots(), "section along the dotted line", case, 200, [narrow, wide],
        ["max_window = 100", "max_window = 160"],
    )  # fmt: skip
    return figure


def hillsides() -> Figure:
    """Houses on hillsides and crests of 10 to 40 degrees."""
    figure = Figure(figsize=(15, 11.5), layout="constrained")
    rows: list[tuple[str, Callable[[float], Array], float, dict[str, float]]] = [
        ("hillside", slope_up, 3, {}),
        ("hillside, dug in", slope_up, 0.3, {}),
        ("crest", crest, 3, {}),
        ("crest", crest, 3, {"slope": 0.8}),
    ]
    axes = figure.subplots(4, 4, height_ratios=(1.35, 1.35, 1, 1))
    for line, (name, terrain, wall, settings) in zip(axes, rows, strict=True):
        for cell, degrees in zip(line, (10, 20, 30, 40), strict=True):
            case = Case(f"{name}, {degrees} degrees", terrain(degrees))
            settle(case, wall)
            result = solve(case, **settings)
            title = f"{case.name}, {note(settings)}" if settings else case.name
            section(cell, title, case, 30, [result], ["estimate"], legend=cell is axes[0, 0])
            if terrain is slope_up:
                middle = case.terrain[60, X.shape[1] // 2]
                cell.set(xlim=(155, 245), ylim=(middle - 33, middle + 33), aspect="equal")
            else:
                cell.set(xlim=(60, 340), ylim=(80, 200), aspect="equal")
    return figure


def bridges() -> Figure:
    """A viaduct across a valley, bridges between embankments, a wide deck."""
    valley = 100 - 12 * np.exp(-(((X - 200) / 45) ** 4))
    free = Case("viaduct 12 m wide, 12 m high", valley)
    free.put((np.abs(Y - 200) < 6) & (np.abs(X - 200) < 62), 100.5)
    broad = Case("deck 120 m wide over a cutting", valley)
    broad.put((np.abs(Y - 200) < 60) & (np.abs(X - 200) < 62), 100.5)
    cases = [free, embanked(40), embanked(8), broad]
    figure = Figure(figsize=(13, 12.5), layout="constrained")
    axes = figure.subplots(4, 3, width_ratios=(1, 1.25, 1.9))
    for (shown, above, cut), case in zip(axes, cases, strict=True):
        result = solve(case)
        shade(shown, case)
        figure.colorbar(heights(above, result, "height above ground"), ax=above, label="m")
        section(cut, case.name, case, 200, [result], ["estimate"], legend=case is free)
        cut.set(xlim=(100, 300), ylim=(case.terrain.min() - 3, case.surface.max() + 8))
        for plan in (shown, above):
            plan.set(xlim=(100, 300), ylim=(300, 100))
    return figure


def cliffs() -> Figure:
    """Steps in the terrain, most of which stay ground."""
    centre = np.maximum(np.abs(X - 200), np.abs(Y - 200))
    terrace = Case("terrace 80 m wide, falls on all sides", 100 + 6.0 * (centre < 40))
    cases = [
        Case("cliff of 20 m", 100 + 2 * np.clip((X - 190) / 2, 0, 10)),
        Case("terraces 16 m wide", 100 + 3 * np.clip(np.floor((X - 80) / 16), 0, 14)),
        Case("pit 130 m wide", 100 - 15.0 * (centre < 65)),
        Case("dike, 1 : 3", 100 + np.clip(5 - (np.abs(X - 200) - 2) / 3, 0, 5)),
        terrace,
        terrace,
    ]
    return gallery(cases, [*[{}] * 5, {"max_window": 70}])


def woods() -> Figure:
    """Crowns that close over the ground."""
    cases = [wood(90, 0), wood(260, 10), wood(260, 4), wood(260, 0), wood(260, 0)]
    flat = wood(260, 0, incline=0)
    return gallery([*cases, flat], [*[{}] * 4, {"max_window": 280}, {"max_window": 280}])


def clearings() -> Figure:
    """A clearing on a wooded crest, with and without a track that leads up to it."""
    figure = Figure(figsize=(13, 7), layout="constrained")
    axes = figure.subplots(2, 3, width_ratios=(1, 1.25, 1.9))
    for (shown, above, cut), track in zip(axes, (8, 0), strict=True):
        case = wooded_crest(track)
        result = solve(case)
        shade(shown, case)
        figure.colorbar(heights(above, result, "height above ground", 30), ax=above, label="m")
        section(cut, case.name, case, 200, [result], ["estimate"], legend=track > 0)
        cut.set_xlim(50, 350)
    return figure


def edges() -> Figure:
    """Hills and halls that go on beyond the edge of the surface model."""
    peak = 30 * np.exp(-((X - 400) ** 2 + (Y - 200) ** 2) / 1800)
    cases = [Case("hill of 31 degrees, half of it seen", 100 + peak)]
    for depth, height in ((40, 6), (40, 2), (60, 6)):
        case = Case(f"hall 200 m long, {height} m high, {depth} m of it seen", 100 + 0 * X)
        case.put(rectangle(SIZE - depth, 100, depth, 200), 100.0 + height)
        cases.append(case)
    figure = gallery(cases, [{}] * 4, columns=2)
    for axes in figure.axes:
        axes.set_xlim(250, 400)
    return figure


def valley() -> Figure:
    """A river, meadows beside and above it, and a pond on the plateau, as a network sees them."""
    away = np.abs(X - 120 - 20 * np.sin(Y / 60)) - 14
    rise = np.clip(away / 2, 0, 3) + 0.004 * np.clip(away, 0, None)
    rise += np.clip((X - 240) / 4, 0, 20)
    pond = np.hypot((X - 345) / 30, (Y - 120) / 22) < 1
    case = Case("valley", 100 + 0.004 * Y + np.where(pond, 22.5, rise))
    for y in range(40, 380, 55):
        case.put(rectangle(205, y, 12, 15), float(case.terrain[round(y / PIXEL), 420]) + 6)
    with TemporaryDirectory() as folder:
        dsm, out = Path(folder) / "dsm.tif", Path(folder) / "heights.tif"
        grid = Grid.covering(CRS.from_epsg(32632), (5e5, 52e5, 5e5 + SIZE, 52e5 + SIZE), PIXEL, 0)
        write_geotiff(dsm, case.measured()[None].astype(np.float32), grid, nodata=-9999)
        write_heights(HeightSource((str(dsm),)), out, HeightSettings(valley_radius=150))
        with rasterio.open(out) as dataset:
            planes = dataset.read()
    figure = Figure(figsize=(13, 4.3), layout="constrained")
    first, *others = figure.subplots(1, 3, width_ratios=(1, 1.2, 1.2))
    shade(first, case)
    titles = "height above ground", "height of the ground above the floor of its valley"
    for axes, plane, title in zip(others, planes, titles, strict=True):
        axes.set_title(title, fontsize=10)
        axes.set(xticks=[], yticks=[])
        extent = (0.0, SIZE, SIZE, 0.0)
        picture = axes.imshow(plane, cmap="viridis", vmin=0, vmax=10, extent=extent)
        figure.colorbar(picture, ax=axes, label="m")
    return figure


def rectangle(x: float, y: float, width: float, height: float) -> Mask:
    return np.asarray((abs(X - x - width / 2) < width / 2) & (abs(Y - y - height / 2) < height / 2))


def slope_up(degrees: float) -> Array:
    """A valley floor, a slope of 240 m along the ground or up to 125 m, a plateau."""
    rise = np.tan(np.radians(degrees))
    run = min(240, 125 / rise)
    profile = 100 + rise * np.clip(X - (200 - run / 2), 0, run)
    return np.asarray(gaussian_filter1d(profile, 10, axis=1))


def crest(degrees: float) -> Array:
    """A ridge across the scene, as steep as it says on both sides, rounded at the top and foot."""
    profile = 100 + np.tan(np.radians(degrees)) * np.clip(110 - np.abs(X - 200), 0, None)
    return np.asarray(gaussian_filter1d(profile, 10, axis=1))


def settle(case: Case, wall: float) -> None:
    """Scatter houses with flat roofs, as high above the ground at their uphill wall."""
    for row in range(24, 390, 32):
        for col in range(84, 310, 32):
            house = rectangle(col, row, 10, 12)
            case.put(house, float(case.terrain[house].max()) + wall)


def embanked(length: float) -> Case:
    """A road on an embankment, and a bridge in it."""
    dam = np.clip(8 - (np.abs(Y - 200) - 7) / 1.5, 0, 8) * (np.abs(X - 200) > length / 2)
    case = Case(f"bridge of {length:g} m between embankments", 100 + dam)
    case.put((np.abs(Y - 200) < 7) & (np.abs(X - 200) <= length / 2), 108.0)
    return case


def wood(width: float, share: int, incline: float = 0.1) -> Case:
    """A wood of 18 m whose crowns leave this share of all 2 m cells open, in per cent."""
    seen = f"{share} % gaps" if share else "closed"
    place = "" if incline else ", flat ground"
    case = Case(f"wood {width:g} m wide, {seen}{place}", 100 + incline * X)
    plant(case, np.maximum(np.abs(X - 200), np.abs(Y - 200)) < width / 2, share, 18, 1)
    return case


def wooded_crest(track: float) -> Case:
    """Trees of 22 m on a crest of 28 degrees, a bare place on top, a track of this width to it."""
    led = f"a track of {track:g} m" if track else "no track"
    case = Case(f"clearing on a wooded crest, {led}", crest(28))
    bare = np.hypot((X - 200) / 25, (Y - 200) / 35) < 1
    path = (X < 200) & (np.abs(Y - 200) < track / 2)
    plant(case, ~bare & ~path, 10, 22, 2)
    return case


def plant(case: Case, where: Mask, gaps: int, height: float, deviation: float) -> None:
    """Add trees of a mean height and its deviation; `gaps` per cent of the cells have none."""
    random = np.random.default_rng(1)
    cells = random.random([n // FACTOR for n in X.shape])
    rough = random.normal(height, deviation, cells.shape)
    crowns, above = (np.kron(a, np.ones((FACTOR, FACTOR))) for a in (cells, rough))
    case.put(where & (crowns >= gaps / 100), case.terrain + above)


# ---------------------------------------------------------------------- drawing


def gallery(cases: list[Case], settings: list[dict[str, float]], columns: int = 3) -> Figure:
    """Sections through the middle of many scenes."""
    lines = len(cases) // columns
    figure = Figure(figsize=(5 * columns, 3 * lines), layout="constrained")
    grid = figure.subplots(lines, columns).ravel()
    for axes, case, chosen in zip(grid, cases, settings, strict=True):
        result = solve(case, **chosen)
        title = f"{case.name}, {note(chosen)}" if chosen else case.name
        section(axes, title, case, 200, [result], ["estimate"], legend=axes is grid[0])
    return figure


def note(settings: dict[str, float]) -> str:
    return ", ".join(f"{key} = {value:g}" for key, value in settings.items()) or "defaults"


def section(
    axes: Axes,
    title: str,
    case: Case,
    y: float,
    results: list[Result],
    names: list[str],
    legend: bool = True,
) -> None:
    """Draw a section from west to east: surface, ground, estimates."""
    row = round(y / PIXEL)
    x = X[row]
    floor = min(case.terrain[row].min(), *(r.ground[row].min() for r in results)) - 3
    axes.fill_between(x, floor - 100, case.surface[row], color=SURFACE, lw=0, label="surface model")
    axes.plot(x, case.terrain[row], color=TRUTH, lw=1.2, label="true ground")
    for result, name, colour in zip(results, names, (ESTIMATE, OTHER), strict=False):
        axes.plot(x, result.ground[row], color=colour, lw=2, ls="--", label=name)
    axes.set_title(title, fontsize=10)
    axes.set(xlim=(0, SIZE), xlabel="m")
    axes.set_ylim(bottom=floor)
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.spines[["top", "right"]].set_visible(False)
    if legend:
        axes.legend(fontsize=9, loc="upper left", framealpha=0.9)


def shade(axes: Axes, case: Case) -> None:
    """Draw the surface model in relief, north up."""
    light = LightSource(315, 40).hillshade(case.surface, vert_exag=1, dx=PIXEL, dy=PIXEL)
    axes.imshow(light, cmap="gray", vmin=0, vmax=1, extent=(0, SIZE, SIZE, 0))
    axes.set_title("surface model", fontsize=10)
    axes.set(xticks=[], yticks=[])


def heights(axes: Axes, result: Result, title: str, top: float = 10) -> AxesImage:
    """Draw heights above the estimated ground."""
    above = result.case.surface - result.ground
    axes.set_title(title, fontsize=10)
    axes.set(xticks=[], yticks=[])
    return axes.imshow(above, cmap="viridis", vmin=0, vmax=top, extent=(0, SIZE, SIZE, 0))


if __name__ == "__main__":
    main()
