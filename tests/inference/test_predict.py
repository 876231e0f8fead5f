import hashlib
import json
import os
import sys
import tomllib
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
import torch
from torch import nn

from cafe_cli.classes import ClassTable, LandClass
from cafe_cli.config.schema import HeightSettings, PredictSettings
from cafe_cli.errors import (
    BandError,
    CafeError,
    ConfigError,
    GridError,
    ModelFileError,
    OutputError,
)
from cafe_cli.inference import tiling
from cafe_cli.inference.blending import window_weights
from cafe_cli.inference.job import PredictInput
from cafe_cli.model import model_file, onnx_file, stored
from cafe_cli.model.architecture import Architecture
from cafe_cli.model.card import ModelCard
from cafe_cli.model.stored import StoredModel
from cafe_cli.raster import mosaic_view
from cafe_cli.raster.window import offsets
from cafe_cli.raster.writer import read_classes
from tests.support.engines import PIXEL, TABLE, UTM, card_of, predict, tiny_model, town, write

pytest_plugins = ["tests.support.fixtures"]


class Pointwise(nn.Module):
    """A network that looks at one pixel only, in numbers that leave no room for rounding."""

    architecture = SimpleNamespace(classes=4, heights=True)
    weights = np.array([[2, -1, 0, 3], [-1, 2, 1, -3], [0, -2, 3, 1], [1, 1, -2, -1]])

    def __init__(self):
        super().__init__()
        self.register_buffer("optical_mean", torch.zeros(3))
        self.register_buffer("optical_std", torch.ones(3))
        self.register_buffer("height_mean", torch.zeros(1))
        self.register_buffer("height_std", torch.ones(1))

    def deployed(self):
        return self

    def forward(self, optical, optical_valid, height, height_valid):
        assert optical.shape[-2] % 32 == 0
        assert optical.shape[-1] % 32 == 0
        x = torch.cat([optical, height], dim=1)
        kernel = torch.tensor(self.weights[:, : x.shape[1]], dtype=torch.float32)
        bias = torch.arange(4.0) / 4
        return nn.functional.conv2d(x, kernel[:, :, None, None], bias) / 16

    def direct(self, image, metres):
        """Return class and confidence of every pixel."""
        x = np.concatenate([image, metres]).astype(np.float64)
        logits = np.einsum("kc,chw->khw", self.weights, x) + np.arange(4).reshape(4, 1, 1) / 4
        exponentials = np.exp((logits - logits.max(axis=0)) / 16)
        return logits.argmax(axis=0), 100 / exponentials.sum(axis=0)


@pytest.fixture
def pointwise(monkeypatch, tmp_path_factory) -> Path:
    """Put a network in place of what any model file holds."""
    table = ClassTable(tuple(LandClass(i, f"class {i}", f"#0{i}0000") for i in range(4)))
    card = ModelCard(
        architecture=Architecture(4, 3), classes=table, dtype="uint8", gsd=PIXEL,
        band_names=("red", "green", "blue"), height=HeightSettings(kind="ndsm", fill=0), window=64,
        epoch=1, scores=None, config={},
    )  # fmt: skip
    monkeypatch.setattr(model_file, "load", lambda path: (Pointwise(), card))
    monkeypatch.setattr(stored, "read_model", lambda path: StoredModel(path, card, 1, {}))
    monkeypatch.setattr(onnx_file, "available", lambda: False)  # a graph of one layer is none
    path = tmp_path_factory.mktemp("model") / "pointwise.safetensors"
    path.write_bytes(b"for its hash only")
    return path


def numbers(height: int, width: int, seed: int = 0):
    random = np.random.default_rng(seed)
    image = random.integers(0, 256, (3, height, width), dtype=np.uint8)
    return image, random.integers(0, 40, (1, height, width)).astype(np.float32)


def scene(folder: Path, image, metres=None, **profile) -> PredictInput:
    optical = write(folder / "ortho.tif", image, **profile)
    return PredictInput((optical,), () if metres is None else (write(folder / "dsm.tif", metres),))


def read(path: Path):
    with rasterio.open(path) as dataset:
        return dataset.read(1)


