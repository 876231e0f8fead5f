"""Whether the scenes of a tile set mean the same: bands, pixel values, heights and GSD.

Every scene is compared with the one of middle brightness, and with that of middle height, so that a
single odd scene is named wherever it stands in the list.
"""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import product
from statistics import fmean
from typing import NamedTuple

from cafe_cli.findings import Finding
from cafe_cli.model.comparison import Mismatch, compare_heights, compare_values
from cafe_cli.model.distribution import Percentiles, PixelDistribution
from cafe_cli.raster.skipped import Skipped
from cafe_cli.scenes.band_names import band_colors, reordering
from cafe_cli.scenes.height_rasters import HeightRasters, says_unit
from cafe_cli.scenes.inspection import SceneInspection
from cafe_cli.scenes.sampling import sample
from cafe_cli.scenes.scene import open_scene
from cafe_cli.system.batches import Batch, Executor, run_batch, run_in_threads
from cafe_cli.vector.area_of_interest import Area

_GSD_TOLERANCE = 0.1
_FLAT = 0.5  # metres that half of the heights above ground do not exceed
_WINDOWS = 3  # along each side of a scene
_ONE_KIND = "a tile set needs heights of one kind and unit (height.kind, height.unit)"
_ANYWAY = "scenes.ignore_mismatch = true accepts them anyway"


@dataclass(frozen=True)
class _Sampled:
    """A scene with a sample of its pixels, and what its bands show."""

    scene: SceneInspection
    pixels: PixelDistribution
    colors: tuple[str | None, ...]

    @classmethod
    def of(cls, scene: SceneInspection) -> "_Sampled | None":
        """Sample a scene; None without valid pixels. No ground is estimated for it."""
        heights = scene.heights
        if heights and heights.ground == "estimate":
            heights = replace(heights, ground="none")
        files = replace(scene.files, labels=())
        with open_scene(replace(scene, files=files, labels=(), heights=heights)) as opened:
            pixels = sample(opened, Area.whole(scene.grid), _WINDOWS)
        colors = band_colors(scene.optical[0])
        return None if pixels is None else cls(scene, pixels, colors)

    @property
    def name(self) -> str:
        return self.scene.files.name

    @property
    def brightness(self) -> float:
        return fmean(band.p50 for band in self.pixels.bands)


def _sample(_: None, scene: SceneInspection) -> tuple[_Sampled | None, Skipped | None]:
    return _Sampled.of(scene), scene.skipped


def compare_scenes(
    scenes: Sequence[SceneInspection], lenient: bool = False, run: Executor = run_in_threads
) -> list[Finding]:
    """Compare the scenes of a tile set with each other.

    Parameters
    ----------
    scenes : sequence of SceneInspection
    lenient : bool
        Return warnings in place of errors, except for another number or type of bands.
    run : Executor
        Runs the sampling; by default in this process.

    Returns
    -------
    list of Finding
        Errors where a network cannot learn from both scenes, warnings where that is doubtful.

    Raises
    ------
    InputError
        A file is damaged.
    """
    findings = [*_compare_formats(scenes)]
    if len(scenes) < 2 or any(finding.level == "error" for finding in findings):
        return findings
    sampled = []
    for scene, (found, skipped) in run_batch(run, Batch(nullcontext, _sample, scenes)):
        sampled += [found] if found else []
        if scene.skipped and skipped:
            scene.skipped.merge(skipped)
    if not sampled:
        return findings
    middle = sorted(sampled, key=lambda s: s.brightness)[(len(sampled) - 1) // 2]
    for one in sampled:
        findings += _compare(one, middle)
    findings += _compare_all_heights(sampled)
    return [replace(f, level="warning") for f in findings] if lenient else findings


def _compare_formats(scenes: Sequence[SceneInspection]) -> Iterator[Finding]:
    first = scenes[0]
    for scene in scenes[1:]:
        name, own, other = scene.files.name, len(scene.band_names), len(first.band_names)
        if (own, scene.dtype) != (other, first.dtype):
            yield Finding(
                "error",
                f"{name} has {own} bands of {scene.dtype}, {first.files.name} has "
                f"{other} of {first.dtype}; choose the same with scenes.bands",
                name,
            )
        elif abs(scene.grid.gsd / first.grid.gsd - 1) > _GSD_TOLERANCE:
            yield Finding(
                "warning",
                f"{name} has a GSD of {scene.grid.gsd:.3g} m, {first.files.name} of "
                f"{first.grid.gsd:.3g} m; tile.gsd resamples all scenes to one",
                name,
            )


def _compare(one: _Sampled, other: _Sampled) -> Iterator[Finding]:
    """Compare the sample of a scene with that of the reference."""
    dtypes = one.scene.dtype, other.scene.dtype
    if values := compare_values(one.pixels.bands, other.pixels.bands, dtypes):
        yield _finding(one.name, other.name, "values", values)
    if (places := reordering(one.colors, other.colors)) and places != (*range(len(places)),):
        order = " ".join(f"-b {place + 1}" for place in places)
        own, wanted = (", ".join(map(str, s.colors)) for s in (one, other))
        found = Mismatch(True, own, wanted, f"gdal_translate {order} gives both the same order")
        yield _finding(one.name, other.name, "bands in the order", found)


class _Heights(NamedTuple):
    """The sampled heights of a scene."""

    name: str
    values: Percentiles
    rasters: HeightRasters


def _compare_all_heights(sampled: Sequence[_Sampled]) -> Iterator[Finding]:
    """Compare the heights of all scenes with the middle ones."""
    known = [
        _Heights(one.name, one.pixels.heights, one.scene.heights)
        for one in sampled
        if one.pixels.heights and one.scene.heights
    ]
    known.sort(key=lambda heights: heights.values.p50)
    # Of two, heights above ground are the lower ones: there the higher ones are wrong.
    above_ground = bool(known) and known[0].rasters.settings.kind == "ndsm"
    middle = known[(len(known) - above_ground) // 2 :][:1]
    for one, other in product(known, middle):
        if found := _compare_heights(one, other.values):
            yield _finding(one.name, other.name, "heights", found)


def _compare_heights(one: _Heights, known: Percentiles) -> Mismatch | None:
    settings, ground = one.rasters.settings, one.rasters.ground
    unit_known = says_unit(one.rasters)
    if ground == "estimate":
        # The ground is estimated below both kinds, and heights of zero may be the sea.
        found = compare_heights(one.values, known, settings, "none", unit_known=unit_known)
        return replace(found, certain=False) if found and one.values.p50 < _FLAT else None
    found = compare_heights(one.values, known, settings, ground, unit_known=unit_known)
    return replace(found, remedy=_ONE_KIND) if found and settings.kind == "ndsm" else found


def _finding(one: str, other: str, what: str, found: Mismatch) -> Finding:
    verb = "does not fit" if found.certain else "may not fit"
    text = f"{one} {verb} {other}: {what} {found.found}, there {found.known}; {found.remedy}"
    if found.certain:
        return Finding("error", f"{text}; {_ANYWAY}", one)
    return Finding("warning", text, one)
