"""`cafe export`: the file computes what the network computes, and describes itself."""

import json
import re
import sys
import tomllib

import numpy as np
import onnxruntime
import pytest
import torch

from cafe_cli.errors import ConfigError, ModelFileError, OutputError
from cafe_cli.exporting import export as engine
from cafe_cli.exporting.eight_bit import EightBitNetwork
from cafe_cli.exporting.export import ExportOptions, export
from cafe_cli.inference.job import PredictInput
from cafe_cli.model import model_file
from cafe_cli.model.card import ModelCard
from cafe_cli.model.inputs import to_tensors
from cafe_cli.model.onnx_export import export_onnx
from cafe_cli.model.stored import read_model
from cafe_cli.scenes.eight_bit import HEIGHT_STEP
from cafe_cli.scenes.valley_floor import UNKNOWN
from tests.support.engines import decided, tiny_model, town, write_town

pytestmark = pytest.mark.slow
pytest_plugins = ["tests.support.fixtures"]


@pytest.fixture
def scene(tmp_path):
    write_town(tmp_path, "a", 112, 160, seed=3)
    return PredictInput((str(tmp_path / "a_ortho.tif"),), (str(tmp_path / "a_dsm.tif"),))


ARCHITECTURES = [
    {}, {"heights": False}, {"attention": 64}, {"optical_bands": 4}, {"fusion": "gated"},
    {"guidance": "distill", "stream_heads": True}, {"height_planes": 2},
]  # fmt: skip


@pytest.mark.parametrize("changes", ARCHITECTURES, ids=str)
def test_a_file_for_cafe(make_model, tmp_path, changes):
    model, out = make_model(**changes), tmp_path / "made" / "model.onnx"
    made = export(model, out)
    assert made.equal.share > 0.9999
    assert 0 < made.equal.largest < 1e-4
    assert made.equal.pixels > 20_000
    shapes = {*made.equal.shapes}
    assert {count for count, *_ in shapes} >= {1, 2, 3}
    assert any(rows != columns for _, rows, columns in shapes)
    stored = read_model(out)
    assert stored.card == read_model(model).card
    assert stored.parameters == sum(p.numel() for p in tiny_model(**changes).parameters())
    beside = tomllib.loads((tmp_path / "made" / "model.onnx.toml").read_text())
    assert beside["comparison"]["equal"] == made.equal.equal


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
def test_a_file_for_cafe_of_other_values(make_model, tmp_path, dtype):
    made = export(make_model({"dtype": dtype}), tmp_path / "model.onnx")
    assert made.equal.share > 0.9999


def test_real_windows(make_model, scene, tmp_path):
    made = export(make_model(), tmp_path / "model.onnx", scene=scene)
    assert made.windows == f"4 windows of {scene.optical[0]}"
    assert 0 < made.equal.pixels < 8 * 64 * 64  # what lies beyond the scene does not count


def test_a_file_says_what_deepness_and_geodeep_read(make_model, tmp_path):
    model, out = make_model({"gsd": 0.3048, "window": 96}), tmp_path / "m.onnx"
    options = ExportOptions("deepness", window=64, overlap=8)
    made = export(model, out, options)
    assert made.tool.bands == ("red", "green", "blue", "height")
    session = onnxruntime.InferenceSession(out)
    (given,), (returned,) = session.get_inputs(), session.get_outputs()
    assert given.shape == ["batch", 4, 64, 64]
    assert returned.shape == ["batch", 3, 64, 64]
    found = session.get_modelmeta().custom_metadata_map
    values = {key: json.loads(text) for key, text in found.items() if key != "cafe"}
    assert values["model_type"] == "Segmentor"
    assert values["class_names"] == {"0": "ground", "1": "building", "2": "tree"}
    assert values["resolution"] == 30.48
    assert values["tiles_size"] == values["tile_size"] == 64
    assert values["tiles_overlap"] == 12  # in per cent, a whole number
    assert values["seg_thresh"] == values["seg_small_segment"] == 0
    assert values["standardization_mean"] == [0, 0, 0, 0]
    assert values["standardization_std"] == [1, 1, 1, 1]
    assert values["bands"] == ["red", "green", "blue", "height"]
    assert ModelCard.model_validate_json(found["cafe"]) == read_model(model).card


def test_what_deepness_feeds(make_model, tmp_path):
    """A tile of bytes (side, side, bands), divided by 255 as float64, standardised, transposed."""
    model, out = make_model(), tmp_path / "m.onnx"
    export(model, out, ExportOptions("deepness", window=64))
    image, metres, _ = town(64, 64, seed=5)
    valid = np.ones((64, 64), bool)
    valid[:, 50:] = False  # beyond the raster
    known = valid & (np.indices((64, 64)).sum(axis=0) % 7 > 0)
    metres = np.rint(metres * 4) / 4
    steps = np.where(known, metres[0] * 4, 255)
    tile = np.where(valid, np.concatenate([image, steps[None]]), 0).astype(np.uint8)
    batch = np.float32(tile.transpose(1, 2, 0)[None] * 1.0 / 255.0)
    batch = (batch - np.zeros(4, np.float32)) / np.ones(4, np.float32)
    session = onnxruntime.InferenceSession(out)
    made = session.run(None, {"image": batch.transpose(0, 3, 1, 2)})[0]
    assert made.dtype == np.float32
    assert np.allclose(made.sum(axis=1), 1, atol=1e-5)
    network, _ = model_file.load(model)
    arrays = (np.where(valid, image, 0), valid, np.where(known, metres[0], 0), known)
    with torch.inference_mode():
        wanted = network(*(t[None] for t in to_tensors(*map(as_input, arrays)))).softmax(dim=1)
    assert np.allclose(made, wanted.numpy(), atol=1e-5)