SHAPES = [
    (777, 1000), (1024, 1024), (513, 512), (300, 200), (100, 1000), (1, 1), (1, 97), (97, 1),
    (64, 64), (65, 64), (64, 65),
]  # fmt: skip
GRIDS = [(64, 32), (64, 0), (32, 0), (128, 96), (256, 64), (512, 256)]


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("windows", [(256, 64), (64, 32)], ids=str)
def test_stitching(tmp_path, pointwise, shape, windows):
    check_stitching(tmp_path, pointwise, shape, windows)


@pytest.mark.slow
@pytest.mark.parametrize("windows", GRIDS, ids=str)
@pytest.mark.parametrize("scores", [1, 300_000, 10**9])
def test_bands_of_columns(tmp_path, pointwise, monkeypatch, windows, scores):
    monkeypatch.setattr(tiling, "_MEMORY", scores)
    check_stitching(tmp_path, pointwise, (200, 333), windows)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(130, 131), (1, 97), (65, 64)], ids=str)
@pytest.mark.parametrize("blend", ["hann", "gaussian", "crop"])
@pytest.mark.parametrize("overlap", [0, 32])
def test_ways_to_blend(tmp_path, pointwise, blend, overlap, shape):
    check_stitching(tmp_path, pointwise, shape, (64, overlap), blend=blend)


@pytest.mark.parametrize("tta", ["flips", "d4"])
def test_tta_of_a_pixelwise_model(tmp_path, pointwise, tta):
    check_stitching(tmp_path, pointwise, (70, 100), (64, 32), tta=tta)


def check_stitching(folder, model, shape, windows, **more) -> None:
    image, metres = numbers(*shape)
    settings = PredictSettings(window=windows[0], overlap=windows[1], **more)
    out, sure = folder / "map.tif", folder / "sure.tif"
    calls = []
    predict(
        model, scene(folder, image, metres), out, confidence=sure, settings=settings,
        progress=lambda meter: calls.append((meter.windows, meter.total)),
    )  # fmt: skip
    labels, confidence = Pointwise().direct(image, metres)
    assert np.array_equal(read(out), labels)
    assert np.abs(read(sure) - confidence).max() <= 0.51
    assert calls == sorted(calls)
    assert calls[-1][0] == calls[-1][1]


def test_default_windows(tmp_path, pointwise):
    image, metres = numbers(70, 100)
    predict(pointwise, scene(tmp_path, image, metres), tmp_path / "map.tif")
    assert np.array_equal(read(tmp_path / "map.tif"), Pointwise().direct(image, metres)[0])
    described = tomllib.loads((tmp_path / "map.tif.toml").read_text())
    assert described["predict"]["window"] == 64
    assert described["predict"]["overlap"] == 32


@pytest.mark.parametrize(("window", "overlap"), [(500, "auto"), (512, 100), (512, 512), (64, 96)])
def test_windows_off_the_stride(tmp_path, pointwise, window, overlap):
    image, metres = numbers(70, 100)
    settings = PredictSettings(window=window, overlap=overlap)
    source = scene(tmp_path, image, metres)
    with pytest.raises(ConfigError, match=r"multiples of 32 .* e\.g\. --window \d+ --overlap"):
        predict(pointwise, source, tmp_path / "map.tif", settings=settings)


