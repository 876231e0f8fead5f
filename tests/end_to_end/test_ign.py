"""Three real French clips (IGN LiDAR HD): RGB and infrared, surface model, point classes."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
from scipy import ndimage

from cafe_cli.classes import NODATA
from cafe_cli.config.load import parse_config
from cafe_cli.errors import LabelError
from cafe_cli.tilesets.make import tile
from cafe_cli.tilesets.tile_rasters import VOID, tile_path
from cafe_cli.tilesets.tileset import load_tileset
from cafe_cli.training.train import train
from tests.support.engines import ENCODER

IGN = Path(__file__).parents[3] / "shared/data/ign"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.real_data,
    pytest.mark.skipif(not IGN.is_dir(), reason=f"the clips are not there: {IGN}"),
]

SIZE = 64
BUILDINGS = ("874000_6617000", "876000_6617000")
RURAL = "484000_6633000_rural"
CHECKED = [
    {"id": 0, "name": "other", "values": [0, 20]},
    {"id": 1, "name": "building", "values": [19]},
]
ASPRS = [
    {"id": 0, "name": "ground", "values": [2]},
    {"id": 1, "name": "vegetation", "values": [3, 4, 5]},
    {"id": 2, "name": "building", "values": [6]},
]


def settings(only=BUILDINGS, classes=CHECKED, ignore=(255,), bands=(1, 2, 3, 4), **sections):
    scenes = {
        "optical": "{id}_rgbnir.tif", "elevation": "{id}_dsm.tif", "labels": "{id}_lasclass.tif",
        "only": only,
    }  # fmt: skip
    values = {
        "root": str(IGN),
        "scenes": scenes | ({"bands": bands} if bands else {}),
        "classes": classes,
        "labels": {"ignore": ignore},
        "tile": {"size": SIZE, "overlap": 0, "min_valid": 0, "min_labelled": 0},
        "split": {"validation_scenes": only[1:], "validation": 0, "buffer": 0},
        "model": {
            "optical_encoder": ENCODER,
            "height_encoder": "same",
            "weights": "none",
            "width": 8,
        },
        "train": {"epochs": 1, "workers": 0},
    }
    return parse_config(values | sections, "test")


@pytest.fixture(scope="module")
def buildings(tmp_path_factory):
    """A tile set of two clips with verified buildings: one trains, one validates."""
    folder = tmp_path_factory.mktemp("ign") / "buildings"
    tile(settings(), folder)
    return folder


@pytest.fixture(scope="module")
def rural(tmp_path_factory):
    """A tile set of a rural clip; a third of its surface model is void."""
    folder = tmp_path_factory.mktemp("ign") / "rural"
    tile(settings((RURAL,), ASPRS, (1, 255)), folder)
    return folder


def delivered(scene: str, what: str):
    with rasterio.open(IGN / f"{scene}_{what}.tif") as dataset:
        return dataset.read()


def windows(folder: Path, scene: str, kind: str):
    """Yield the pixels of each tile, and its slices in the scene."""
    for kept in load_tileset(folder).tiles:
        path = tile_path(folder, kept, kind)
        if kept.scene == scene and path.exists():
            with rasterio.open(path) as dataset:
                yield dataset.read(), np.s_[kept.row : kept.row + SIZE, kept.col : kept.col + SIZE]


def whole(folder: Path, scene: str, kind: str, shape, empty):
    """Put the tiles of a scene together: (height, width)."""
    values = np.full(shape, empty, np.float32)
    for shown, part in windows(folder, scene, kind):
        values[part] = np.where(shown[0] != empty, shown[0], values[part])
    return values


@pytest.mark.parametrize("scene", [*BUILDINGS, RURAL])
def test_the_four_bands_are_those_of_the_image(request, scene):
    folder = request.getfixturevalue("rural" if scene == RURAL else "buildings")
    image = delivered(scene, "rgbnir")
    seen = np.zeros(image.shape[1:], bool)
    for shown, part in windows(folder, scene, "image"):
        assert np.array_equal(shown, image[:, *part])
        seen[part] = True
    assert seen.all()
    tileset = load_tileset(folder)
    assert (tileset.dtype, len(tileset.band_names), tileset.crs) == ("uint8", 4, "EPSG:2154")
    assert tileset.band_names[:3] == ("red", "green", "blue")
    assert len(tileset.optical_statistics.mean) == 4


def test_infrared_is_no_mask(rural):
    """The fourth band is marked as alpha, and is 0 where the image is black."""
    assert (delivered(RURAL, "rgbnir")[3] == 0).any()
    assert all(kept.valid == 1 for kept in load_tileset(rural).tiles)


def test_without_a_choice_of_bands_infrared_is_taken_for_the_mask(tmp_path):
    tile(settings((RURAL,), ASPRS, (1, 255), bands=None), tmp_path / "tiles")
    tileset = load_tileset(tmp_path / "tiles")
    assert len(tileset.band_names) == 3
    infrared = delivered(RURAL, "rgbnir")[3]
    for kept in tileset.tiles:
        shown = infrared[kept.row : kept.row + SIZE, kept.col : kept.col + SIZE]
        assert kept.valid == pytest.approx((shown > 0).mean())
    assert min(kept.valid for kept in tileset.tiles) < 1


@pytest.mark.parametrize("scene", BUILDINGS)
def test_buildings_that_people_have_checked(buildings, scene):
    codes = delivered(scene, "lasclass")[0]
    found = whole(buildings, scene, "label", codes.shape, NODATA)
    assert np.array_equal(found == 1, codes == 19)
    assert np.array_equal(found == 0, (codes == 0) | (codes == 20))


def test_codes_may_be_ignored(tmp_path):
    """Only what people have looked at: 19 and 20, not the rest."""
    classes = [CHECKED[0] | {"values": [20]}, CHECKED[1]]
    tile(settings(BUILDINGS, classes, (0, 255)), tmp_path / "tiles")
    tileset = load_tileset(tmp_path / "tiles")
    codes = delivered(BUILDINGS[1], "lasclass")[0]
    counted = tileset.pixels["validation"]
    assert counted["building"] == (codes == 19).sum()
    assert counted["other"] == (codes == 20).sum()


def test_codes_that_nobody_named_are_listed(tmp_path):
    said = r"without a class: 20 \(1,814 px\); add them .* 874000_6617000"
    with pytest.raises(LabelError, match=said):
        tile(settings(classes=[CHECKED[0] | {"values": [0]}, CHECKED[1]]), tmp_path / "tiles")


def test_point_classes_become_land_cover(rural):
    codes = delivered(RURAL, "lasclass")[0]
    found = whole(rural, RURAL, "label", codes.shape, NODATA)
    assert np.array_equal(found == 0, codes == 2)
    assert np.array_equal(found == 1, np.isin(codes, (3, 4, 5)))
    assert np.array_equal(found == 2, codes == 6)


@pytest.mark.parametrize("scene", BUILDINGS)
def test_buildings_stand_above_the_ground(buildings, scene):
    codes = delivered(scene, "lasclass")[0]
    heights = whole(buildings, scene, "height", codes.shape, VOID)
    assert (heights != VOID).all()
    assert heights.min() > -1
    assert heights.max() < 30
    assert np.median(heights[codes == 19]) > 2.5


def test_voids_stay_voids(rural):
    surface = delivered(RURAL, "dsm")[0]
    heights = whole(rural, RURAL, "height", surface.shape, VOID)
    void = surface == -9999
    metres = ndimage.distance_transform_edt(void) * 0.5
    assert (heights[metres > 2.5] == VOID).all()
    assert (heights[~void] != VOID).all()
    filled = void & (heights != VOID)
    assert 0 < filled.sum() < void.sum() / 4
    known = heights[heights != VOID]
    assert known.min() > -2
    assert known.max() < 25


@pytest.mark.parametrize("name", ["buildings", "rural"])
def test_two_steps_of_training(request, name, tmp_path):
    folder = request.getfixturevalue(name)
    half = len(load_tileset(folder).of("train")) // 2
    config = settings(train={"epochs": 1, "workers": 0, "batch_size": half, "crop": 32})
    card = train(folder, tmp_path / "run", config, device="cpu")
    assert card.architecture.optical_bands == 4
    assert len(card.band_names) == 4
    history = (tmp_path / "run/history.csv").read_text().splitlines()
    row = dict(zip(*(line.split(",") for line in history), strict=True))
    assert row["step"] == "2"
    assert np.isfinite(float(row["loss"]))
    assert (card.scores is not None) == (name == "buildings")
