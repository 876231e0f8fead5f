"""Small synthetic copies of the ISPRS benchmarks through tile and train.

Names, folders and faults are those of the Potsdam and Vaihingen data; the shipped configs are used,
with smaller tiles and networks.
"""

from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from rasterio.io import MemoryFile
from scipy import ndimage

from cafe_cli.classes import NODATA
from cafe_cli.config.load import load_config
from cafe_cli.errors import GridError
from cafe_cli.tilesets.make import tile
from cafe_cli.tilesets.tile_rasters import VOID, tile_path
from cafe_cli.tilesets.tileset import TileSet, load_tileset
from cafe_cli.training.train import train
from tests.support.engines import ENCODER

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
IMPERVIOUS, BUILDING, LOW, TREE, CAR, CLUTTER = range(6)
COLORS = np.array(
    [[255, 255, 255], [0, 0, 255], [0, 255, 255], [0, 255, 0], [255, 255, 0], [255, 0, 0]], np.uint8
)
METRES = np.array([0, 8, 0.2, 5, 1.5, 0], np.float32)
TERRAIN = 40  # metres above the sea

POTSDAM_SIDE = 128
POTSDAM = [
    f"{row}_{col}"
    for row, columns in {
        2: range(10, 15), 3: range(10, 15), 4: range(10, 16), 5: range(10, 16),
        6: range(7, 16), 7: range(7, 14),
    }.items()
    for col in columns
]  # fmt: skip
POTSDAM_TEST = {
    "2_13", "2_14", "3_13", "3_14", "4_13", "4_14", "4_15", "5_13", "5_14", "5_15", "6_13", "6_14",
    "6_15", "7_13",
}  # fmt: skip
VAIHINGEN = [
    str(i)
    for part in ((1, 8), (10, 17), (20, 24), (26, 35), (37, 38))
    for i in range(part[0], part[1] + 1)
]
VAIHINGEN_TRAIN = {
    "1", "3", "5", "7", "11", "13", "15", "17", "21", "23", "26", "28", "30", "32", "34", "37",
}  # fmt: skip


# Synthetic data


