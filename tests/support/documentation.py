"""The command lines of the documentation, and the files that they need.

In ``README.md`` and ``docs/*.md`` every block fenced as ``sh`` is run by bash, in the order of the
page, in a folder of the page; every ``toml`` block with ``title="NAME"`` is a file of that name.
Comments on a line of their own, which readers do not see, say the rest:

- ``<!-- needs: map.tif odm_dsm.tif=dsm.tif -->`` copies files of `Stage`, by other names if wanted;
- ``<!-- by hand: COMMAND -->`` runs what a person does between two blocks, see `by_hand`;
- ``<!-- runs with: PROGRAM -->`` before a block: it is left out where the program is not installed;
- ``<!-- not run: REASON -->`` before a block: it is not run.
"""

import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyogrio.raw
import rasterio
import shapely
from affine import Affine
from rasterio.features import shapes
from rasterio.merge import merge
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window
from scipy import ndimage
from shapely.geometry import shape

from tests.support import isprs, warm_cafe
from tests.support.tile_server import TileServer

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])

_FENCE = re.compile(r"^ *```(\S*) *(?:title=\"([^\"]+)\")?$")
_COMMENT = re.compile(r"^ *<!-- ([a-z ]+): (.*) -->$")
_CROP = Window(200, 60, 320, 320)
"""Pixels of the town that are the scene of the pages: all six classes, and quick to map."""
_SURVEY = 900
"""Side in pixels of the survey of a larger place: tiles of 384 pixels, and a block to hold out."""

SERVICE = "https://tiles.example.org"
"""A map service on a page; a server of this machine stands in for it."""

SITE = """
classes = [
  {{ id = 0, name = "ground", color = "#b8b0a6" }},
  {{ id = 1, name = "building", color = "#d7301f" }},
  {{ id = 2, name = "low vegetation", color = "#a6d96a" }},
  {{ id = 3, name = "tree", color = "#1a7a3a" }},
  {{ id = 4, name = "car", color = "#ffd92f" }},
  {{ id = 5, name = "water", color = "#2b7bba" }},
]
[scenes]
optical = "ortho.tif"
elevation = "dsm.tif"
labels = "{labels}"
[tile]
size = 64
[split]
test = 0.1
block = 64
buffer = 0
"""


@dataclass(frozen=True)
class Step:
    """Something that happens on a page: commands to run, a file to write, files to copy."""

    kind: Literal["run", "write", "copy"]
    line: int
    text: str
    name: str = ""
    """Of ``write``: the file. Of ``run``: a program without which the commands are left out."""


@dataclass(frozen=True)
class Block:
    """A fenced block as it is printed."""

    language: str
    title: str
    line: int
    text: str
    before: tuple[str, str]
    """Kind and text of the comment on the line before, empty if there is none."""


def blocks(page: str) -> Iterator[Block]:
    """Yield the fenced blocks of a page."""
    inside: tuple[str, str, int] | None = None
    lines: list[str] = []
    comment = "", ""
    for number, line in enumerate(page.splitlines(), 1):
        if fence := _FENCE.match(line):
            if inside:
                yield Block(*inside, "\n".join(lines) + "\n", comment)
                inside, lines, comment = None, [], ("", "")
            else:
                inside = fence[1], fence[2] or "", number
        elif inside:
            lines.append(line)
        else:
            found = _COMMENT.match(line)
            comment = (found[1], found[2]) if found else ("", "")


def steps(page: str) -> list[Step]:
    """Return what a test does for a page, in order."""
    found = []
    for block in blocks(page):
        kind, text = block.before
        if block.title:
            found.append(Step("write", block.line, block.text, block.title))
        elif block.language == "sh" and kind != "not run":
            needed = text if kind == "runs with" else ""
            found.append(Step("run", block.line, block.text, needed))
    for number, line in enumerate(page.splitlines(), 1):
        comment = _COMMENT.match(line)
        if comment and comment[1] in ("needs", "by hand"):
            found.append(Step("copy" if comment[1] == "needs" else "run", number, comment[2]))
    return sorted(found, key=lambda step: step.line)


