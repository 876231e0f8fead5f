import json
import re
import warnings

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely

from cafe_cli.classes import NODATA
from cafe_cli.config.load import load_config, parse_config
from cafe_cli.config.schema import HeightSettings, LabelSettings
from cafe_cli.errors import ConfigError, InputError, LabelError, OutputError
from cafe_cli.raster import statistics
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.window import Window
from cafe_cli.scenes.discovery import find_scenes
from cafe_cli.scenes.inspection import inspect_scene
from cafe_cli.scenes.scene import open_scene
from cafe_cli.splits.assign import SPLITS
from cafe_cli.tilesets.make import tile
from cafe_cli.tilesets.tile_rasters import TileReader, read_tile, tile_path
from cafe_cli.tilesets.tileset import Tile, load_tileset
from tests.support.damage import overwrite
from tests.support.elsewhere import run_elsewhere
from tests.support.rasters import LAMBERT, TABLE, UTM, around, centres, grid, moved, noise
from tests.support.rasters import write as write_to

SIZE, BUFFER = 32, 8
PLACE, SMALL = grid(256, 192), grid(160, 128)
SETTINGS = {
    "scenes": {
        "optical": "{id}_ortho.tif",
        "elevation": "{id}_dsm.tif",
        "labels": "{id}_labels.tif",
    },
    "classes": [{"id": c.id, "name": c.name, "color": c.color} for c in TABLE],
    "height": {"kind": "ndsm"},
    "tile": {"size": SIZE, "overlap": 16},
    "split": {"buffer": BUFFER, "validation": 0.25},
}


def settings(root, **changes):
    """Return a config; changes are sections, laid over those above."""
    values = json.loads(json.dumps({"root": str(root), **SETTINGS}))
    for name, section in changes.items():
        values[name] = {**values.get(name, {}), **section}
    return parse_config(values, "test")


def patchwork(where: Grid, seed=0):
    """Return labels in squares of 12 pixels: three classes and some without a label."""
    squares = np.random.default_rng(seed).choice([0, 1, 2, 255], (99, 99), p=[0.6, 0.25, 0.05, 0.1])
    return np.kron(squares, np.ones((12, 12)))[: where.height, : where.width].astype(np.uint8)


def deliver(folder, name="a", where=SMALL, labels=None, count=3, dtype="uint8", **options):
    """Write an orthophoto with labels, and heights in another CRS with a void and an edge."""
    x, y = (c.mean() for c in centres(where, UTM if where.crs else None))
    surface = around(x + 10, y, 120, 1.0, LAMBERT) if where.crs else where
    heights = noise(1, surface, "float32", seed=3)[0] / 10
    heights[50:70, 40:60] = -9999
    labels = patchwork(where) if labels is None else labels
    write_to(folder / f"{name}_ortho.tif", noise(count, where, dtype), where, **options)
    write_to(folder / f"{name}_dsm.tif", heights, surface, nodata=-9999)
    write_to(folder / f"{name}_labels.tif", labels, where)


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    """The folder of a tile set, and the config that it was cut with."""
    folder = tmp_path_factory.mktemp("cut")
    holes = np.ones((PLACE.height, PLACE.width), bool)
    holes[:40, :100] = False
    deliver(folder, where=PLACE, mask=holes)
    config = settings(folder)
    tile(config, folder / "tiles")
    return folder / "tiles", config


def read(folder, kept: Tile, kind):
    with rasterio.open(tile_path(folder, kept, kind)) as dataset:
        return dataset.read()


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def painted(kept, where=PLACE):
    """Count how many tiles show each pixel of a scene."""
    seen = np.zeros((where.height + SIZE, where.width + SIZE), int)
    for t in kept:
        seen[t.row : t.row + SIZE, t.col : t.col + SIZE] += 1
    return seen[: where.height, : where.width]


