"""Small synthetic copies of the ISPRS benchmarks through tile and train.

Names, folders and faults are those of the Potsdam and Vaihingen data; the shipped configs are used,
with smaller tiles and networks.
"""

from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from scipy import ndimage

from cafe_cli.classes import NODATA
from cafe_cli.config.load import load_config
from cafe_cli.errors import GridError
from cafe_cli.tilesets.make import tile
from cafe_cli.tilesets.tile_rasters import VOID, tile_path
from cafe_cli.tilesets.tileset import TileSet, load_tileset
from cafe_cli.training.train import train
from tests.support.engines import ENCODER
from tests.support.isprs import (
    BUILDING,
    CAR,
    CLUTTER,
    COLORS,
    IMPERVIOUS,
    METRES,
    POTSDAM,
    POTSDAM_SIDE,
    POTSDAM_TEST,
    VAIHINGEN,
    VAIHINGEN_TRAIN,
    boundaries,
    deliver_potsdam,
    deliver_vaihingen,
    eroded,
    plain,
    potsdam_classes,
    potsdam_label,
    truth,
    vaihingen_classes,
)

pytestmark = pytest.mark.slow

CONFIGS = Path(__file__).parents[2] / "configs"
SMALL = {
    "tile.size": 64,
    "tile.overlap": 0,
    "split.buffer": 0,
    "model.optical_encoder": ENCODER,
    "model.height_encoder": "same",
    "model.height_weights": "none",
    "model.weights": "none",
    "model.width": 8,
    "train.crop": 32,
    "train.epochs": 1,
    "train.workers": 0,
}


def cut(root: Path, shipped: str, output: Path, **changes) -> TileSet:
    """Tile with a shipped config; changes are named ``section__key``."""
    named = {key.replace("__", "."): value for key, value in changes.items()}
    settings = load_config(CONFIGS / shipped, {"root": str(root), **SMALL, **named})
    return tile(settings, output)


@pytest.fixture(scope="module")
def potsdam(tmp_path_factory):
    """The folders of all 38 patches and of their tile set."""
    root = tmp_path_factory.mktemp("potsdam")
    deliver_potsdam(root, POTSDAM)
    cut(root, "potsdam.toml", root / "tiles", tile__size=POTSDAM_SIDE)
    return root, root / "tiles"


@pytest.fixture(scope="module")
def vaihingen(tmp_path_factory):
    """The folders of all 33 areas and of their tile set."""
    root = tmp_path_factory.mktemp("vaihingen")
    deliver_vaihingen(root, VAIHINGEN)
    cut(root, "vaihingen.toml", root / "tiles")
    return root, root / "tiles"


def mosaic(folder: Path, scene: str, shape, kind="label", empty=NODATA):
    """Put the tiles of a scene together; return values and where there are tiles."""
    tileset = load_tileset(folder)
    size = tileset.size
    height, width = (n + size for n in shape)
    whole = np.full((height, width), empty, np.float32)
    seen = np.zeros((height, width), bool)
    for kept in tileset.tiles:
        if kept.scene == scene:
            part = slice(kept.row, kept.row + size), slice(kept.col, kept.col + size)
            with rasterio.open(tile_path(folder, kept, kind)) as dataset:
                values = dataset.read(1)
            # Where tiles are scored and overlap, only one of them keeps the label of a pixel.
            whole[part] = np.where(values != empty, values, whole[part])
            seen[part] = True
    return whole[: shape[0], : shape[1]], seen[: shape[0], : shape[1]]


def labels_of(folder: Path, scene: str, shape):
    return mosaic(folder, scene, shape)


def heights_of(folder: Path, scene: str, shape):
    return mosaic(folder, scene, shape, "height", VOID)


def scenes_of(folder: Path, *splits) -> set[str]:
    return {t.scene for t in load_tileset(folder).tiles if t.split in splits}


# Potsdam


def test_potsdam_is_split_as_published(potsdam):
    _, folder = potsdam
    assert len(POTSDAM) == 38
    assert scenes_of(folder, "test") == POTSDAM_TEST
    training = scenes_of(folder, "train", "validation")
    assert training == set(POTSDAM) - POTSDAM_TEST - {"7_10"}
    assert len(training) == 23
    assert load_tileset(folder).of("validation")
    assert load_tileset(folder).shared_ground == 0


def test_the_faulty_patch_of_potsdam_is_left_out(potsdam):
    root, folder = potsdam
    assert (root / "4_Ortho_RGBIR/top_potsdam_7_10_RGBIR.tif").exists()
    assert not [p for p in folder.rglob("*") if "7_10" in p.name]