class Stage:
    """The files that pages start from, and a ``cafe`` that starts at once.

    Parameters
    ----------
    folder : Path
        Empty folder; the path of a socket in it has to be short.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = folder / "files"
        self.files.mkdir()
        programs = folder / "bin"
        programs.mkdir()
        warm_cafe.write_client(programs / "cafe", folder / "s")
        by_hand = programs / "by-hand"
        by_hand.write_text(f'#!/bin/sh\nexec {sys.executable} {Path(__file__)} "$@"\n')
        by_hand.chmod(0o755)
        self._variables = {
            **os.environ,
            "PATH": f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
        }
        self._server = subprocess.Popen(
            [sys.executable, warm_cafe.__file__, folder / "s"],
            env=self._variables, start_new_session=True,
        )  # fmt: skip
        self._tiles = TileServer(self.files / "ortho.tif")

    def start(self) -> None:
        """Wait for the server and make the files."""
        while not (self.folder / "s").exists():
            assert self._server.poll() is None
            time.sleep(0.1)
        self._write_scene()
        self._tiles.start()
        self.run(_MAKE, self.files)
        shutil.copy(self.files / "labels.tif", self.files / "old.tif")

    def stop(self) -> None:
        """End the server and what it runs."""
        self._tiles.stop()
        os.killpg(self._server.pid, signal.SIGKILL)
        self._server.wait()

    def run(self, text: str, folder: Path) -> Path:
        """Run commands by bash; the first that fails is an error. Returns the folder at the end."""
        last = self.folder / "last"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", f"{text}\npwd > {last}"],
            cwd=folder, env=self._variables,
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{text}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        return Path(last.read_text(encoding="utf-8").rstrip("\n"))

    def follow(self, page: str, folder: Path) -> None:
        """Do what a page says, in a folder of its own."""
        for step in steps(page):
            if step.kind == "copy":
                self._copy(step.text.split(), folder)
            elif step.kind == "write":
                path = folder / step.name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(step.text.replace(SERVICE, self._tiles.address), encoding="utf-8")
            elif not step.name or shutil.which(step.name):
                folder = self.run(step.text, folder)

    def _copy(self, names: list[str], folder: Path) -> None:
        for name in names:
            as_name, _, source = name.partition("=")
            path = folder / as_name
            path.parent.mkdir(parents=True, exist_ok=True)
            there = self.files / (source or as_name)
            if there.is_dir():
                shutil.copytree(there, path)
            else:
                shutil.copy(there, path)

    def _write_scene(self) -> None:
        """Write the files that no command makes."""
        data = ROOT / "sample_data"
        shutil.copytree(data, self.files / "sample_data")
        shutil.copytree(ROOT / "configs", self.files / "configs")
        shutil.copy(data / "town_dsm.tif", self.files / "dsm.tif")
        _crop(data / "town_1_ortho.tif", self.files / "ortho.tif")
        _crop(data / "town_labels.tif", self.files / "labels.tif")
        draw(self.files / "labels.tif", self.files / "labels.gpkg")
        _write_survey(data, self.files / "survey")
        _write_benchmarks(self.files / "isprs")
        for name, labels in (("site", "labels.tif"), ("drawn", "labels.gpkg")):
            (self.files / f"{name}.toml").write_text(SITE.format(labels=labels))


_MAKE = """
cafe -q tile -c site.toml -o tiles
cafe -q train tiles -c site.toml -o run
cp run/best.safetensors .
cafe -q predict best.safetensors --optical ortho.tif --elevation dsm.tif \
  -o map.tif --confidence confidence.tif --probabilities p.tif