@pytest.mark.slow
@pytest.mark.parametrize("scores", [1, 10**9])
def test_whole_array_reference(tmp_path, monkeypatch, scores):
    """The windows of a real network, added up in one array that holds everything."""
    monkeypatch.setattr(tiling, "_MEMORY", scores)
    network, size, stride = tiny_model(), 64, 32
    with torch.no_grad():
        network.head[-1].weight *= 100  # labels that change from pixel to pixel
    model_file.save(tmp_path / "m.safetensors", network, card_of(network))
    height, width = 75, 140
    image, metres, _ = town(height, width)
    out, sure = tmp_path / "map.tif", tmp_path / "sure.tif"
    source = scene(tmp_path, image, metres)
    settings = PredictSettings(window=size, overlap=size - stride)
    predict(tmp_path / "m.safetensors", source, out, confidence=sure, settings=settings)

    total, sums = np.zeros((3, height + 99, width + 99)), np.zeros((height + 99, width + 99))
    whole = np.zeros((5, height + 99, width + 99), np.float32)
    whole[:, :height, :width] = [*image, *metres, np.ones((height, width))]
    for row in offsets(height, size, stride):
        for col in offsets(width, size, stride):
            here = slice(row, row + size), slice(col, col + size)
            part = torch.from_numpy(whole[:, *here])[None]
            with torch.inference_mode():
                inputs = (part[:, :3], part[:, 4] > 0, part[:, 3:4], part[:, 4] > 0)
                probabilities = network(*inputs)[0].softmax(dim=0)
            weights = window_weights(size).astype(np.float64)
            total[:, *here] += probabilities.numpy() * weights
            sums[here] += weights
    mean = (total / np.where(sums, sums, 1))[:, :height, :width]
    ranked = np.sort(mean, axis=0)
    clear = ranked[-1] - ranked[-2] > 1e-5
    assert clear.mean() > 0.99
    assert np.array_equal(read(out)[clear], mean.argmax(axis=0)[clear])
    assert len(np.unique(read(out))) > 1
    assert np.abs(read(sure) - 100 * mean.max(axis=0)).max() <= 0.51


def test_batches_change_nothing(tmp_path, pointwise):
    image, metres = numbers(150, 260)
    source, maps = scene(tmp_path, image, metres), []
    for size in (1, 3, 100):
        settings = PredictSettings(batch_size=size)
        predict(pointwise, source, tmp_path / f"{size}.tif", settings=settings)
        maps.append(read(tmp_path / f"{size}.tif"))
    assert all(np.array_equal(m, maps[0]) for m in maps)


# --- the files ---------------------------------------------------------------------------------


def test_label_raster(tmp_path, model):
    image, metres, _ = town(600, 700)
    source, out = scene(tmp_path, image, metres), tmp_path / "map.tif"
    predict(model, source, out, settings=PredictSettings(window=512, overlap=0))
    with rasterio.open(out) as written, rasterio.open(source.optical[0]) as optical:
        assert written.crs == UTM
        assert written.transform == optical.transform
        assert written.shape == optical.shape
        assert (written.count, written.dtypes[0], written.nodata) == (1, "uint8", 255)
        assert written.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert written.overviews(1) == [2]
        colors = written.colormap(1)
        assert [colors[c.id] for c in TABLE] == [(*c.rgb, 255) for c in TABLE]
        tags = written.tags()
        assert json.loads(tags["CLASSES"]) == TABLE.as_json()
        assert tags["CAFE_MODEL"] == "model.safetensors"
        assert tags["CAFE_MODEL_SHA256"] == hashlib.sha256(model.read_bytes()).hexdigest()
        assert tags["CAFE_INPUTS"] == "ortho.tif, dsm.tif"
        assert tags["CAFE_VERSION"]
        assert read_classes(written) == TABLE
    root = ElementTree.parse(f"{out}.aux.xml").getroot()
    assert [c.text for c in root.iter("Category")] == list(TABLE.names)
    assert sorted(os.listdir(tmp_path)) == [
        "dsm.tif", "map.qml", "map.tif", "map.tif.aux.xml", "map.tif.toml", "ortho.tif",
    ]  # fmt: skip


def test_settings_beside_the_map(tmp_path, model):
    image, metres, _ = town(64, 64)
    (tmp_path / "map.toml").write_text("somebody else's")
    source = replace(scene(tmp_path, image, metres), bands=(1, 2, 3), height_unit="foot")
    predict(model, source, tmp_path / "map.tif")
    described = tomllib.loads((tmp_path / "map.tif.toml").read_text())
    assert described["models"] == [str(model)]
    assert described["source"]["optical"] == list(source.optical)
    assert described["source"]["bands"] == [1, 2, 3]
    assert described["source"]["height_unit"] == "foot"
    assert (tmp_path / "map.toml").read_text() == "somebody else's"


def test_confidence(tmp_path, model):
    image, metres, _ = town(70, 100)
    out, sure = tmp_path / "map.tif", tmp_path / "sure.tif"
    predict(model, scene(tmp_path, image, metres), out, confidence=sure)
    with rasterio.open(sure) as written, rasterio.open(out) as labels:
        assert (written.dtypes[0], written.nodata) == ("uint8", 255)
        assert (written.transform, written.shape) == (labels.transform, labels.shape)
        values = written.read(1)
        assert values.min() >= 33
        assert values.max() <= 100
        assert "CLASSES" not in written.tags()