def town(seed, height: int, width: int):
    """Return classes (height, width): a house, trees, two cars, some clutter."""
    random = np.random.default_rng(seed)
    coarse = random.choice([IMPERVIOUS, LOW, TREE], (-(-height // 32), -(-width // 32)))
    classes = np.kron(coarse, np.ones((32, 32), int))[:height, :width]
    for kind, rows, cols in (
        (BUILDING, 40, 44), (CAR, 12, 24), (CAR, 24, 12), (CLUTTER, 14, 14),
    ):  # fmt: skip
        row, col = random.integers(height - rows), random.integers(width - cols)
        classes[row : row + rows, col : col + cols] = kind
    return classes


def boundaries(classes):
    """Return the pixels within three of another class, which the eroded reference has in black."""
    disc = np.hypot(*np.mgrid[-3:4, -3:4]) <= 3
    low = ndimage.minimum_filter(classes, footprint=disc, mode="nearest")
    return low != ndimage.maximum_filter(classes, footprint=disc, mode="nearest")


def photograph(classes, bands: int, seed):
    gray = np.array([120, 170, 90, 50, 200, 140])[classes]
    noise = np.random.default_rng(seed).normal(0, 8, (bands, *classes.shape))
    return (gray + noise).clip(1, 255).astype(np.uint8)


def eroded(classes):
    """Return a label image (3, height, width) with eroded boundaries."""
    image = COLORS[classes]
    image[boundaries(classes)] = 0
    return image.transpose(2, 0, 1)


def truth(classes):
    return np.where(boundaries(classes), NODATA, classes)


def surface(classes):
    return (TERRAIN + METRES[classes])[None]


def plain(path: Path, values, driver="GTiff", **profile) -> None:
    """Write a raster without georeference."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = values.shape
    size = {"count": count, "height": height, "width": width, "dtype": values.dtype}
    if driver == "GTiff":
        with rasterio.open(path, "w", driver=driver, **size, **profile) as dataset:
            dataset.write(values)
        return
    with MemoryFile() as memory:  # these drivers can only copy
        with memory.open(driver="GTiff", **size) as dataset:
            dataset.write(values)
        rasterio.shutil.copy(memory.name, path, driver=driver, **profile)
    path.with_name(f"{path.name}.aux.xml").unlink(missing_ok=True)


def world_file(path: Path, gsd: float, left: float, top: float) -> None:
    """Write a world file: six numbers, no CRS."""
    numbers = (gsd, 0, 0, -gsd, left + gsd / 2, top - gsd / 2)
    path.with_suffix(".tfw").write_text("".join(f"{n:.10f}\n" for n in numbers))


def recompressed(image):
    """Compress and decompress an image (3, height, width) as JPEG, which changes all colours."""
    noisy = 13 + 0.9 * image + np.random.default_rng(1).normal(0, 4, image.shape)
    with MemoryFile(ext=".tif") as source, MemoryFile(ext=".jpg") as lossy:
        count, height, width = image.shape
        with source.open(
            driver="GTiff", count=count, height=height, width=width, dtype="uint8"
        ) as dataset:
            dataset.write(noisy.clip(0, 255).astype(np.uint8))
        rasterio.shutil.copy(source.name, lossy.name, driver="JPEG", quality=75)
        with lossy.open() as dataset:
            return dataset.read()


def potsdam_classes(name: str):
    return town([ord(c) for c in name], POTSDAM_SIDE, POTSDAM_SIDE)


def vaihingen_classes(name: str):
    height, width = np.random.default_rng(int(name)).integers(90, 150, 2)
    return town(int(name), height, width)


def deliver_potsdam(root: Path, names) -> None:
    """Write adjacent patches with the faults of the real ones."""
    for name in names:
        row, col = map(int, name.split("_"))
        padded = f"{row:02}_{col:02}"
        classes = potsdam_classes(name)
        place = (0.05, 367_000 + col * 6.4, 5_808_000 - row * 6.4)

        image = photograph(classes, 4, row * 100 + col)
        image[3, :20, :20] = 0  # infrared in the shade: no mask
        ortho = root / f"4_Ortho_RGBIR/top_potsdam_{name}_RGBIR.tif"
        plain(ortho, image, photometric="rgb", alpha="unspecified")
        world_file(ortho, *place)

        heights = surface(classes)
        dsm = root / f"1_DSM/dsm_potsdam_{padded}.tif"
        plain(dsm, heights[:, :, :-1] if name == "3_13" else heights)
        world_file(dsm, *place)

        above = (METRES[classes] * 10).astype(np.uint8)[None]
        ndsm = f"1_DSM_normalisation/dsm_potsdam_{padded}_normalized_lastools.jpg"
        plain(root / ndsm, above[:, :, :-1] if name == "3_13" else above, "JPEG", quality=95)

        label = root / f"5_Labels_all/top_potsdam_{name}_label.tif"
        plain(label, potsdam_label(name))
        if row < 4:
            world_file(label, *place)
    (root / "5_Labels_all/top_potsdam_7_10_label.tif").write_text("not checked")


def potsdam_label(name: str):
    image = eroded(potsdam_classes(name))
    if name == "4_12":
        return recompressed(image)
    if name == "6_7":
        image[0, (image == [[[255]], [[255]], [[0]]]).all(axis=0)] = 252
    return image


def deliver_vaihingen(root: Path, names) -> None:
    """Write areas of many sizes; labels have no georeference."""
    for name in names:
        classes = vaihingen_classes(name)
        place = (0.09, 496_000 + int(name) * 20, 5_420_000)
        ortho = root / f"top/top_mosaic_09cm_area{name}.tif"
        plain(ortho, photograph(classes, 3, int(name)), photometric="rgb")
        world_file(ortho, *place)
        dsm = root / f"dsm/dsm_09cm_matching_area{name}.tif"
        plain(dsm, surface(classes))
        world_file(dsm, *place)
        plain(root / f"gts_for_participants/top_mosaic_09cm_area{name}.tif", eroded(classes))


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
