"""Unusual and broken rasters through the command line: right pixels, or one line of error.

Everything is written and read back with plain rasterio; the expected tiles are computed without
`cafe_cli`.
"""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
import tomli_w
from affine import Affine
from rasterio.crs import CRS

from tests.support.rasters import LAMBERT, TABLE, UTM, around, centres, grid, nearest, noise, write

pytest_plugins = ["tests.support.fixtures"]
pytestmark = pytest.mark.slow

HEIGHT, WIDTH = 40, 56
GRID = grid(WIDTH, HEIGHT)
NOWHERE = replace(GRID, crs=None, transform=Affine.identity())
TURNED = replace(GRID, transform=GRID.transform @ Affine.rotation(30))
SOUTH_UP = replace(
    GRID, transform=GRID.transform @ Affine.translation(0, HEIGHT) @ Affine.scale(1, -1)
)
RANDOM = np.random.default_rng(7)
IMAGE = np.clip(noise(3, GRID), 1, 254)
DSM = RANDOM.uniform(100, 140, (HEIGHT, WIDTH)).astype("float32")
LABELS = RANDOM.integers(0, 3, (HEIGHT, WIDTH), np.uint8)
KNOWN = RANDOM.random((HEIGHT, WIDTH)) > 0.3
HOLED = np.where(KNOWN, DSM, np.float32(np.nan))
NONE = 255
STREAMS = {"optical": "o.tif", "elevation": "d.tif", "labels": "l.tif"}
CONFIG = {
    "classes": [{"id": c.id, "name": c.name, "color": c.color} for c in TABLE],
    "height": {"ground": "none", "fill": 0},
    "split": {"validation": 0, "buffer": 0},
    "tile": {"size": 32, "overlap": 0, "min_valid": 0, "min_labelled": 0},
}


class Result:
    """The result of a command: exit code, stdout, and the lines on stderr."""

    def __init__(self, code, captured) -> None:
        self.code, self.out = code, captured.out
        self.lines = [line for line in captured.err.splitlines() if line.strip()]

    @property
    def error(self) -> str:
        """The message of the only error."""
        errors = [line for line in self.lines if not line.startswith("Warning: ")]
        assert len(errors) == 1, self.lines
        assert errors[0].startswith("Error: ")
        assert self.out == ""
        return errors[0].removeprefix("Error: ")


@pytest.fixture
def cafe(invoke):
    """Run a command in this process, through `main`."""
    return lambda *words: Result(*invoke(*words))


def deliver(folder: Path, *, image=IMAGE, dsm=DSM, ids=LABELS, on=GRID, **options) -> dict:
    """Write a scene; `options` are those of its rasters, by stream."""
    values = {"optical": image, "elevation": dsm, "labels": ids}
    return {
        stream: write(folder / name, values[stream], on, **options.get(stream, {}))
        for stream, name in STREAMS.items()
    }


def words_for(folder: Path, files, **changes) -> list:
    """Return the command line for files and a config with changes, ``section={key: value}``."""
    merged = {**CONFIG, **{k: {**CONFIG.get(k, {}), **v} for k, v in changes.items()}}
    path = folder / "c.toml"
    path.write_text(tomli_w.dumps(merged))
    named = [
        (f"--{k}", v)
        for k, vs in files.items()
        for v in ([vs] if isinstance(vs, str | Path) else vs)
    ]
    return ["-c", path, *(word for pair in named for word in pair)]