def holes(height: int, width: int):
    valid = np.ones((height, width), bool)
    valid[:70, :80] = False
    valid[100, 100] = False
    return valid


@pytest.mark.parametrize("kind", ["mask", "alpha", "nodata"])
def test_nodata(tmp_path, pointwise, kind):
    image, metres = numbers(130, 150)
    image = image.clip(1)
    valid = holes(130, 150)
    labels, _ = Pointwise().direct(image, metres)
    if kind == "mask":
        source = scene(tmp_path, image, metres, mask=valid)
    elif kind == "alpha":
        alpha = np.where(valid, 255, 0).astype(np.uint8)[None]
        source = scene(tmp_path, np.concatenate([image, alpha]), metres, alpha=True)
    else:
        source = scene(tmp_path, np.where(valid, image, 0).astype(np.uint8), metres, nodata=0)
    out, sure = tmp_path / "map.tif", tmp_path / "sure.tif"
    predict(pointwise, source, out, confidence=sure)
    assert np.array_equal(read(out), np.where(valid, labels, 255))
    assert np.array_equal(read(sure) == 255, ~valid)


def test_nothing_to_predict(tmp_path, pointwise):
    image, metres = numbers(100, 100)
    source = scene(tmp_path, image, metres, mask=np.zeros((100, 100), bool))
    predict(pointwise, source, tmp_path / "map.tif")
    assert (read(tmp_path / "map.tif") == 255).all()


def test_bands_in_another_order(tmp_path, pointwise):
    image, metres = numbers(70, 100)
    more = np.concatenate([image[::-1], image[:1]])
    source = replace(scene(tmp_path, more, metres, photometric="minisblack"), bands=(3, 2, 1))
    predict(pointwise, source, tmp_path / "map.tif")
    assert np.array_equal(read(tmp_path / "map.tif"), Pointwise().direct(image, metres)[0])


def test_units_of_height(tmp_path, pointwise):
    image, metres = numbers(70, 100)
    source = replace(scene(tmp_path, image, metres * 10), height_unit="decimetre")
    predict(pointwise, source, tmp_path / "map.tif")
    assert np.array_equal(read(tmp_path / "map.tif"), Pointwise().direct(image, metres)[0])


def test_voids_by_another_value(tmp_path, pointwise):
    image, metres = numbers(70, 100)
    metres[0, 10:20] = -32768
    source = replace(scene(tmp_path, image, metres), height_nodata=-32768)
    predict(pointwise, source, tmp_path / "map.tif")
    filled = np.where(metres < 0, 0, metres)
    assert np.array_equal(read(tmp_path / "map.tif"), Pointwise().direct(image, filled)[0])


# --- areas, several models, more outputs ---------------------------------------------------------


def predicted_town(folder: Path, model: Path) -> tuple[PredictInput, Path, Path]:
    """Return a scene, its map, and a name for that of a part."""
    source = scene(folder, *town(200, 180)[:2])
    predict(model, source, folder / "map.tif")
    return source, folder / "map.tif", folder / "part.tif"


@pytest.mark.slow
def test_an_area_is_predicted_as_in_the_whole(tmp_path, model):
    source, whole, part = predicted_town(tmp_path, model)
    with rasterio.open(whole) as dataset:
        left, top = dataset.transform @ (41, 77)
    box = (left, top - 50 * PIXEL, left + 60 * PIXEL, top)
    predict(model, replace(source, bbox=box), part)
    with rasterio.open(part) as dataset:
        assert dataset.shape == (50, 60)
        assert (dataset.bounds.left, dataset.bounds.top) == (left, top)
    assert np.array_equal(read(part), read(whole)[77:127, 41:101])


