"""``--on-error skip``: what cannot be read is nodata in every output, counted, and exit code 3."""

import itertools
import os
import re
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio

from cafe_cli.config.load import dump_config
from cafe_cli.config.schema import PredictSettings
from cafe_cli.errors import InputError, OutputError
from cafe_cli.inference.job import PredictInput
from cafe_cli.raster.window import Window
from cafe_cli.tilesets.make import tile
from cafe_cli.tilesets.tileset import load_tileset
from tests.support.damage import cut_off, overwrite
from tests.support.engines import predict, settings, town, write
from tests.support.rasters import read

pytest_plugins = ["tests.support.fixtures"]

SIDE = 256
TILED = {"tiled": True, "blockxsize": 64, "blockysize": 64}
STRIPED = {"tiled": False, "blockysize": 16}
PRODUCTS = ("confidence", "probabilities", "quality")


@pytest.fixture
def scene(tmp_path):
    """An image and heights in small blocks."""
    return make_scene(tmp_path)


def make_scene(folder, compress="deflate", layout=TILED, name="town"):
    image, metres, _ = town(SIDE, SIDE)
    return PredictInput(
        (write(folder / f"{name}.tif", image, compress=compress, **layout),),
        (write(folder / f"{name}_dsm.tif", metres, compress=compress, **layout),),
        on_error="skip",
    )


def outputs(folder):
    folder.mkdir(exist_ok=True)
    return folder / "map.tif", {name: folder / f"{name}.tif" for name in PRODUCTS}


def masked(*windows):
    mask = np.zeros((SIDE, SIDE), bool)
    for window in windows:
        mask[window.slices()] = True
    return mask