@pytest.mark.parametrize("name", ["2_10", "3_14", "6_7", "7_13"])
def test_potsdam_labels_are_right_to_the_pixel(potsdam, name):
    """With a world file of their own (2_10, 3_14) and without one (6_7, 7_13)."""
    classes = potsdam_classes(name)
    found, seen = labels_of(potsdam[1], name, classes.shape)
    assert seen.all()
    assert np.array_equal(found, truth(classes))
    assert {BUILDING, CAR, CLUTTER, NODATA} <= set(np.unique(found))


def test_the_cars_of_patch_6_7_are_found(potsdam):
    root, folder = potsdam
    with rasterio.open(root / "5_Labels_all/top_potsdam_6_7_label.tif") as dataset:
        image = dataset.read()
    odd = (image == [[[252]], [[255]], [[0]]]).all(axis=0)
    assert odd.sum() > 100
    assert not (image == [[[255]], [[255]], [[0]]]).all(axis=0).any()
    found, _ = labels_of(folder, "6_7", odd.shape)
    assert (found[odd] == CAR).all()
    assert (found == CAR).sum() == odd.sum()


def test_the_lossy_label_of_patch_4_12_is_decoded(potsdam):
    root, folder = potsdam
    with rasterio.open(root / "5_Labels_all/top_potsdam_4_12_label.tif") as dataset:
        image = dataset.read()
    exact = (image[:, None] == COLORS.T[:, :, None, None]).all(axis=0).any(axis=0)
    assert exact.mean() < 0.01
    classes = potsdam_classes("4_12")
    found, _ = labels_of(folder, "4_12", classes.shape)
    right = found == truth(classes)
    assert right.mean() > 0.97
    inside = ndimage.binary_erosion(~boundaries(classes), iterations=2, border_value=1)
    assert right[inside].mean() > 0.999


def test_inexact_label_colors_are_counted(potsdam, tmp_path, caplog):
    root, _ = potsdam
    cut(
        root, "potsdam.toml", tmp_path / "tiles", scenes__only=["2_10", "4_12", "6_7"],
        split__test_scenes=[],
    )  # fmt: skip
    odd = 0
    for name in ("2_10", "4_12", "6_7"):
        image = potsdam_label(name)
        known = np.concatenate([COLORS, [[0, 0, 0]]]).T
        odd += (~(image[:, None] == known[:, :, None, None]).all(axis=0).any(axis=0)).sum()
    assert (
        f"{odd:,} label pixels had no exact class colour and got the class of the nearest"
        in caplog.text
    )
    assert "#fcff00" in caplog.text


def test_the_narrow_surface_model_of_patch_3_13(potsdam, tmp_path):
    """Where it ends a pixel early, the last column takes its neighbour's height, or none."""
    root, folder = potsdam
    shape = potsdam_classes("3_13").shape
    filled, _ = heights_of(folder, "3_13", shape)
    assert (filled != VOID).all()
    assert np.abs(filled[:, -1] - filled[:, -2]).mean() < 0.1
    cut(
        root, "potsdam.toml", tmp_path / "tiles", scenes__only=["2_10", "3_13"],
        split__test_scenes=["3_13"], height__fill=0,
    )  # fmt: skip
    heights, seen = heights_of(tmp_path / "tiles", "3_13", shape)
    assert seen.all()
    assert (heights[:, -1] == VOID).all()
    assert (heights[:, :-1] != VOID).all()
    assert np.array_equal(heights[:, :-1], filled[:, :-1])


@pytest.mark.parametrize("name", ["2_10", "7_13"])
def test_potsdam_heights_are_above_ground(potsdam, name):
    classes = potsdam_classes(name)
    heights, _ = heights_of(potsdam[1], name, classes.shape)
    away = ~boundaries(classes)
    assert abs(np.median(heights[away & (classes == IMPERVIOUS)])) < 0.5
    assert abs(np.median(heights[away & (classes == BUILDING)]) - 8) < 0.5


def test_potsdam_tiles_are_red_green_blue_and_wholly_valid(potsdam):
    """Four bands of which three are used; dark infrared is no hole."""
    root, folder = potsdam
    tileset = load_tileset(folder)
    assert len(tileset.band_names) == 3
    assert all(t.valid == 1 for t in tileset.tiles)
    first = next(t for t in tileset.tiles if (t.scene, t.row, t.col) == ("2_10", 0, 0))
    with rasterio.open(tile_path(folder, first, "image")) as dataset:
        assert dataset.crs is None
        corner = dataset.transform @ (0, 0)
        values = dataset.read()
    assert corner == pytest.approx((367_064, 5_807_987.2))
    with rasterio.open(root / "4_Ortho_RGBIR/top_potsdam_2_10_RGBIR.tif") as dataset:
        assert np.array_equal(values, dataset.read()[:3])


NORMALISED = {
    "scenes__elevation": (
        "1_DSM_normalisation/dsm_potsdam_{row:02}_{col:02}_normalized_lastools.jpg"
    ),
    "height__kind": "ndsm",
    "height__unit": "decimetre",
}