def test_tiles_hold_what_the_scene_shows(cut):
    folder, config = cut
    files = find_scenes(config.scenes, config.root)[0]
    with open_scene(inspect_scene(files, config.height)) as scene:
        for kept in load_tileset(folder).tiles:
            window = Window(kept.col, kept.row, SIZE, SIZE)
            shown = scene.read(window)
            patch, labels = read_tile(folder, kept, SIZE)
            truth = scene.read_labels(window, TABLE, LabelSettings()).ids
            assert np.array_equal(patch.optical, shown.optical)
            assert np.array_equal(patch.optical_valid, shown.optical_valid)
            assert np.array_equal(patch.height, shown.height)
            assert np.array_equal(patch.height_valid, shown.height_valid)
            if kept.split == "train":
                assert np.array_equal(labels, np.where(shown.optical_valid, truth, NODATA))


def test_tiles_lie_where_their_ground_is(cut):
    folder, _ = cut
    for kept in load_tileset(folder).tiles:
        for kind in ("image", "label", "height"):
            path = tile_path(folder, kept, kind)
            if kind != "height" or path.exists():
                with rasterio.open(path) as dataset:
                    expected = PLACE.at(Window(kept.col, kept.row, SIZE, SIZE))
                    assert Grid.of(dataset) == expected
                    assert dataset.nodata == {"height": -9999, "label": 255}.get(kind)


def test_labels_are_masked_and_colored(cut):
    folder, _ = cut
    tileset = load_tileset(folder)
    with rasterio.open(tile_path(folder, tileset.tiles[0], "label")) as dataset:
        assert dataset.colormap(1)[1] == (0, 255, 0, 255)
        assert dataset.colorinterp[0].name == "palette"
    for kept in tileset.tiles:
        labels, (patch, _) = read(folder, kept, "label"), read_tile(folder, kept, SIZE)
        assert (labels[0][~patch.optical_valid] == NODATA).all()
        assert kept.labelled == pytest.approx((labels != NODATA).mean())
        assert kept.valid == pytest.approx(patch.optical_valid.mean())
        if kept.split == "train":
            assert kept.valid >= 0.5
            assert kept.labelled >= 0.05


def test_the_pixel_counts_are_those_of_the_label_tiles(cut):
    folder, _ = cut
    tileset = load_tileset(folder)
    for split in SPLITS:
        values = [read(folder, t, "label").ravel() for t in tileset.of(split)]
        counts = np.bincount(np.concatenate([*values, []]).astype(int), minlength=256)
        assert list(tileset.pixels[split].values()) == [*counts[:3], counts[255]]
    assert list(tileset.pixels["train"]) == ["ground", "tree", "building", "unlabelled"]


def test_the_statistics_are_those_of_the_valid_training_pixels(cut):
    folder, _ = cut
    tileset = load_tileset(folder)
    optical, heights = [], []
    for kept in tileset.of("train"):
        with rasterio.open(tile_path(folder, kept, "image")) as dataset:
            optical.append(dataset.read()[:, dataset.dataset_mask() > 0])
        if tile_path(folder, kept, "height").exists():
            values = read(folder, kept, "height")
            heights.append(values[values != -9999])
    pixels, metres = np.concatenate(optical, axis=1), np.concatenate(heights).astype(float)
    assert tileset.optical_statistics.mean == pytest.approx(pixels.mean(axis=1))
    assert tileset.optical_statistics.std == pytest.approx(pixels.std(axis=1))
    assert tileset.height_statistics.mean == pytest.approx([metres.mean()])
    assert tileset.height_statistics.std == pytest.approx([metres.std()])


def test_validation_ground_is_a_buffer_away_from_training(cut):
    folder, _ = cut
    tileset = load_tileset(folder)
    train, held = painted(tileset.of("train")) > 0, painted(tileset.of("validation")) > 0
    near = np.zeros_like(held)
    for row, col in np.argwhere(held):
        near[max(row - BUFFER, 0) : row + BUFFER + 1, max(col - BUFFER, 0) : col + BUFFER + 1] = (
            True
        )
    assert held.any()
    assert not (near & train).any()
    assert tileset.shared_ground == 0