def tiles_of(folder: Path, height=HEIGHT, width=WIDTH):
    """Put the tiles together: image, its mask, height (NaN: void) and labels of the scene."""
    about = json.loads((folder / "tileset.json").read_text())
    side, whole = about["size"], None
    for tile in about["tiles"]:
        paths = {
            k: folder / tile["split"] / k / f"{tile['name']}.tif"
            for k in ("image", "height", "label")
        }
        with rasterio.open(paths["image"]) as dataset:
            parts = [dataset.read(), dataset.dataset_mask()[None] > 0]
        metres = np.full((1, side, side), np.nan, np.float32)
        if paths["height"].exists():
            with rasterio.open(paths["height"]) as dataset:
                metres = dataset.read(masked=True).filled(np.nan)
        with rasterio.open(paths["label"]) as dataset:
            parts += [metres, dataset.read()]
        if whole is None:
            rows, cols = (-(-n // side) * side for n in (height, width))
            whole = [np.zeros((len(p), rows, cols), p.dtype) for p in parts]
        place = np.s_[:, tile["row"] : tile["row"] + side, tile["col"] : tile["col"] + side]
        for stack, part in zip(whole, parts, strict=True):
            stack[place] = part[:, : stack[place].shape[1], : stack[place].shape[2]]
    image, valid, metres, labels = (w[:, :height, :width] for w in whole)
    return image, valid[0], metres[0], labels[0]


def check_tiles(folder, *, image=IMAGE, valid=True, dsm=DSM, labels=LABELS, tolerance=1e-3):
    """Compare the tiles with the expected arrays."""
    height, width = labels.shape
    got, known, metres, ids = tiles_of(folder, height, width)
    valid = np.broadcast_to(valid, (height, width))
    assert got.dtype == image.dtype
    np.testing.assert_array_equal(known, valid)
    np.testing.assert_array_equal(got[:, valid], image[:, valid])
    np.testing.assert_array_equal(ids, np.where(valid, labels, NONE))
    np.testing.assert_allclose(metres, dsm, atol=tolerance)  # NaN equals NaN


@pytest.fixture
def cut(cafe, tmp_path):
    """Return a function that runs ``cafe tile`` on files, which succeeds; returns its warnings."""

    def run(files, *words, **changes) -> list[str]:
        done = cafe("tile", *words_for(tmp_path, files, **changes), *words, "-o", tmp_path / "t")
        assert done.code == 0, done.lines
        assert not list(tmp_path.glob(".*"))
        return [w for w in done.lines if w.startswith("Warning") and "no tile for val" not in w]

    return run


# --- types, bands, masks -------------------------------------------------------------------------

TYPES = ["int8", "uint16", "int16", "uint32", "int32", "int64", "float32", "float64"]


@pytest.mark.parametrize("dtype", TYPES)
def test_pixels_of_every_type_are_copied(cut, tmp_path, dtype):
    image = noise(3, GRID, dtype)
    cut(deliver(tmp_path, image=image, dsm=DSM.astype("float64"), ids=LABELS.astype(dtype)))
    check_tiles(tmp_path / "t", image=image)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "int32"])
def test_heights_of_whole_numbers(cut, tmp_path, dtype):
    cut(deliver(tmp_path, dsm=DSM.astype(dtype)))
    check_tiles(tmp_path / "t", dsm=DSM.astype(dtype))


def test_bands_in_any_order(cut, tmp_path):
    image = noise(4, GRID, "uint16")
    cut(deliver(tmp_path, image=image), "--bands", "4,1,2")
    check_tiles(tmp_path / "t", image=image[[3, 0, 1]])


def _mask_beside(files):
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False),
        rasterio.open(files["optical"], "r+") as image,
    ):
        image.write_mask(KNOWN)
    assert Path(files["optical"] + ".msk").exists()


def _nodata_of_each_band(files):
    path = Path(files["optical"])
    with rasterio.open(path, "r+") as image:
        values = image.read()
        image.write(np.where(KNOWN, values, np.array([0, 255, 255], np.uint8)[:, None, None]))
    vrt = path.with_suffix(".vrt")
    rasterio.shutil.copy(path, vrt, driver="VRT")
    text = vrt.read_text()
    for band, nodata in enumerate((0, 255, 255), start=1):
        start = text.index(">", text.index(f'band="{band}"')) + 1
        text = f"{text[:start]}<NoDataValue>{nodata}</NoDataValue>{text[start:]}"
    vrt.write_text(text)
    files["optical"] = str(vrt)