def as_input(values):
    return values if values.dtype == bool else values.astype(np.float32)


@pytest.mark.parametrize(("heights", "flag"), [(True, False), (False, True)])
def test_without_a_height_band(make_model, tmp_path, heights, flag):
    """A model that knows heights is told that there are none, one without them needs no telling."""
    model, out = make_model(heights=heights), tmp_path / "m.onnx"
    made = export(model, out, ExportOptions("deepness", window=64, heights=flag))
    assert made.tool.bands == ("red", "green", "blue")
    assert made.kept is None
    image = np.random.default_rng(0).integers(1, 255, (2, 3, 64, 64))
    batch = (image / 255).astype(np.float32)
    found = onnxruntime.InferenceSession(out).run(None, {"image": batch})[0]
    network, _ = model_file.load(model)
    none = torch.zeros(2, 1, 64, 64), torch.zeros(2, 64, 64, dtype=bool)
    pixels, valid = torch.from_numpy(image).float(), torch.ones(2, 64, 64, dtype=bool)
    with torch.inference_mode():
        wanted = network(pixels, valid, *(none if heights else (None, None))).softmax(dim=1)
    assert np.allclose(found, wanted.numpy(), atol=1e-5)


def test_eight_bits_do_not_tell_how_high_the_ground_lies():
    network = decided(tiny_model(height_planes=2))
    image = torch.randint(1, 255, (1, 4, 64, 64)) / 255
    valid = torch.ones(1, 64, 64, dtype=torch.bool)
    metres = torch.stack([image[0, 3] * 255 * HEIGHT_STEP, torch.full((64, 64), UNKNOWN)])[None]
    with torch.no_grad():
        found = EightBitNetwork(network, [0, 1, 2], heights=True).eval()(image)
        wanted = network(image[:, :3] * 255, valid, metres, valid).softmax(dim=1)
    assert torch.allclose(found, wanted, atol=1e-5)


def test_bands_are_put_in_the_order_of_the_network(make_model, tmp_path):
    """GeoDeep feeds red, green, blue, whatever the order of the training was."""
    model, out = make_model({"band_names": ("Blue", "green", "red")}), tmp_path / "m.onnx"
    made = export(model, out, ExportOptions("geodeep", window=64))
    assert made.tool.bands == ("red", "green", "Blue")
    image = np.random.default_rng(0).integers(1, 255, (1, 3, 64, 64))
    found = onnxruntime.InferenceSession(out).run(None, {"image": np.float32(image / 255)})[0]
    network, _ = model_file.load(model)
    swapped = torch.from_numpy(image[:, ::-1].copy()).float()
    valid = torch.ones(1, 64, 64, dtype=bool)
    with torch.inference_mode():
        wanted = network(swapped, valid, torch.zeros(1, 1, 64, 64), ~valid).softmax(dim=1)
    assert np.allclose(found, wanted.numpy(), atol=1e-5)


def test_what_heights_are_worth(make_model, scene, tmp_path):
    model = make_model()
    lost = export(model, tmp_path / "a.onnx", ExportOptions("geodeep", window=64), scene)
    rounded = export(model, tmp_path / "b.onnx", ExportOptions("deepness", window=64), scene)
    assert lost.kept.share < rounded.kept.share
    assert lost.kept.largest > rounded.kept.largest > 0
    assert min(lost.equal.share, rounded.equal.share) > 0.9999


def test_outputs(make_model, tmp_path):
    model = make_model()
    for name in ("m.tif", "m", "m.onnx.zip"):
        with pytest.raises(ConfigError, match="the name of an ONNX file ends with"):
            export(model, tmp_path / name)
    out = tmp_path / "m.onnx"
    out.write_text("mine")
    with pytest.raises(OutputError, match="exists; pass"):
        export(model, out)
    assert out.read_text() == "mine"
    export(model, out, overwrite=True)
    with pytest.raises(
        ConfigError, match=r"is already an exported model: name the .safetensors file"
    ):
        export(out, tmp_path / "again.onnx")
    with pytest.raises(ModelFileError, match="does not exist"):
        export(tmp_path / "none.safetensors", tmp_path / "again.onnx")


def test_images_that_no_tool_feeds(make_model, tmp_path):
    write_town(tmp_path, "w", 64, 64, dtype="uint16")
    source = PredictInput((str(tmp_path / "w_ortho.tif"),), ignore_mismatch=True)
    with pytest.raises(ConfigError, match=r"w_ortho.tif is uint16, .* feeds 8 bits"):
        export(make_model(), tmp_path / "m.onnx", ExportOptions("geodeep", window=64), source)
    assert sorted(path.name for path in tmp_path.glob("m.onnx*")) == []


def test_a_file_that_computes_something_else_is_not_written(make_model, tmp_path, monkeypatch):
    model = make_model()

    def other(network, card, *, softmax):
        return export_onnx(decided(tiny_model(seed=1)), card, softmax=softmax)

    monkeypatch.setattr(engine, "export_onnx", other)
    with pytest.raises(ConfigError, match=r"m.onnx is not written: on 4 .* \(99.99 % are needed\)"):
        export(model, tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_without_onnx(make_model, tmp_path, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ConfigError, match=re.escape("pip install '.[onnx]'")):
        export(make_model(), tmp_path / "m.onnx")


def test_logits(make_model, tmp_path):
    made = export(make_model(), tmp_path / "m.onnx", ExportOptions(logits=True))
    assert made.equal.share > 0.9999
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    assert [given.name for given in session.get_outputs()] == ["logits"]