@pytest.mark.slow
def test_polygons_limit_and_mask(tmp_path, model):
    source, whole, part = predicted_town(tmp_path, model)
    with rasterio.open(whole) as dataset:
        corners = [dataset.transform @ place for place in ((20, 30), (120, 30), (20, 130))]
    shape = {"type": "Polygon", "coordinates": [[*corners, corners[0]]]}
    crs = {"type": "name", "properties": {"name": "EPSG:32632"}}
    feature = {"type": "Feature", "properties": {}, "geometry": shape}
    drawn = {"type": "FeatureCollection", "crs": crs, "features": [feature]}
    (tmp_path / "aoi.geojson").write_text(json.dumps(drawn))
    predict(model, replace(source, aoi=str(tmp_path / "aoi.geojson")), part)
    got, want = read(part), read(whole)[30:130, 20:120]
    rows, columns = np.mgrid[:100, :100]
    inside = rows + columns < 99
    assert np.array_equal(got[inside], want[inside])
    assert (got[rows + columns > 99] == 255).all()


def test_all_outputs(tmp_path, model):
    image, metres, _ = town(100, 120)
    metres[0, :, 90:] = np.nan
    source = scene(tmp_path, image, metres)
    more = {k: tmp_path / f"{k}.tif" for k in ("confidence", "probabilities", "quality")}
    options = {"COMPRESS": "ZSTD"}
    predict(model, source, tmp_path / "map.tif", **more, options=options)
    with (
        rasterio.open(more["probabilities"]) as probabilities,
        rasterio.open(tmp_path / "map.tif") as labels,
    ):
        assert probabilities.descriptions == TABLE.names
        assert probabilities.nodata == 255
        assert probabilities.compression.name == labels.compression.name == "zstd"
        shares, classes = probabilities.read(), labels.read(1)
        assert np.array_equal(shares.max(axis=0), read(more["confidence"]))
        assert np.abs(shares.astype(int).sum(axis=0) - 100).max() <= 2
        best = np.take_along_axis(shares, classes[None], axis=0)[0]
        assert np.array_equal(best, shares.max(axis=0))
    assert np.array_equal(read(more["quality"]) == 1, np.tile(np.arange(120) >= 90, (100, 1)))


@pytest.mark.slow
def test_two_models_are_averaged(tmp_path, model):
    other = tiny_model(7)
    model_file.save(tmp_path / "other.safetensors", other, card_of(other))
    image, metres, _ = town(100, 120)
    source, probabilities = scene(tmp_path, image, metres), []
    for number, models in enumerate(
        ([model], [tmp_path / "other.safetensors"], [model, tmp_path / "other.safetensors"])
    ):
        path = tmp_path / f"probabilities {number}.tif"
        predict(models, source, tmp_path / f"{number}.tif", probabilities=path)
        with rasterio.open(path) as dataset:
            probabilities.append(dataset.read().astype(float))
    assert np.abs((probabilities[0] + probabilities[1]) / 2 - probabilities[2]).max() <= 1
    assert np.abs(probabilities[0] - probabilities[1]).max() > 2


# --- another GSD, no heights -------------------------------------------------------------------


def warnings_of(caplog, *args, **kwargs) -> list[str]:
    caplog.clear()
    with caplog.at_level("WARNING", logger="cafe"):
        predict(*args, **kwargs)
    return [record.getMessage() for record in caplog.records]


def test_another_gsd(tmp_path, model, caplog):
    image, metres, _ = town(128, 192)
    optical = write(tmp_path / "ortho.tif", image, pixel=PIXEL / 2)
    elevation = write(tmp_path / "dsm.tif", metres, pixel=PIXEL / 2)
    own = PredictInput((optical,), (elevation,))
    resampled = replace(own, gsd="model")
    (said,) = warnings_of(caplog, model, own, tmp_path / "own.tif")
    assert "0.25 m, the model was trained at 0.5 m; --gsd model resamples" in said
    assert warnings_of(caplog, model, resampled, tmp_path / "model.tif") == []
    with rasterio.open(tmp_path / "own.tif") as a, rasterio.open(tmp_path / "model.tif") as b:
        assert (a.shape, a.res) == ((128, 192), (0.25, 0.25))
        assert (b.shape, b.res) == ((64, 96), (0.5, 0.5))
        assert a.bounds == b.bounds