@pytest.mark.parametrize("mark", [_mask_beside, _nodata_of_each_band])
def test_masks_beside_and_nodata_of_each_band(cut, tmp_path, mark):
    files = deliver(tmp_path)
    mark(files)
    cut(files)
    check_tiles(tmp_path / "t", valid=KNOWN)


ALPHA = (KNOWN * 255).astype("uint8")
ONE_BAND = np.stack([KNOWN, KNOWN | True, KNOWN | True])
MASKED = {
    "mask": (IMAGE, {"mask": KNOWN}),
    "nodata": (np.where(KNOWN, IMAGE, np.uint8(0)), {"nodata": 0}),
    "alpha": (np.concatenate([IMAGE, ALPHA[None]]), {"alpha": 4}),
    "alpha of 0 and 1": (np.concatenate([IMAGE, ALPHA[None] // 255]), {"alpha": 4}),
    "NaN": (np.where(KNOWN, IMAGE.astype("float32"), np.float32(np.nan)), {}),
    "NaN in one band": (np.where(ONE_BAND, np.float32(IMAGE), np.float32(np.nan)), {}),
    "infinite": (np.where(KNOWN, IMAGE.astype("float32"), np.float32(np.inf)), {}),
}  # fmt: skip


@pytest.mark.parametrize("kind", MASKED)
def test_what_the_image_does_not_show_is_not_valid_nor_labelled(cut, tmp_path, kind):
    image, options = MASKED[kind]
    assert not cut(deliver(tmp_path, image=image, optical=options))
    check_tiles(tmp_path / "t", image=image[:3], valid=KNOWN)


LOWEST = float(np.finfo("float32").min)
VOIDS = {
    "nodata": (np.where(KNOWN, DSM, -9999), {"nodata": -9999}, ()),
    "lowest float": (np.where(KNOWN, DSM, LOWEST), {"nodata": LOWEST}, ()),
    "as option": (np.where(KNOWN, DSM, -32767), {}, ("--height-nodata", "-32767")),
    "NaN": (HOLED, {}, ()),
    "infinite": (np.where(KNOWN, DSM, np.inf), {}, ()),
    "mask": (DSM, {"mask": KNOWN}, ()),
    "alpha": (np.stack([DSM, ALPHA.astype("float32")]), {"alpha": 2}, ()),
}  # fmt: skip


@pytest.mark.parametrize("kind", VOIDS)
def test_voids_of_every_kind(cut, tmp_path, kind):
    dsm, options, words = VOIDS[kind]
    cut(deliver(tmp_path, dsm=dsm.astype("float32"), elevation=options), *words)
    check_tiles(tmp_path / "t", dsm=HOLED)


UNLABELLED = {
    "nodata": (np.where(KNOWN, LABELS, np.uint8(77)), {"nodata": 77}),
    "255": (np.where(KNOWN, LABELS, np.uint8(NONE)), {}),
    "mask": (LABELS, {"mask": KNOWN}),
    "alpha": (np.stack([LABELS, ALPHA]), {"alpha": 2}),
    "NaN": (np.where(KNOWN, LABELS.astype("float32"), np.nan), {}),
}


@pytest.mark.parametrize("kind", UNLABELLED)
def test_ground_without_labels_of_every_kind(cut, tmp_path, kind):
    values, options = UNLABELLED[kind]
    cut(deliver(tmp_path, ids=values, labels=options))
    check_tiles(tmp_path / "t", labels=np.where(KNOWN, LABELS, NONE))


# --- several files, no CRS, any place ------------------------------------------------------------


def in_pieces(folder: Path) -> dict[str, list[str]]:
    """Write every raster of the scene as three files side by side, a folder for each stream."""

    def piece(stream, values, left, right):
        place = GRID.transform @ Affine.translation(left, 0)
        where = replace(GRID, transform=place, width=right - left)
        return write(folder / stream / f"{left}.tif", values[..., left:right], where)

    cuts = [(0, 20), (20, 41), (41, WIDTH)]
    streams = {"optical": IMAGE, "elevation": DSM, "labels": LABELS}
    return {s: [piece(s, values, *cut) for cut in cuts] for s, values in streams.items()}


def _listed(folder: Path, files: dict) -> dict:
    for stream, names in files.items():
        (folder / f"{stream}.txt").write_bytes("\r\n".join(names).encode() + b"\r\n\r\n")
    return {stream: f"@{folder / stream}.txt" for stream in files}


WAYS = {
    "repeated": lambda _, files: files,
    "glob": lambda folder, files: {s: folder / s / "*.tif" for s in files},
    "folder": lambda folder, files: {s: folder / s for s in files},
    "list": _listed,
}


@pytest.mark.parametrize("way", WAYS)
def test_several_files_are_one_raster(cut, tmp_path, way):
    assert not cut(WAYS[way](tmp_path, in_pieces(tmp_path)))
    check_tiles(tmp_path / "t")


def test_lists_from_windows(cut, tmp_path):
    files = deliver(tmp_path)
    (tmp_path / "o.txt").write_text(f"\ufeff{files['optical']}\n", encoding="utf-8")
    cut({**files, "optical": f"@{tmp_path / 'o.txt'}"})
    check_tiles(tmp_path / "t")


def test_lists_of_the_command_line_are_relative_to_the_working_folder(cut, tmp_path, monkeypatch):
    files = deliver(tmp_path / "data")
    (tmp_path / "data" / "o.txt").write_text("o.tif\n")
    monkeypatch.chdir(tmp_path / "data")
    cut({**files, "optical": "@o.txt"})
    check_tiles(tmp_path / "t")


@pytest.mark.parametrize("stream", ["elevation", "dtm", "labels"])
def test_one_of_several_files_is_missing(cafe, tmp_path, stream):
    files = deliver(tmp_path)
    kind = "labels" if stream == "labels" else "elevation"
    words = words_for(tmp_path, files | {stream: [files[kind], str(tmp_path / "gone.tif")]})
    failed = cafe("tile", *words, "-o", tmp_path / "t")
    assert failed.code == 1
    assert "gone.tif" in failed.error


def test_a_vrt_whose_source_is_missing(cafe, tmp_path):
    files = deliver(tmp_path)
    vrt = tmp_path / "o.vrt"
    rasterio.shutil.copy(files["optical"], vrt, driver="VRT")
    Path(files["optical"]).unlink()
    words = words_for(tmp_path, {**files, "optical": vrt})
    assert "o.tif" in cafe("tile", *words, "-o", tmp_path / "t").error
    looked = cafe("check", *words)
    errors = [line for line in looked.lines if line.startswith("Error: ")]
    assert "o.tif does not exist" in " ".join(errors)
    assert looked.code == 1


@pytest.mark.parametrize(
    "where",
    [replace(GRID, crs=None), NOWHERE, TURNED, SOUTH_UP, grid(WIDTH, HEIGHT, pixel=30)],
    ids=["no CRS", "pixels only", "turned", "south up", "large pixels"],
)
def test_a_scene_may_lie_anywhere(cut, tmp_path, where):
    words = ("--pixel-size", "0.5") if where == NOWHERE else ()
    assert not cut(deliver(tmp_path, on=where), *words)
    check_tiles(tmp_path / "t")
    with rasterio.open(tmp_path / "t" / "train" / "image" / "o_000008_000024.tif") as tile:
        assert tile.crs == where.crs
        assert tile.transform.almost_equals(where.transform @ Affine.translation(24, 8))


def test_the_pixel_size_of_a_scene_without_a_place_is_asked_for(cut, cafe, tmp_path):
    files = deliver(tmp_path, on=NOWHERE)
    (warning,) = cut(files)
    assert "is assumed to measure 1 m" in warning
    assert "scenes.pixel_size (--pixel-size)" in warning
    words = words_for(tmp_path, files, height={"ground": "estimate"})
    refused = cafe("tile", *words, "-o", tmp_path / "dsm")
    assert refused.code == 1
    assert "the ground below " in refused.error
    assert cafe("tile", *words, "-o", tmp_path / "dsm", "--pixel-size", "0.5").code == 0
    assert json.loads((tmp_path / "dsm" / "tileset.json").read_text())["gsd"] == 0.5


@pytest.mark.parametrize("world", [True, False])
@pytest.mark.parametrize("words", [(), ("--crs", "EPSG:25832")])
def test_plain_png_files(cut, tmp_path, world, words):
    files = {}
    for stream, values in (("optical", IMAGE), ("elevation", DSM.astype("u2")), ("labels", LABELS)):
        path = files[stream] = str(tmp_path / f"{stream}.png")
        values = values.reshape(-1, HEIGHT, WIDTH)
        kind = {"driver": "PNG", "count": len(values), "dtype": values.dtype}
        with rasterio.open(path, "w", width=WIDTH, height=HEIGHT, **kind) as dataset:
            dataset.write(values)
        if world:
            Path(path).with_suffix(".pgw").write_text("0.5\n0\n0\n-0.5\n300000.25\n5199999.75\n")
    cut(files, *words)
    check_tiles(tmp_path / "t", dsm=DSM.astype("uint16"))
    with rasterio.open(tmp_path / "t" / "train" / "image" / "optical_000000_000000.tif") as tile:
        assert tile.crs == (CRS.from_epsg(25832) if world and words else None)
        assert tile.transform == (GRID.transform if world else Affine.identity())


def plane(where):
    """Return heights that rise with x and y of the UTM zone."""
    x, y = centres(where, UTM)
    return ((x - 300_000) * 0.5 + (y - 5_200_000) * 0.25 + 200).astype("float32")


@pytest.mark.parametrize(
    ("partner", "tolerance"),
    [
        (replace(GRID, transform=GRID.transform @ Affine.scale(1 + 2e-9)), 1e-3),
        (SOUTH_UP, 1e-3),
        (grid(120, 110, pixel=0.7, left=299_980, top=5_200_020), 0.01),
        (around(300_014, 5_199_990, 70, 0.8, LAMBERT), 0.02),
        (around(300_014, 5_199_990, 70, 0.6, UTM, angle=20), 0.02),
    ],
    ids=["size off by 1e-9", "south up", "other pixels", "other CRS", "turned"],
)
def test_heights_and_labels_of_another_grid(cut, tmp_path, partner, tolerance):
    ids = RANDOM.integers(0, 3, (partner.height, partner.width), np.uint8)
    files = deliver(tmp_path)
    files["elevation"] = write(tmp_path / "d2.tif", plane(partner) / 0.3048, partner, units="ft")
    files["labels"] = write(tmp_path / "l2.tif", ids, partner)
    assert not cut(files)
    check_tiles(
        tmp_path / "t", dsm=plane(GRID), labels=nearest(ids, partner, GRID), tolerance=tolerance
    )


def test_labels_and_heights_one_column_short(cut, tmp_path):
    narrow = replace(GRID, width=WIDTH - 1)
    files = deliver(tmp_path)
    files["elevation"] = write(tmp_path / "d2.tif", DSM[:, :-1], narrow)
    files["labels"] = write(tmp_path / "l2.tif", LABELS[:, :-1], narrow)
    assert [w.split(" covers ")[1].split(" of ")[0] for w in cut(files)] == ["98.2 %"] * 2
    last = np.arange(WIDTH) == WIDTH - 1
    check_tiles(
        tmp_path / "t",
        dsm=np.where(last, np.float32(np.nan), DSM),
        labels=np.where(last, NONE, LABELS),
    )


def test_a_terrain_model_with_voids_in_feet_and_another_crs(cut, tmp_path):
    where = around(300_014, 5_199_990, 70, 1, LAMBERT)
    files = deliver(tmp_path, dsm=plane(GRID) + 5)
    files["dtm"] = write(tmp_path / "t.tif", plane(where) / 0.3048, where, units="ft")
    cut(files, "--ground", "dtm")
    check_tiles(tmp_path / "t", dsm=np.full(DSM.shape, 5, "f4"), tolerance=0.02)


def test_voids_of_the_terrain_model_are_voids(cut, tmp_path):
    files = deliver(tmp_path, dsm=plane(GRID) + 5)
    terrain = np.where(KNOWN, plane(GRID), np.float32(-9999))
    files["dtm"] = write(tmp_path / "t.tif", terrain, GRID, nodata=-9999)
    cut(files, "--ground", "auto")
    check_tiles(tmp_path / "t", dsm=np.where(KNOWN, np.float32(5), np.float32(np.nan)))


@pytest.mark.parametrize(("scale", "offset"), [(0.1, 0.0), (1.0, 100.0)])
def test_scale_and_offset_of_heights(cut, tmp_path, scale, offset):
    stored = ((DSM - offset) / scale).round().astype("int16")
    files = deliver(tmp_path, dsm=stored)
    with rasterio.open(files["elevation"], "r+") as dataset:
        dataset.scales, dataset.offsets = (scale,), (offset,)
    cut(files)
    check_tiles(tmp_path / "t", dsm=stored * scale + offset)


@pytest.mark.parametrize(("height", "width"), [(1, 2), (1, 300), (300, 1), (20, 25), (33, 31)])
def test_rasters_of_any_size(cut, tmp_path, height, width):
    where = grid(width, height)
    image = noise(3, where)
    dsm = RANDOM.uniform(0, 9, (height, width)).astype("float32")
    ids = (np.arange(height * width) % 3).reshape(height, width).astype("uint8")
    cut(
        deliver(tmp_path, image=image, dsm=dsm, ids=ids, on=where),
        labels={"absent": ["tree", "building"]},
    )
    check_tiles(tmp_path / "t", image=image, dsm=dsm, labels=ids)


# --- what cannot be ------------------------------------------------------------------------------


def _shorter(share):
    return lambda path: path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])


def _folder(path):
    path.unlink()
    path.mkdir()


def _link_to_nothing(path):
    path.unlink()
    path.symlink_to(path.with_name("gone.tif"))


DAMAGES = {
    "missing": Path.unlink,
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("a,b\n1,2\n"),
    "half": _shorter(0.5),
    "almost whole": _shorter(0.9),
    "header only": _shorter(0.02),
    "folder": _folder,
    "link to nothing": _link_to_nothing,
}


@pytest.mark.parametrize("stream", STREAMS)
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named_in_one_line_and_nothing_is_left(cafe, tmp_path, stream, damage):
    files = deliver(tmp_path)
    path = Path(files[stream])
    DAMAGES[damage](path)
    words = words_for(tmp_path, files)
    before = sorted(tmp_path.iterdir())
    failed = cafe("tile", *words, "-o", tmp_path / "t")
    assert failed.code == 1
    assert path.name in failed.error
    looked = cafe("check", *words)
    assert looked.code == 1
    assert any(line.startswith("Error: ") and path.name in line for line in looked.lines)
    assert sorted(tmp_path.iterdir()) == before


ELSEWHERE = grid(WIDTH, HEIGHT, left=400_000)
DEGREES, ZONE_33 = CRS.from_epsg(4326), CRS.from_epsg(25833)
MISPLACED = {
    "no overlap": (
        ELSEWHERE,
        "does not overlap .*x 400000 to 400028, .*x 300000 to 300028, .*check",
    ),
    "wrong zone": (replace(GRID, crs=ZONE_33), "does not overlap .*check the files and their CRS"),
    "degrees": (
        replace(GRID, crs=DEGREES),
        "cannot transform .*d2.tif from EPSG:4326 to EPSG:32632",
    ),
    "no CRS": (replace(ELSEWHERE, crs=None), "d2.tif has no CRS while .* EPSG:32632; .*--crs"),
    "no place": (replace(NOWHERE, width=WIDTH - 1), "has no georeference and 55 x 40 .*world file"),
}


@pytest.mark.parametrize("stream", ["elevation", "labels", "dtm"])
@pytest.mark.parametrize("kind", MISPLACED)
def test_a_partner_elsewhere(cafe, tmp_path, stream, kind):
    where, message = MISPLACED[kind]
    values = (LABELS if stream == "labels" else DSM)[:, : where.width]
    files = deliver(tmp_path) | {stream: write(tmp_path / "d2.tif", values, where)}
    failed = cafe("tile", *words_for(tmp_path, files), "--ground", "auto", "-o", tmp_path / "t")
    assert failed.code == 1
    assert re.search(message, failed.error)


NAMES = [
    "mit leer zeichen",
    "ümläut ß",
    "br[1]ack{et}s",
    "star*q?",
    "quote\"'",
    "a,b;c:d",
    "-o",
    "pct%20",
    ".hid",
]


@pytest.mark.parametrize("name", NAMES)
def test_names_of_files_and_folders_mean_themselves(cafe, tmp_path, name):
    folder = tmp_path / name
    files = {
        k: Path(v).rename(Path(v).with_name(f"{name}_{k}.tif")) for k, v in deliver(folder).items()
    }
    done = cafe("tile", *words_for(folder, files), "-o", folder / f"{name} out")
    assert done.code == 0, done.lines
    check_tiles(folder / f"{name} out")


def test_what_a_killed_run_left_is_replaced(cut, tmp_path):
    (tmp_path / ".t.partial" / "train").mkdir(parents=True)
    (tmp_path / ".t.partial" / "train" / "old.tif").write_text("old")
    cut(deliver(tmp_path))
    check_tiles(tmp_path / "t")
    assert not list((tmp_path / "t").rglob("old.tif"))


def test_an_input_is_never_replaced_by_a_tile_set(cafe, tmp_path):
    files = deliver(tmp_path)
    failed = cafe("tile", *words_for(tmp_path, files), "-o", files["optical"], "--overwrite")
    assert failed.code != 0
    assert Path(files["optical"]).is_file()


def test_an_output_that_is_a_link_to_nothing(cafe, tmp_path):
    (tmp_path / "t").symlink_to("gone")
    words = words_for(tmp_path, deliver(tmp_path))
    assert re.search("/t .*link", cafe("tile", *words, "-o", tmp_path / "t").error)


def test_a_terrain_model_without_a_surface_model(cafe, tmp_path):
    files = deliver(tmp_path)
    files = {"optical": files["optical"], "dtm": files["elevation"], "labels": files["labels"]}
    done = cafe("tile", *words_for(tmp_path, files), "--ground", "dtm", "-o", tmp_path / "t")
    assert any("elevation" in line for line in done.lines)


@pytest.mark.parametrize("name", ["run/best.safetensors", "o.tif"])
def test_what_else_lies_in_a_tile_set_is_never_removed(cut, cafe, tmp_path, name):
    files = deliver(tmp_path)
    cut(files)
    precious = tmp_path / "t" / name
    precious.parent.mkdir(exist_ok=True)
    precious.write_bytes(Path(files["optical"]).read_bytes())
    cafe("tile", *words_for(tmp_path, files), "-o", tmp_path / "t", "--overwrite")
    assert precious.exists()


# --- check ---------------------------------------------------------------------------------------


def findings_of(result: Result) -> list[tuple[str, str]]:
    """Return level and message of what a check found, its JSON being all there is on stdout."""
    return [(f["level"], f["message"]) for f in json.loads(result.out)["findings"]]


GOOD = {
    "plain": {},
    "16 bits": {"image": noise(3, GRID, "uint16")},
    "south up": {"on": SOUTH_UP},
    "turned": {"on": TURNED},
    "no CRS": {"on": replace(GRID, crs=None)},
    "mask": {"optical": {"mask": KNOWN}},
    "feet": {"dsm": DSM / 0.3048, "elevation": {"units": "ft"}},
}


@pytest.mark.parametrize("kind", GOOD)
def test_nothing_is_said_of_good_scenes(cafe, tmp_path, kind):
    words = words_for(tmp_path, deliver(tmp_path, **GOOD[kind]))
    looked = cafe("check", *words, "--json")
    assert looked.code == 0
    assert not looked.lines
    assert [m for _, m in findings_of(looked) if "no tile for validation" not in m] == []


@pytest.mark.parametrize("stream", ["elevation", "dtm"])
def test_an_image_in_place_of_heights_is_doubted(cafe, tmp_path, stream):
    files = deliver(tmp_path)
    looked = cafe("check", *words_for(tmp_path, files | {stream: files["optical"]}), "--json")
    assert (
        "warning",
        "has 3 bands; the first is read as heights: check that it is the right file",
    ) in findings_of(looked)


def test_a_band_of_alpha_is_no_second_band_of_heights(cafe, tmp_path):
    dsm = np.stack([DSM, ALPHA.astype("float32")])
    files = deliver(tmp_path, dsm=dsm, elevation={"alpha": 2})
    assert "bands" not in str(findings_of(cafe("check", *words_for(tmp_path, files), "--json")))


BAD = {
    "unknown value": (
        {"ids": np.where(KNOWN, LABELS, np.uint8(77))},
        r"a class: 77 \(\d+ px\); add",
    ),
    "absent class": ({"ids": np.minimum(LABELS, 1)}, "shows '?building'?: check .*labels.absent"),
    "undeclared void": ({"dsm": np.where(KNOWN, DSM, np.float32(-9999))}, "height.nodata = -9999"),
    "no label": (
        {"ids": np.full_like(LABELS, NONE)},
        r"has a label; labels.ignore leaves out 255 \(2240 px\); check",
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_what_tile_refuses_fails_the_check(cafe, tmp_path, kind):
    changes, message = BAD[kind]
    words = words_for(tmp_path, deliver(tmp_path, **changes))
    failed = cafe("tile", *words, "-o", tmp_path / "t")
    assert failed.code == 1
    assert re.search(message, failed.error.replace(",", ""))
    looked = cafe("check", *words, "--json")
    assert looked.code == 1
    assert any(level == "error" for level, _ in findings_of(looked))
    dry = cafe("tile", *words, "-o", tmp_path / "t", "--dry-run")
    assert dry.code == 1
    assert not (tmp_path / "t").exists()


def test_a_class_below_the_mask_of_the_image_only(cafe, tmp_path):
    ids = np.where(KNOWN, np.minimum(LABELS, 1), np.uint8(2))
    words = words_for(tmp_path, deliver(tmp_path, ids=ids, optical={"mask": KNOWN}))
    assert cafe("tile", *words, "-o", tmp_path / "t").code == 1
    assert cafe("check", *words).code == 1


# --- tables --------------------------------------------------------------------------------------


def test_a_table_of_labels_lies_beside_the_config(cut, tmp_path, monkeypatch):
    (tmp_path / "codes.csv").write_text("value,class\n0,ground\n1,tree\n2,building\n")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    cut(deliver(tmp_path), labels={"table": "codes.csv"})
    check_tiles(tmp_path / "t")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"scene,split\n", "names no scene below its header"),
        (b"\x00\x01" * 40, "not a CSV table in UTF-8: it holds binary data"),
    ],
)
def test_split_tables_of_nothing(cafe, tmp_path, content, message):
    (tmp_path / "s.csv").write_bytes(content)
    words = words_for(tmp_path, deliver(tmp_path), split={"file": str(tmp_path / "s.csv")})
    assert message in cafe("tile", *words, "-o", tmp_path / "t").error