def test_normalised_heights_of_potsdam_are_in_decimetres(potsdam, tmp_path):
    cut(
        potsdam[0], "potsdam.toml", tmp_path / "tiles", **NORMALISED,
        scenes__only=["2_10", "6_8"], split__test_scenes=["6_8"],
    )  # fmt: skip
    for name in ("2_10", "6_8"):
        classes = potsdam_classes(name)
        heights, seen = heights_of(tmp_path / "tiles", name, classes.shape)
        assert seen.all()
        assert np.abs(heights - METRES[classes]).mean() < 0.1
        assert np.median(heights[classes == BUILDING]) == pytest.approx(8, abs=0.2)


def test_a_narrow_image_of_heights_without_a_place_is_refused(potsdam, tmp_path):
    what = r"dsm_potsdam_03_13_normalized_lastools.jpg has no georeference and 127 x 128 pixels"
    with pytest.raises(GridError, match=f"{what}; with the 128 x 128 pixels of the image"):
        cut(
            potsdam[0], "potsdam.toml", tmp_path / "tiles", **NORMALISED,
            scenes__only=["2_10", "3_13"], split__test_scenes=[],
        )  # fmt: skip


# Vaihingen


def test_vaihingen_is_split_as_published(vaihingen):
    _, folder = vaihingen
    assert len(VAIHINGEN) == 33
    assert scenes_of(folder, "train", "validation") == VAIHINGEN_TRAIN
    assert scenes_of(folder, "test") == set(VAIHINGEN) - VAIHINGEN_TRAIN
    assert len(scenes_of(folder, "test")) == 17
    assert load_tileset(folder).shared_ground == 0


@pytest.mark.parametrize("name", ["1", "2", "38"])
def test_vaihingen_labels_without_a_place_lie_on_the_image(vaihingen, name):
    classes = vaihingen_classes(name)
    found, seen = labels_of(vaihingen[1], name, classes.shape)
    assert np.array_equal(found[seen], truth(classes)[seen])
    assert seen.mean() > 0.3
    assert name not in scenes_of(vaihingen[1], "test") or seen.all()


def test_vaihingen_labels_may_be_png(vaihingen, tmp_path):
    root = vaihingen[0]
    for name in ("1", "3", "4"):
        plain(root / f"png/area{name}.png", eroded(vaihingen_classes(name)), "PNG")
    cut(
        root, "vaihingen.toml", tmp_path / "tiles", scenes__labels="png/area{id}.png",
        scenes__only=["1", "3", "4"], split__test_scenes=["4"],
    )  # fmt: skip
    classes = vaihingen_classes("4")
    found, _ = labels_of(tmp_path / "tiles", "4", classes.shape)
    assert np.array_equal(found, truth(classes))


def test_a_label_of_another_size_without_a_place_is_refused(vaihingen, tmp_path):
    root = vaihingen[0]
    plain(root / "small/area1.png", eroded(vaihingen_classes("1"))[:, :-2, :-1], "PNG")
    height, width = vaihingen_classes("1").shape
    said = f"area1.png has no georeference and {width - 1} x {height - 2} pixels; with the "
    with pytest.raises(GridError, match=f"{said}{width} x {height} pixels of the image"):
        cut(
            root, "vaihingen.toml", tmp_path / "tiles", scenes__labels="small/area{id}.png",
            scenes__only=["1"], split__test_scenes=[],
        )  # fmt: skip


# Both


@pytest.mark.parametrize("which", ["potsdam", "vaihingen"])
def test_the_tile_set_says_what_it_is(request, which):
    _, folder = request.getfixturevalue(which)
    tileset = load_tileset(folder)
    assert tileset.gsd == pytest.approx({"potsdam": 0.05, "vaihingen": 0.09}[which])
    assert tileset.crs == "pixel coordinates (no CRS)"
    assert [c.scored for c in tileset.classes] == [True] * 5 + [False]
    assert tileset.classes.palette.tolist() == COLORS.tolist()
    for split in ("train", "validation", "test"):
        assert all(n > 0 for n in tileset.pixels[split].values()), tileset.pixels[split]


@pytest.mark.parametrize("which", ["potsdam", "vaihingen"])
def test_two_steps_of_training(request, which, tmp_path):
    root, folder = request.getfixturevalue(which)
    half = len(load_tileset(folder).of("train")) // 2
    changes = {"root": str(root), **SMALL, "train.batch_size": half}
    settings = load_config(CONFIGS / f"{which}.toml", changes)
    card = train(folder, tmp_path / "run", settings, device="cpu")
    assert (tmp_path / "run/best.safetensors").exists()
    assert card.dtype == "uint8"
    history = (tmp_path / "run/history.csv").read_text().splitlines()
    assert len(history) == 2
    steps = dict(zip(*(line.split(",") for line in history), strict=True))
    assert steps["step"] == "2"
    assert np.isfinite(float(steps["loss"]))