def test_resampling_keeps_the_holes(tmp_path, pointwise):
    image, metres = numbers(130, 150)
    valid = holes(130, 150)
    optical = write(tmp_path / "ortho.tif", image, pixel=PIXEL / 2, mask=valid)
    elevation = write(tmp_path / "dsm.tif", metres, pixel=PIXEL / 2)
    out = tmp_path / "map.tif"
    predict(pointwise, PredictInput((optical,), (elevation,), gsd="model"), out)
    labels = read(out)
    assert (labels[:35, :40] == 255).all()
    assert (labels[36:, 41:] != 255).mean() > 0.999


def test_another_dtype_is_told(tmp_path, model, caplog):
    image, metres, _ = town(64, 64, dtype="uint16")
    (said,) = warnings_of(caplog, model, scene(tmp_path, image, metres), tmp_path / "map.tif")
    assert "is uint16, the model was trained on uint8" in said


def test_missing_heights_are_told(tmp_path, pointwise, caplog):
    image, metres = numbers(70, 100)
    (said,) = warnings_of(caplog, pointwise, scene(tmp_path, image), tmp_path / "map.tif")
    assert "trained with heights but gets none" in said
    labels, _ = Pointwise().direct(image, np.zeros_like(metres))
    assert np.array_equal(read(tmp_path / "map.tif"), labels)


def test_heights_that_are_not_wanted(tmp_path, caplog):
    network = tiny_model(heights=False)
    model_file.save(tmp_path / "m.safetensors", network, card_of(network))
    image, _, _ = town(64, 64)
    source = replace(scene(tmp_path, image), elevation=("not there.tif",))
    (said,) = warnings_of(caplog, tmp_path / "m.safetensors", source, tmp_path / "map.tif")
    assert "trained without heights: not there.tif will not be read" in said


# --- failures ----------------------------------------------------------------------------------


@pytest.fixture
def good(tmp_path, pointwise) -> PredictInput:
    return scene(tmp_path, *numbers(300, 200))


def fails(error: type[CafeError], says: str, source, output, **kwargs) -> None:
    """A prediction fails and leaves its folder as it was."""
    before = {p: p.stat().st_mtime_ns for p in output.parent.iterdir()}
    with pytest.raises(error, match=says) as caught:
        predict(Path(__file__), source, output, **kwargs)
    assert "\n" not in str(caught.value)
    assert {p: p.stat().st_mtime_ns for p in output.parent.iterdir()} == before


def test_wrong_band_count(tmp_path, good):
    says = r"has 2 bands, the model was trained on 3 \(red, green, blue\); choose them with --bands"
    fails(BandError, says, replace(good, bands=(1, 2)), tmp_path / "map.tif")
    fails(BandError, "there is no band 4", replace(good, bands=(1, 2, 4)), tmp_path / "map.tif")


def test_elevation_elsewhere(tmp_path, good):
    far = write(tmp_path / "far.tif", numbers(300, 200)[1], origin=(9000, 0))
    fails(GridError, "does not overlap", replace(good, elevation=(far,)), tmp_path / "map.tif")


def test_existing_outputs(tmp_path, good):
    out, other = tmp_path / "map.tif", tmp_path / "other.tif"
    out.write_text("precious")
    fails(OutputError, "map.tif exists; pass --overwrite", good, out)
    fails(OutputError, "map.tif exists; pass --overwrite", good, other, confidence=out)
    predict(Path(__file__), good, out, overwrite=True)
    assert (read(out) < 4).all()


def test_outputs_that_are_inputs(tmp_path, good):
    optical, other = Path(good.optical[0]), tmp_path / "sub" / ".." / "map.tif"
    (tmp_path / "sub").mkdir()
    fails(ConfigError, "another name", good, optical, overwrite=True)
    fails(ConfigError, "another name", good, tmp_path / "map.tif", confidence=other)
    fails(ConfigError, "another name", good, other, confidence=optical, overwrite=True)


def test_folder_of_the_output(tmp_path, good):
    with pytest.raises(OutputError, match=r"ortho\.tif is a file, so .*map\.tif cannot be in it"):
        predict(Path(__file__), good, Path(good.optical[0]) / "map.tif")
    predict(Path(__file__), good, tmp_path / "no/such/map.tif")
    assert (tmp_path / "no/such/map.tif.toml").exists()