@pytest.mark.parametrize(
    ("damaged", "layout", "compress"),
    [
        ("optical", TILED, "deflate"), ("optical", STRIPED, "lzw"), ("optical", TILED, "zstd"),
        ("elevation", STRIPED, "deflate"), ("elevation", TILED, "lzw"),
        ("elevation", STRIPED, "zstd"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_nodata_in_every_output(compress, layout, damaged, model, tmp_path):
    source = make_scene(tmp_path, compress, layout)
    (path,) = getattr(source, damaged)
    bad = masked(overwrite(path, 0, 1), overwrite(path, 0, 2))
    labels, others = outputs(tmp_path / "out")
    meter = predict(model, source, labels, **others)
    for output in (labels, *others.values()):
        assert np.array_equal((read(output) == 255).all(axis=0), bad), output
    (file,) = meter.skipped
    assert (file.file, file.pixels, file.total, file.windows) == (path, bad.sum(), SIDE**2, 2)


@pytest.mark.parametrize("damaged", ["optical", "elevation"])
def test_by_default_it_is_an_error_that_names_file_and_window(damaged, model, scene, tmp_path):
    (path,) = getattr(scene, damaged)
    overwrite(path, 1, 2)
    said = rf"cannot read {path} at column \d+, row \d+: .* window of \d+ x \d+ pixels"
    labels, _ = outputs(tmp_path / "out")
    with pytest.raises(InputError, match=said):
        predict(model, replace(scene, on_error="fail"), labels)
    assert list(labels.parent.iterdir()) == []


def test_whole_files_make_the_same_map_and_say_nothing(model, scene, tmp_path, caplog):
    caplog.set_level("WARNING", logger="cafe")
    written = []
    for on_error in ("fail", "skip"):
        labels, others = outputs(tmp_path / on_error)
        meter = predict(model, replace(scene, on_error=on_error), labels, **others)
        assert meter.skipped == ()
        assert "skipped" not in tomllib.loads(Path(f"{labels}.toml").read_text())
        written.append([path.read_bytes() for path in (labels, *others.values())])
    assert written[0] == written[1]
    assert caplog.text == ""


@pytest.mark.parametrize("damaged", ["optical", "elevation"])
def test_the_bytes_do_not_depend_on_how_it_was_computed(damaged, model, scene, tmp_path):
    (path,) = getattr(scene, damaged)
    overwrite(path, 2, 1)
    cut_off(path, 1, 3)
    written = []
    for number, (jobs, batch) in enumerate([(1, 1), (4, 1), (3, 5)]):
        labels, others = outputs(tmp_path / f"{number}")
        windows = PredictSettings(window=64, overlap=32, batch_size=batch)
        predict(model, scene, labels, jobs=jobs, settings=windows, **others)
        written.append([p.read_bytes() for p in (labels, *others.values())])
    assert written[0] == written[1] == written[2]


def test_heights_on_another_grid_with_an_estimated_ground(model, tmp_path):
    image, metres, _ = town(SIDE, SIDE)
    optical = write(tmp_path / "town.tif", image)
    metres = np.kron(metres + 300, np.ones((2, 2), np.float32)).astype(np.float32)
    dsm = write(tmp_path / "dsm.tif", metres, pixel=0.25, compress="lzw", **TILED)
    bad = overwrite(dsm, 5, 5)
    source = PredictInput((optical,), (dsm,), height_kind="dsm", on_error="skip")
    written = []
    for jobs in (1, 4):
        labels, others = outputs(tmp_path / f"{jobs}")
        (file,) = predict(model, source, labels, jobs=jobs, **others).skipped
        assert (file.file, file.pixels, file.bounds) == (
            dsm, 64 * 64, (bad.col, bad.row, bad.width, bad.height),
        )  # fmt: skip
        lost = read(labels)[0] == 255
        assert lost[bad.row // 2 : bad.bottom // 2, bad.col // 2 : bad.right // 2].all()
        assert not lost.all()
        written.append([path.read_bytes() for path in (labels, *others.values())])
    assert written[0] == written[1]


def test_behind_a_virtual_raster(model, scene, tmp_path):
    (path,) = scene.optical
    bad = masked(overwrite(path, 0, 0))
    virtual = tmp_path / "town.vrt"
    rasterio.shutil.copy(path, virtual, driver="VRT")
    labels, others = outputs(tmp_path / "out")
    (file,) = predict(model, replace(scene, optical=(str(virtual),)), labels, **others).skipped
    assert file.file == str(virtual)
    assert (read(labels)[0] == 255)[bad].all()
    with pytest.raises(InputError, match=r"town\.vrt .*town\.tif, band 1"):
        predict(model, replace(scene, optical=(str(virtual),), on_error="fail"), tmp_path / "b.tif")


def test_the_command_line_says_it_last_and_exits_with_3(model, scene, tmp_path, invoke):
    bad = overwrite(scene.optical[0], 1, 1)
    labels, _ = outputs(tmp_path / "out")
    words = (
        "predict", model, "--optical", scene.optical[0], "--elevation", scene.elevation[0],
        "-o", labels,
    )  # fmt: skip
    assert invoke(*words)[0] == 1
    code, captured = invoke(*words, "--on-error", "skip")
    assert code == 3
    last = captured.err.splitlines()[-1]
    assert re.search(
        r"is incomplete, since files could not be read: 4,096 pixels \(6\.2 %\) of .*town\.tif in "
        r"1 window within column 64, row 64, 64 x 64 pixels",
        last,
    )
    (noted,) = tomllib.loads(Path(f"{labels}.toml").read_text())["skipped"]
    assert noted == {
        "file": scene.optical[0], "pixels": 4096, "total": SIDE**2, "windows": 1,
        "bounds": [bad.col, bad.row, bad.width, bad.height],
    }  # fmt: skip
    with rasterio.open(labels) as dataset:
        assert dataset.tags()["CAFE_SKIPPED"].startswith("4,096 pixels (6.2 %) of ")
    code, captured = invoke(*words, "--on-error", "skip", "--resume")
    assert code == 1
    assert (
        "exists and is incomplete, since files could not be read; pass --overwrite"
    ) in captured.err


def test_per_file_goes_on_and_names_the_damaged_one(model, tmp_path, invoke):
    for number in range(3):
        make_scene(tmp_path, name=f"town{number}")
    overwrite(str(tmp_path / "town1.tif"), 0, 1)
    words = (
        "predict", model, "--per-file", "--optical", tmp_path / "town[0-9].tif", "--elevation",
        tmp_path / "town0_dsm.tif", "-o", tmp_path / "out", "--on-error", "skip",
    )  # fmt: skip
    code, captured = invoke(*words)
    assert code == 3
    assert "town1.tif" in captured.err.splitlines()[-1]
    lost = [(read(tmp_path / "out" / f"town{n}.tif") == 255).sum() for n in range(3)]
    assert lost == [0, 64 * 64, 0]


def test_strips_that_may_lack_pixels_are_made_again(model, scene, tmp_path, monkeypatch):
    """A run is interrupted; then the file is mended, and its size and time are the old ones."""
    path = Path(scene.optical[0])
    content, times = path.read_bytes(), (path.stat().st_atime_ns, path.stat().st_mtime_ns)
    windows = PredictSettings(window=64, overlap=32)
    monkeypatch.setattr("cafe_cli.inference.tiling._STRIP", 32 * SIDE)
    monkeypatch.setattr("cafe_cli.inference.window_reader._PIECE", 64 * SIDE)
    whole, others = outputs(tmp_path / "whole")
    predict(model, scene, whole, settings=windows, **others)
    overwrite(str(path), 1, 2)
    os.utime(path, ns=times)

    def stop(meter):
        if meter.windows > 40:
            raise KeyboardInterrupt

    labels, others = outputs(tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        predict(model, scene, labels, settings=windows, progress=stop, jobs=1, **others)
    _, *listed = (labels.parent / ".map.tif.strips/journal.jsonl").read_text().splitlines()
    assert 0 < len(listed) < 5
    path.write_bytes(content)
    os.utime(path, ns=times)
    meter = predict(model, scene, labels, settings=windows, resume=True, **others)
    assert meter.skipped == ()
    assert labels.read_bytes() == whole.read_bytes()


# Mosaic


@pytest.fixture
def maps(tmp_path):
    """Two label rasters that overlap by half, with their confidences."""
    names = []
    for number in range(2):
        values = np.full((1, SIDE, SIDE), number, np.uint8)
        values[:, ::2] = 2
        tags = {"compress": "lzw", **TILED}
        names.append(
            write(tmp_path / f"m{number}.tif", values, (number * 128, 0), nodata=255, **tags)
        )
    return names


def test_mosaic_takes_what_cannot_be_read_for_nodata(maps, tmp_path, invoke):
    only, shared = overwrite(maps[0], 0, 1), overwrite(maps[0], 3, 1)
    output = tmp_path / "out" / "mosaic.tif"
    output.parent.mkdir()
    code, captured = invoke("mosaic", *maps, "-o", output)
    assert code == 1
    assert re.search(r"m0\.tif at column 0, row 0: .* window of 256 x 256 pixels", captured.err)
    assert list(output.parent.iterdir()) == []
    code, captured = invoke(
        "mosaic", *maps, "-o", output, "--method", "first", "--on-error", "skip"
    )
    assert code == 3
    assert "8,192 pixels (12.5 %) of " in captured.err.splitlines()[-1]
    values = read(output)[0]
    assert (values[only.slices()] == 255).all()
    assert np.array_equal(values[shared.slices()], read(maps[1])[0][64:128, 64:128])
    lost = np.zeros(values.shape, bool)
    lost[only.slices()] = True
    assert np.array_equal(values == 255, lost)
    assert tomllib.loads(Path(f"{output}.toml").read_text())["skipped"][0]["windows"] == 2
    with rasterio.open(output) as dataset:
        assert "m0.tif" in dataset.tags()["CAFE_SKIPPED"]


def test_mosaic_of_a_file_that_was_cut_off(maps, tmp_path, invoke):
    cut_off(maps[1], 0, 2)
    output = tmp_path / "mosaic.tif"
    code, _ = invoke("mosaic", *maps, "-o", output, "--method", "last", "--on-error", "skip")
    assert code == 3
    values = read(output)[0]
    assert (values[192:, 256:] == 255).all()
    assert (values[:, :256] != 255).all()
    assert (values[:128] != 255).all()


def test_a_label_stays_where_only_its_confidence_is_lost(maps, tmp_path, invoke):
    sure = [str(tmp_path / f"c{number}.tif") for number in range(2)]
    for number, path in enumerate(sure):
        values = np.full((1, SIDE, SIDE), 50 + number, np.uint8)
        write(Path(path), values, (number * 128, 0), nodata=255, compress="deflate", **TILED)
    alone, shared = overwrite(sure[0], 0, 0), overwrite(sure[0], 2, 0)
    output, beside = tmp_path / "mosaic.tif", tmp_path / "sure.tif"
    given = [word for path in sure for word in ("--confidence", path)]
    code, captured = invoke(
        "mosaic", *maps, *given, "-o", output, "--method", "confidence", "--confidence-output",
        beside, "--on-error", "skip",
    )  # fmt: skip
    assert code == 3
    assert "8,192 pixels (12.5 %) of " in captured.err.splitlines()[-1]
    labels, known = read(output)[0], read(beside)[0]
    assert np.array_equal(labels[alone.slices()], read(maps[0])[0][alone.slices()])
    assert (known[alone.slices()] == 255).all()
    assert (known[shared.slices()] == 51).all()
    assert (known == 255).sum() == 64 * 64


def test_a_warped_input_of_a_mosaic(maps, tmp_path, invoke):
    overwrite(maps[1], 1, 1)
    output = tmp_path / "mosaic.tif"
    words = ("mosaic", maps[1], "-o", output, "--resolution", "0.41")
    code, captured = invoke(*words)
    assert code == 1
    found = re.search(r"column (\d+), row (\d+): .* of (\d+) x (\d+) pixels", captured.err)
    assert Window(*map(int, found.groups())).intersection(Window(64, 64, 64, 64))
    code, captured = invoke(*words, "--on-error", "skip")
    assert code == 3
    assert "4,096 pixels (6.2 %) of" in captured.err.splitlines()[-1]


def test_an_output_that_lacks_pixels_is_not_complete(model, scene, tmp_path):
    overwrite(scene.optical[0], 1, 1)
    labels, _ = outputs(tmp_path / "out")
    predict(model, scene, labels)
    with pytest.raises(OutputError, match="is incomplete, since files could not be read"):
        predict(model, scene, labels, resume=True)
    predict(model, scene, labels, overwrite=True)


# Tile


@pytest.fixture
def towns(tmp_path):
    """Two scenes whose files have blocks of 64 pixels; `a` trains, `b` validates."""
    for number, name in enumerate("ab"):
        image, metres, labels = town(SIDE, SIDE, seed=number)
        streams = {"ortho": image, "dsm": metres, "labels": labels}
        for kind, values in streams.items():
            path, void = tmp_path / f"{name}_{kind}.tif", 255 if kind == "labels" else None
            place = (0, 1000 * number)
            write(path, values, place, nodata=void, compress="deflate", **TILED)
    return tmp_path


def make_tiles(folder, output, **options):
    names = {
        f"scenes__{stream}": str(folder / f"{{id}}_{kind}.tif")
        for stream, kind in (("optical", "ortho"), ("elevation", "dsm"), ("labels", "labels"))
    }
    config = settings(**names, **options.pop("changes", {}))
    return tile(config, output, **options)


@pytest.mark.parametrize("kind", ["ortho", "dsm", "labels"])
@pytest.mark.parametrize("virtual", [False, True])
def test_tiles_that_show_what_cannot_be_read_are_left_out(kind, virtual, towns, tmp_path, caplog):
    whole = make_tiles(towns, tmp_path / "whole")
    path = str(towns / f"a_{kind}.tif")
    bad = overwrite(path, 1, 2)
    with pytest.raises(InputError, match=rf"cannot read {path} at column"):
        make_tiles(towns, tmp_path / "tiles")
    assert not (tmp_path / "tiles").exists()
    made = [
        make_tiles(towns, tmp_path / f"{jobs}", on_error="skip", virtual=virtual, jobs=jobs)
        for jobs in (1, 4)
    ]
    left_out = {t.name for t in whole.tiles} - {t.name for t in made[0].tiles}
    assert left_out == {f"a_{bad.row:06d}_{bad.col:06d}"}
    assert [(f.file, f.pixels) for f in made[0].skipped] == [(path, 64 * 64)]
    assert made[0].tiles == made[1].tiles
    assert made[0].optical_statistics == made[1].optical_statistics
    told = f"1 of {len(whole.tiles)} tiles are left out" in caplog.text
    assert told == (kind != "labels")  # without labels, the tile is not even planned
    assert load_tileset(tmp_path / "1").skipped == made[0].skipped


def test_lost_labels_are_no_unlabelled_ground(towns, tmp_path):
    whole = make_tiles(towns, tmp_path / "whole")
    overwrite(str(towns / "a_labels.tif"), 1, 2)
    changes = {"labels__unlabelled": "ground"}
    made = make_tiles(towns, tmp_path / "tiles", on_error="skip", changes=changes)
    assert len(made.tiles) == len(whole.tiles) - 1
    assert sum(made.pixels["train"].values()) == (len(whole.of("train")) - 1) * 64 * 64


def test_whole_files_make_the_same_tile_set(towns, tmp_path):
    for on_error in ("fail", "skip"):
        make_tiles(towns, tmp_path / on_error, on_error=on_error)
    texts = [(tmp_path / name / "tileset.json").read_bytes() for name in ("fail", "skip")]
    assert texts[0] == texts[1]
    assert b"skipped" not in texts[0]


def test_a_tile_set_without_training_tiles_is_an_error(towns, tmp_path):
    path = towns / "a_ortho.tif"
    for column, row in itertools.product(range(4), range(4)):
        if (column, row) != (0, 0):  # what the samples see
            overwrite(str(path), column, row)
    overwrite(str(towns / "a_dsm.tif"), 0, 0)
    with pytest.raises(InputError, match=r"no training tile is left: .* pixels .* of .*a_dsm\.tif"):
        make_tiles(towns, tmp_path / "tiles", on_error="skip")
    assert not (tmp_path / "tiles").exists()


def test_the_command_tile_exits_with_3(towns, tmp_path, invoke):
    overwrite(str(towns / "b_dsm.tif"), 3, 3)
    config = tmp_path / "config.toml"
    config.write_text(dump_config(settings()))
    code, captured = invoke("tile", "-c", config, "-o", tmp_path / "tiles", "--on-error", "skip")
    assert code == 3
    last = captured.err.splitlines()[-1]
    assert "tiles is incomplete, since files could not be read: 4,096 pixels (6.2 %) of" in last
    assert "b_dsm.tif in 1 window within column 192, row 192, 64 x 64 pixels" in last