cafe -q heights --elevation dsm.tif --optical ortho.tif -o ndsm.tif
"""


def _crop(source: Path, target: Path) -> None:
    """Copy a part of a raster, without loss and with its colour table."""
    with rasterio.open(source) as dataset:
        values = dataset.read(window=_CROP)
        profile = {
            "driver": "GTiff", "count": dataset.count, "dtype": dataset.dtypes[0],
            "crs": dataset.crs, "transform": dataset.window_transform(_CROP),
            "width": _CROP.width, "height": _CROP.height, "nodata": dataset.nodata,
        }  # fmt: skip
        tags = dataset.tags()
    with rasterio.open(target, "w", **profile) as dataset:
        dataset.write(values)
        dataset.update_tags(**{k: v for k, v in tags.items() if k.startswith("class")})


def _write_survey(data: Path, folder: Path) -> None:
    """Write most of the town as a survey of a larger place: as if its pixels were 0.5 m wide.

    The classes are those of the page about own data: ground, vegetation, building, water, other.
    """
    folder.mkdir()
    with ExitStack() as stack:
        sheets = [stack.enter_context(rasterio.open(p)) for p in data.glob("town_*_ortho.tif")]
        image, place = merge(sheets)
        image = image[:, :_SURVEY, :_SURVEY]
        crs = sheets[0].crs
        heights = stack.enter_context(rasterio.open(data / "town_dsm.tif"))
        shape = {"transform": place, "width": image.shape[2], "height": image.shape[1]}
        view = stack.enter_context(WarpedVRT(heights, crs=crs, **shape))
        surface = view.read(1)
        ids = stack.enter_context(rasterio.open(data / "town_labels.tif")).read(1)
        ids = ids[:_SURVEY, :_SURVEY]
    ground = ndimage.minimum_filter(np.where(surface == -9999, 9999, surface), 81)
    codes = np.full(256, 255, np.uint8)
    codes[:6] = (0, 2, 1, 1, 4, 3)
    opaque = np.full(image.shape[1:], 255, np.uint8)
    opaque[:, :20] = 0
    rasters = {
        "ortho": image,
        "ortho_rgba": np.vstack([image, opaque[None]]),
        "dsm": surface[None],
        "dtm": ndimage.uniform_filter(ground, 81)[None],
        "labels": codes[ids][None],
    }
    wide = Affine(0.5, 0, place.c, 0, -0.5, place.f)
    for name, values in rasters.items():
        nodata = {"dsm": -9999, "dtm": -9999, "labels": 255}.get(name)
        options = {"photometric": "RGB"} if name.startswith("ortho") else {}
        with rasterio.open(
            folder / f"{name}.tif", "w", driver="GTiff", width=image.shape[2],
            height=image.shape[1], count=len(values), dtype=values.dtype, crs=crs,
            transform=wide, nodata=nodata, **options,
        ) as dataset:  # fmt: skip
            dataset.write(values)
    draw(folder / "labels.tif", folder / "labels.gpkg", without=4)


def _write_benchmarks(folder: Path) -> None:
    """Write a few scenes of the copies of ISPRS data, with configs for tiles that fit them."""
    isprs.deliver_vaihingen(folder / "vaihingen", ["1", "3", "5", "2"])
    isprs.deliver_potsdam(folder / "potsdam", ["2_10", "2_11", "4_12", "6_7", "7_10", "3_13"])
    for name, scored in (("vaihingen", '["2"]'), ("potsdam", '["3_13"]')):
        config = (ROOT / "configs" / f"{name}.toml").read_text(encoding="utf-8")
        config = re.sub(r"test_scenes = \[.*?\n\]", f"test_scenes = {scored}", config, flags=re.S)
        config = config.replace("size = 512", "size = 64\nmin_labelled = 0.01")
        config = re.sub(r"overlap = \d+", "overlap = 0", config)
        (folder / name / f"{name}.toml").write_text(config, encoding="utf-8")


def draw(labels: Path, target: Path, without: int = 255) -> None:
    """Write the regions of a label raster as polygons with one attribute, `code`.

    A person draws no polygon where there is no label, 255, nor one of the value `without`.
    """
    with rasterio.open(labels) as dataset:
        ids, place, crs = dataset.read(1), dataset.transform, dataset.crs.to_wkt()
    drawn = (ids != 255) & (ids != without)
    found = [(shape(s), int(v)) for s, v in shapes(ids, mask=drawn, transform=place)]
    outlines, codes = (np.array(column) for column in zip(*found, strict=True))
    pyogrio.raw.write(
        target, shapely.to_wkb(outlines), [codes.astype(np.int64)], ["code"],
        geometry_type="Polygon", crs=crs, driver="GPKG",
    )  # fmt: skip


def interpret(points: str, labels: str) -> None:
    """Fill in the column `reference` of a sample, as a person does who looks at images."""
    with rasterio.open(labels) as dataset, closing(sqlite3.connect(points)) as table, table:
        for name in (
            "IsEmpty",
            "MinX",
            "MinY",
            "MaxX",
            "MaxY",
        ):  # triggers of a GeoPackage name them
            table.create_function(f"ST_{name}", 1, lambda shape: 0)
        rows = table.execute("SELECT fid, x, y FROM points").fetchall()
        values = dataset.sample([place for _, *place in rows])
        seen = [(str(v[0]), row[0]) for row, v in zip(rows, values, strict=True) if v[0] != 255]
        table.executemany("UPDATE points SET reference = ? WHERE fid = ?", seen)


def by_hand() -> None:
    """Do what a person does: ``by-hand interpret POINTS LABELS``."""
    {"interpret": interpret}[sys.argv[1]](*sys.argv[2:])


if __name__ == "__main__":
    by_hand()