@pytest.mark.parametrize("when", [1, 3])
def test_interrupted(tmp_path, good, when):
    calls = []

    def stop(meter):
        calls.append(meter.windows)
        if len(calls) == when:
            raise KeyboardInterrupt

    before = sorted(os.listdir(tmp_path))
    outputs = {"confidence": tmp_path / "sure.tif"}
    with pytest.raises(KeyboardInterrupt):
        predict(Path(__file__), good, tmp_path / "map.tif", progress=stop, **outputs)
    assert sorted(os.listdir(tmp_path)) == before


def test_interrupted_overwrite_keeps_the_old_map(tmp_path, good):
    def stop(meter):
        raise KeyboardInterrupt

    out = tmp_path / "map.tif"
    out.write_text("precious")
    with pytest.raises(KeyboardInterrupt):
        predict(Path(__file__), good, out, overwrite=True, progress=stop)
    assert out.read_text() == "precious"


def test_damaged_model(tmp_path):
    (tmp_path / "m.safetensors").write_bytes(b"nothing")
    source = scene(tmp_path, *numbers(64, 64))
    with pytest.raises(ModelFileError, match="is not a cafe model"):
        predict(tmp_path / "m.safetensors", source, tmp_path / "map.tif")
    assert not (tmp_path / "map.tif").exists()


def test_truncated_image(tmp_path, pointwise):
    image, metres = numbers(600, 600)
    source = scene(tmp_path, image, metres, compress="deflate")
    path = Path(source.optical[0])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(CafeError, match=r"ortho\.tif"):
        predict(pointwise, source, tmp_path / "map.tif")
    assert sorted(os.listdir(tmp_path)) == ["dsm.tif", "ortho.tif"]


def test_rasters_are_inspected_once(tmp_path, pointwise, monkeypatch):
    source = scene(tmp_path, *numbers(300, 200))
    asked, inspect = [], mosaic_view.inspect_rasters

    def spy(paths, *rest, **options):
        asked.extend(paths)
        return inspect(paths, *rest, **options)

    for name, module in sys.modules.items():
        if name.startswith("cafe_cli.") and hasattr(module, "inspect_rasters"):
            monkeypatch.setattr(module, "inspect_rasters", spy)
    predict(pointwise, source, tmp_path / "map.tif", jobs=3)
    assert sorted(asked) == sorted([*source.optical, *source.elevation])


@pytest.mark.parametrize(
    ("trained", "asked", "used"),
    [
        ({}, "auto", (1.0,)),
        ({"predict": {"scales": "auto"}}, "auto", (1.0,)),
        ({"predict": {"scales": [1.5]}}, "auto", (1.5,)),
        ({"predict": {"scales": [0.5, 1.0]}}, "auto", (0.5, 1.0)),
        ({"predict": {"scales": [1.5]}}, (1.0,), (1.0,)),
    ],
)
def test_scales_are_those_of_the_training_unless_others_are_asked_for(
    make_model, tmp_path, trained, asked, used
):
    model = make_model({"config": trained})
    image, metres, _ = town(96, 96)
    source = PredictInput((write(tmp_path / "o.tif", image),), (write(tmp_path / "d.tif", metres),))
    predict(model, source, tmp_path / "auto.tif", settings=PredictSettings(scales=asked))
    predict(model, source, tmp_path / "used.tif", settings=PredictSettings(scales=used))
    assert (tmp_path / "auto.tif").read_bytes() == (tmp_path / "used.tif").read_bytes()
    made = tomllib.loads((tmp_path / "auto.tif.toml").read_text())
    assert tuple(made["predict"]["scales"]) == used


def test_scale_of_a_training_makes_another_map(make_model, tmp_path):
    image, metres, _ = town(96, 96)
    source = PredictInput((write(tmp_path / "o.tif", image),), (write(tmp_path / "d.tif", metres),))
    model = make_model({"config": {"predict": {"scales": [1.5]}}})
    predict(model, source, tmp_path / "larger.tif")
    predict(model, source, tmp_path / "one.tif", settings=PredictSettings(scales=(1.0,)))
    larger, one = (read_labels(tmp_path / name) for name in ("larger.tif", "one.tif"))
    assert (larger != one).any()


def read_labels(path):
    with rasterio.open(path) as dataset:
        return dataset.read(1)