def test_every_labelled_validation_pixel_counts_once(cut):
    folder, config = cut
    tileset = load_tileset(folder)
    counted = np.zeros((PLACE.height, PLACE.width), int)
    for kept in tileset.of("validation"):
        labels = read(folder, kept, "label")[0]
        counted[kept.row : kept.row + SIZE, kept.col : kept.col + SIZE] += labels != NODATA
    with rasterio.open(f"{config.root}/a_ortho.tif") as dataset:
        valid = dataset.dataset_mask() > 0
    labelled = (patchwork(PLACE) != NODATA) & valid
    held = painted(tileset.of("validation")) > 0
    assert np.array_equal(counted, (labelled & held).astype(int))
    share = counted.sum() / labelled.sum()
    assert 0.15 < share < 0.35


def test_the_same_again_is_the_same(cut, tmp_path):
    folder, config = cut
    assert tile(config, tmp_path / "again") == load_tileset(folder)


def contents(folder):
    """The bytes of all files, but for the date in a GeoPackage."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".gpkg")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


ELSEWHERE = {
    "uint8": {},
    "uint16": {"dtype": "uint16"},
    "float32": {"dtype": "float32"},
    "mask": {"mask": np.arange(128)[:, None] + np.arange(160) > 70},
}


@pytest.mark.parametrize(
    ("kind", "virtual"), [*((kind, False) for kind in ELSEWHERE), ("uint8", True), ("mask", True)]
)
def test_other_processes_cut_the_same(tmp_path, kind, virtual):
    for seed, name in enumerate("ab"):
        deliver(tmp_path, name, labels=patchwork(SMALL, seed), **ELSEWHERE[kind])
    config = settings(tmp_path, height={"kind": "dsm"}, scenes={"ignore_mismatch": True})
    made = tile(config, tmp_path / "here", virtual=virtual)
    again = tile(config, tmp_path / "elsewhere", virtual=virtual, run=run_elsewhere)
    assert again == made
    assert len(again.scenes_of("train")) == 2
    assert contents(tmp_path / "elsewhere") == contents(tmp_path / "here")


def test_other_processes_cut_the_same_inside_polygons(tmp_path):
    deliver(tmp_path)
    deliver(tmp_path, "b", where=grid(160, 128, left=400_000))
    outline = shapely.buffer(shapely.Point(SMALL.transform @ (60, 50)), 15)
    pyogrio.raw.write(
        tmp_path / "split.gpkg", shapely.to_wkb(np.array([outline], object)),
        [np.array(["validation"], object)], ["split"], driver="GPKG", geometry_type="Polygon",
        crs=UTM.to_wkt(),
    )  # fmt: skip
    config = settings(tmp_path, split={"file": "split.gpkg", "buffer": 0})
    made = tile(config, tmp_path / "here")
    assert made.of("validation")
    assert tile(config, tmp_path / "elsewhere", run=run_elsewhere) == made
    assert contents(tmp_path / "elsewhere") == contents(tmp_path / "here")


@pytest.mark.parametrize("kind", ["ortho", "dsm", "labels"])
def test_other_processes_skip_the_same(tmp_path, kind):
    where = grid(256, 192)
    for name in "ab":
        deliver(tmp_path, name, where=where, labels=patchwork(where, ord(name)))
        for one in ("ortho", "dsm", "labels"):
            write_tiled(tmp_path / f"{name}_{one}.tif")
    damaged = overwrite(str(tmp_path / f"b_{kind}.tif"), 1, 1)
    config = settings(tmp_path)
    made = tile(config, tmp_path / "here", on_error="skip")
    assert made.skipped[0].pixels == damaged.width * damaged.height
    assert tile(config, tmp_path / "elsewhere", on_error="skip", run=run_elsewhere) == made
    assert contents(tmp_path / "elsewhere") == contents(tmp_path / "here")


def write_tiled(path):
    """Write a raster again in blocks of 64 pixels."""
    with rasterio.open(path) as source:
        values, profile = source.read(), source.profile
    profile.update(tiled=True, blockxsize=64, blockysize=64, compress="deflate")
    with rasterio.open(path, "w", **profile) as target:
        target.write(values)


def test_the_description_says_what_the_tiles_are(cut):
    tileset = load_tileset(cut[0])
    assert (tileset.size, tileset.overlap, tileset.dtype) == (SIZE, 16, "uint8")
    assert (tileset.crs, tileset.gsd, tileset.has_height) == ("EPSG:32632", 0.5, True)
    assert tileset.band_names == ("band 1", "band 2", "band 3")
    assert tileset.classes.names == TABLE.names
    assert tileset.height == HeightSettings(kind="ndsm")


def test_the_config_beside_the_tiles_loads_to_the_same(cut):
    folder, config = cut
    assert load_config(folder / "config.toml") == config


def test_the_index_opens_in_a_gis(cut):
    folder, _ = cut
    tileset = load_tileset(folder)
    info = pyogrio.read_info(folder / "index.gpkg")
    assert (info["features"], info["crs"], info["geometry_type"]) == (
        len(tileset.tiles), "EPSG:32632", "Polygon"
    )  # fmt: skip
    _, _, shapes, columns = pyogrio.raw.read(folder / "index.gpkg")
    by_field = dict(zip(info["fields"], columns, strict=True))
    assert by_field["name"].tolist() == [t.name for t in tileset.tiles]
    assert by_field["split"].tolist() == [t.split for t in tileset.tiles]
    for kept, outline in zip(tileset.tiles, shapely.from_wkb(shapes), strict=True):
        expected = PLACE.at(Window(kept.col, kept.row, SIZE, SIZE)).footprint
        assert outline.equals_exact(expected, 1e-6) or outline.equals(expected)


def test_nothing_else_lies_in_the_folder(cut):
    folder, _ = cut
    assert names(folder) == ["config.toml", "index.gpkg", "tileset.json", "train", "validation"]
    tileset = load_tileset(folder)
    for split in ("train", "validation"):
        expected = sorted(f"{t.name}.tif" for t in tileset.of(split))
        assert names(folder / split / "image") == expected
        sides = [f"{name}.aux.xml" for name in expected]
        assert names(folder / split / "label") == sorted([*expected, *sides])
        assert set(names(folder / split / "height")) <= set(expected)


# What goes wrong


def test_label_values_without_a_class_are_counted_and_nothing_is_left(tmp_path):
    labels = patchwork(SMALL)
    labels[100:103, 50:60] = 7
    labels[3, 3] = 9
    deliver(tmp_path, labels=labels)
    before = names(tmp_path)
    with pytest.raises(
        LabelError,
        match=r"without a class: 7 \(30 px\), 9 \(1 px\); add them .*most frequent is in scene a",
    ):
        tile(settings(tmp_path), tmp_path / "tiles")
    assert names(tmp_path) == before
    assert tile(settings(tmp_path, labels={"ignore": [7, 9, 255]}), tmp_path / "tiles").tiles


def test_no_label_at_all(tmp_path):
    deliver(tmp_path, labels=np.full((128, 160), 255, np.uint8))
    with pytest.raises(LabelError, match="no pixel of any scene has a label"):
        tile(settings(tmp_path), tmp_path / "tiles")


def test_an_output_that_exists(cut, tmp_path):
    deliver(tmp_path)
    (tmp_path / "tiles").mkdir()
    with pytest.raises(OutputError, match=r"tiles exists; pass --overwrite"):
        tile(settings(tmp_path), tmp_path / "tiles")
    first = tile(settings(tmp_path), tmp_path / "tiles", overwrite=True)
    more = settings(tmp_path, tile={"overlap": 0})
    second = tile(more, tmp_path / "tiles", overwrite=True)
    assert len(second.tiles) < len(first.tiles)
    assert load_tileset(tmp_path / "tiles") == second
    assert len(names(tmp_path / "tiles/train/image")) == len(second.of("train"))


def test_a_folder_of_something_else_is_never_replaced(tmp_path):
    deliver(tmp_path)
    with pytest.raises(OutputError, match="is not a tile set; it will not be replaced"):
        tile(settings(tmp_path), tmp_path, overwrite=True)
    assert len(names(tmp_path)) == 3


def test_an_interruption_leaves_nothing(tmp_path):
    deliver(tmp_path)

    def interrupt(done, total):
        if done >= total // 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tile(settings(tmp_path), tmp_path / "tiles", progress=interrupt)
    assert len(names(tmp_path)) == 3


def test_progress_counts_the_tiles(tmp_path):
    deliver(tmp_path)
    calls = []
    tile(settings(tmp_path), tmp_path / "tiles", progress=lambda *call: calls.append(call))
    done, totals = zip(*calls, strict=True)
    assert list(done) == sorted(set(done))
    assert set(totals) == {done[-1]}


NAMED = r"63 tiles of 32 px is left for training: all ground is named .*; no other value of split"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"split": {"buffer": 1000}},
            r"63 tiles of 32 px is left for training: 63 touch ground for validation, or its "
            r"buffer of 1000 px; split\.buffer = 0 leaves 43 of 63 tiles for training and",
        ),
        ({"split": {"test_scenes": ["a"]}}, NAMED),
        ({"split": {"validation_scenes": ["a"]}}, NAMED),
        (
            {"tile": {"size": 512}, "split": {"buffer": 0}},
            r"1 tiles of 512 px is left for training: 1 have too few valid or labelled pixels "
            r"\(tile\.min_valid = 0\.5, .*; tile\.min_valid = 0\.05 leaves 1 of 1 tiles",
        ),
    ],
)
def test_no_training_tile_left(tmp_path, changes, says):
    deliver(tmp_path)
    with pytest.raises(InputError, match="none of " + says):
        tile(settings(tmp_path, **changes), tmp_path / "tiles")
    assert len(names(tmp_path)) == 3


def test_no_validation_tile_is_a_warning(tmp_path, caplog):
    deliver(tmp_path, where=grid(60, 60))
    tileset = tile(settings(tmp_path), tmp_path / "tiles")
    assert not tileset.of("validation")
    assert "no tile for validation; " in caplog.text


@pytest.mark.parametrize("key", ["validation_scenes", "test_scenes"])
def test_the_split_names_a_scene_that_is_not_there(tmp_path, key):
    deliver(tmp_path)
    with pytest.raises(ConfigError, match=rf"split\.{key} names 'z'; the scenes are a"):
        tile(settings(tmp_path, split={key: ["z"]}), tmp_path / "tiles")


def test_labels_and_classes_are_needed(tmp_path):
    config = settings(tmp_path)
    for update in ({"scenes": None}, {"scenes": config.scenes.model_copy(update={"labels": None})}):
        with pytest.raises(ConfigError, match=r"\[scenes\] has to name"):
            tile(config.model_copy(update=update), tmp_path / "tiles")
    with pytest.raises(ConfigError, match="no classes"):
        tile(config.model_copy(update={"classes": ()}), tmp_path / "tiles")


def test_scenes_of_other_bands_are_refused_and_of_another_gsd_reported(tmp_path, caplog):
    deliver(tmp_path)
    deliver(tmp_path, "b", grid(100, 100, 0.7), count=4)
    with pytest.raises(InputError, match=r"b_ortho\.tif has 4 bands of uint8, .* has 3 of uint8"):
        tile(settings(tmp_path), tmp_path / "tiles")
    assert tile(settings(tmp_path, scenes={"bands": [3, 1]}), tmp_path / "tiles").tiles
    assert "b_ortho.tif has a GSD of 0.7 m" in caplog.text
    deliver(tmp_path, "b", count=3, dtype="uint16")
    with pytest.raises(InputError, match="has 3 bands of uint16"):
        tile(settings(tmp_path), tmp_path / "more")


def test_scenes_are_resampled_to_the_gsd_that_is_asked_for(tmp_path, caplog):
    deliver(tmp_path)
    deliver(tmp_path, "b", grid(200, 200, 0.7))
    config = settings(tmp_path, tile={"gsd": 1.0, "size": 32, "overlap": 0, "min_valid": 0})
    made = tile(config, tmp_path / "tiles")
    virtual = tile(config, tmp_path / "virtual", virtual=True)
    assert "has a GSD" not in caplog.text
    assert made.gsd == virtual.gsd == 1.0
    with (
        TileReader(tmp_path / "tiles", made) as cut_,
        TileReader(tmp_path / "virtual", virtual) as seen,
    ):
        for one, other in zip(made.tiles, virtual.tiles, strict=True):
            (patch, labels), (same, again) = cut_.read(one), seen.read(other)
            assert np.array_equal(labels, again)
            assert all(np.array_equal(a, b) for a, b in zip(patch, same, strict=True))
    # Both scenes, whose pixels are of 0.5 and 0.7 m, are covered by tiles of 32 m.
    assert {(t.scene, t.row, t.col) for t in made.tiles} >= {("a", 0, 0), ("b", 64, 64)}


# Labels


LONE = [{"id": 0, "name": "building", "values": [1]}]


def lone(folder, shown, **changes):
    """Return a config with one scene; changes replace classes or whole sections."""
    deliver(folder, labels=shown.astype(np.uint8))
    return parse_config({"root": str(folder), **SETTINGS, **changes}, "test")


@pytest.mark.parametrize(
    ("classes", "labels"),
    [
        (LONE, {}),
        (LONE, {"ignore": [0]}),
        ([*LONE, {"id": 1, "name": "other", "values": [7]}], {"absent": ["other"]}),
    ],
)
def test_one_class_only_cannot_be_learnt(tmp_path, classes, labels):
    values = np.where(patchwork(SMALL) == 1, 1, 0 if "ignore" in labels else 255)
    config = lone(tmp_path, values, classes=classes, labels=labels)
    with pytest.raises(LabelError, match=r"one class only, 'building'.*unlabelled = 'other'"):
        tile(config, tmp_path / "tiles")


def test_the_remedy_for_one_class(tmp_path):
    classes = [*LONE, {"id": 1, "name": "other"}]
    values = np.where(patchwork(SMALL) == 1, 1, 255)
    config = lone(tmp_path, values, classes=classes, labels={"unlabelled": "other"})
    found = tile(config, tmp_path / "tiles").pixels["train"]
    assert found["other"] > found["building"] > 0


def test_training_tiles_of_one_class(tmp_path):
    values = np.zeros((SMALL.height, SMALL.width))
    values[:, 120:] = 1
    (tmp_path / "split.csv").write_text("scene,split\na,train\nb,validation\n")
    deliver(tmp_path, "b", moved(SMALL, 999, 0), values.astype(np.uint8))
    changes = {"classes": SETTINGS["classes"][:2], "split": {"file": str(tmp_path / "split.csv")}}
    config = lone(tmp_path, values * 0, **changes)
    with pytest.raises(LabelError, match=r"training tiles show one class only, 'ground'.*split"):
        tile(config, tmp_path / "tiles")


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        ([{"id": 0, "name": "other", "values": [0]}], "give to 'other': they count as 'other'"),
        ([{"id": 0, "name": "other"}], "the id of 'other': they are left out"),
    ],
)
def test_nodata_of_a_class_is_told_with_its_pixels(tmp_path, caplog, classes, said):
    values = patchwork(SMALL)
    values[values == 255] = 2
    classes = [*classes, {"id": 1, "name": "tree"}, {"id": 2, "name": "house"}]
    config = lone(tmp_path, values, classes=classes, labels={"absent": ["other"]})
    write_to(tmp_path / "a_labels.tif", values, SMALL, nodata=0)
    found = tile(config, tmp_path / "tiles").pixels["train"]["other"]
    assert (found > 0) == ("count as" in said)
    (message,) = [r.getMessage() for r in caplog.records if "nodata" in r.getMessage()]
    assert message.startswith(f"{(values == 0).sum():,} label pixels are 0, which their raster")
    assert said in message


def test_measurements_are_no_labels(tmp_path):
    config = lone(tmp_path, patchwork(SMALL))
    heights = np.linspace(0, 90, SMALL.width * SMALL.height).reshape(SMALL.height, SMALL.width)
    write_to(tmp_path / "a_labels.tif", heights.astype("float32"), SMALL)
    with pytest.raises(LabelError, match=r"label values without a class: .* more") as error:
        tile(config, tmp_path / "tiles")
    assert len(str(error.value)) < 500


def test_a_label_raster_that_names_its_classes(tmp_path):
    config = lone(tmp_path, patchwork(SMALL), classes=[])
    with pytest.raises(ConfigError, match=r"^no classes: the config needs one \[\[classes\]\] row"):
        tile(config, tmp_path / "tiles")
    text = "<CategoryNames><Category>bare</Category><Category>tree</Category></CategoryNames>"
    (tmp_path / "a_labels.tif.aux.xml").write_text(
        f'<PAMDataset><PAMRasterBand band="1">{text}</PAMRasterBand></PAMDataset>'
    )
    rows = '{ id = 0, name = "bare", values = [0] }, { id = 1, name = "tree", values = [1] }'
    with pytest.raises(ConfigError, match=re.escape(f"classes = [{rows}]") + "$"):
        tile(config, tmp_path / "tiles")


# Other scenes


def test_color_labels_are_counted_like_ids(cut, tmp_path, caplog):
    ids = patchwork(SMALL)
    rgb = TABLE.paint(ids)
    rgb[ids == NODATA] = 0
    rgb[5, 5:9] = np.clip(rgb[5, 5:9].astype(int) - 3, 2, 252)
    deliver(tmp_path, labels=rgb.transpose(2, 0, 1))
    labels = {"encoding": "colors", "ignore_colors": ["#000000"]}
    tileset = tile(settings(tmp_path, labels=labels), tmp_path / "tiles")
    deliver(tmp_path, "a", labels=ids)
    plain = tile(settings(tmp_path), tmp_path / "plain")
    assert tileset.pixels == plain.pixels
    assert (
        "4 label pixels had no exact class colour and got the class of the nearest one: #"
    ) in caplog.text


def test_whole_scenes_validate_and_test(tmp_path):
    for index, name in enumerate("abc"):
        deliver(tmp_path, name, grid(70, 50, left=300_000 + 1000 * index))
    split = {"validation_scenes": ["b"], "test_scenes": ["c"]}
    tileset = tile(settings(tmp_path, split=split), tmp_path / "tiles")
    where = {s: {t.scene for t in tileset.of(s)} for s in SPLITS}
    assert where == {"train": {"a"}, "validation": {"b"}, "test": {"c"}}
    assert tileset.shared_ground == 0
    labelled = int((patchwork(grid(70, 50)) != NODATA).sum())
    for name in ("validation", "test"):
        assert sum(tileset.pixels[name].values()) - tileset.pixels[name]["unlabelled"] == labelled


def test_the_test_scenes_are_not_validated_on(tmp_path):
    deliver(tmp_path)
    deliver(tmp_path, "b", grid(128, 128, left=310_000))
    tileset = tile(settings(tmp_path, split={"test_scenes": ["b"]}), tmp_path / "tiles")
    assert {t.scene for t in tileset.of("validation")} == {"a"}
    assert {t.scene for t in tileset.of("test")} == {"b"}


def two_overlapping(folder, crs=UTM, identity=False):
    """Scene b begins 100 pixels right of and 40 below scene a."""
    where = grid(160, 128, crs=crs)
    shifted = where.at(Window(100, 40, 160, 128))
    if identity:
        where = shifted = Grid(None, rasterio.Affine.identity(), 160, 128)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        deliver(folder, "a", where)
        deliver(folder, "b", shifted)
    split = {"validation_scenes": ["b"]}
    scenes = {**SETTINGS["scenes"], "elevation": None}
    return tile(settings(folder, split=split, scenes=scenes), folder / "tiles")


@pytest.mark.parametrize("crs", [UTM, None])
def test_ground_that_another_scene_validates_on_does_not_train(tmp_path, crs, caplog):
    tileset = two_overlapping(tmp_path, crs)
    common = grid(300, 200)
    moved = [
        t.model_copy(update={"row": t.row + 40, "col": t.col + 100})
        for t in tileset.of("validation")
    ]
    validation = painted(moved, common) > 0
    assert not (painted(tileset.of("train"), common) > 0)[validation].any()
    assert tileset.shared_ground == 0
    planned = [(row, col) for row in range(0, 97, 16) for col in range(0, 129, 16)]
    lost = [(r, c) for r, c in planned if r + SIZE > 40 and c + SIZE > 100]
    assert {(t.row, t.col) for t in tileset.of("train")} == set(planned) - set(lost)
    assert f"{len(lost)} training tiles are left out: other scenes validate" in caplog.text


def test_a_tile_shows_no_ground_beyond_its_scene(tmp_path):
    deliver(tmp_path, "a", SMALL.at(Window(0, 0, 20, 40)))
    deliver(tmp_path, "b", SMALL.at(Window(20, 0, 60, 40)))
    split = {"validation_scenes": ["b"]}
    tileset = tile(settings(tmp_path, split=split), tmp_path / "tiles")
    assert tileset.shared_ground == 0


def test_the_index_of_scenes_in_several_crs(tmp_path):
    deliver(tmp_path, "a", around(300_000, 5_200_000, 60, 0.5, UTM))
    deliver(tmp_path, "b", around(301_000, 5_200_000, 60, 0.5, LAMBERT))
    tile(settings(tmp_path, split={"validation_scenes": ["b"]}), tmp_path / "tiles")
    assert pyogrio.read_info(tmp_path / "tiles/index.gpkg")["crs"] == "EPSG:4326"


def test_scenes_of_plain_pixels_share_no_ground(tmp_path, caplog):
    tileset = two_overlapping(tmp_path, identity=True)
    assert tileset.shared_ground == 0
    assert "scenes overlap" not in caplog.text
    assert tileset.crs == "pixel coordinates (no CRS)"


def test_a_scene_without_elevation(tmp_path):
    deliver(tmp_path)
    scenes = {**SETTINGS["scenes"], "elevation": None}
    tileset = tile(settings(tmp_path, scenes=scenes), tmp_path / "tiles")
    assert not tileset.has_height
    assert tileset.height_statistics == statistics.Statistics(mean=(0.0,), std=(1.0,))
    assert names(tmp_path / "tiles/train/height") == []
    patch, _ = read_tile(tmp_path / "tiles", tileset.tiles[0], SIZE)
    assert not patch.height_valid.any()


def test_a_scene_smaller_than_a_tile(tmp_path):
    where = grid(20, 25)
    deliver(tmp_path, where=where)
    config = settings(tmp_path, tile={"min_valid": 0.3}, labels={"absent": ["building"]})
    (kept,) = tile(config, tmp_path / "tiles").tiles
    assert (kept.row, kept.col, kept.split) == (0, 0, "train")
    assert kept.valid == pytest.approx(20 * 25 / 32**2)
    patch, labels = read_tile(tmp_path / "tiles", kept, SIZE)
    assert patch.optical_valid[:25, :20].all()
    assert patch.optical_valid.sum() == 500
    assert np.array_equal(labels[:25, :20], patchwork(where))
    assert (labels[25:] == NODATA).all()


def test_four_bands_of_bytes_stay_four(tmp_path):
    deliver(tmp_path, count=4)
    tileset = tile(settings(tmp_path), tmp_path / "tiles")
    assert len(tileset.band_names) == len(tileset.optical_statistics.mean) == 4
    patch, _ = read_tile(tmp_path / "tiles", tileset.tiles[0], SIZE)
    assert patch.optical.shape == (4, SIZE, SIZE)
    assert patch.optical_valid.all()


def test_folders_with_special_characters(tmp_path):
    folder = tmp_path / "[x] (y) {id}"
    deliver(folder)
    tileset = tile(settings(folder), folder / "tiles")
    assert load_tileset(folder / "tiles") == tileset
    assert pyogrio.read_info(folder / "tiles/index.gpkg")["features"] == len(tileset.tiles)
