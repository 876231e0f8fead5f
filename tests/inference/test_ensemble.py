from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from cafe_cli.classes import ClassTable
from cafe_cli.config.schema import HeightSettings, PredictSettings
from cafe_cli.errors import ConfigError
from cafe_cli.inference.ensemble import Ensemble, choose_engine
from cafe_cli.inference.tiling import WindowGrid
from cafe_cli.model import model_file, onnx_file
from cafe_cli.model.architecture import Architecture
from cafe_cli.raster.window import Window
from tests.support.engines import TABLE, card_of, ensemble_of, tiny_model

CPU, GPU = "cpu", "cuda:0"


def described(window, attention=0):
    """Return the attributes of a card that `Ensemble.window_grid` reads."""
    return SimpleNamespace(window=window, architecture=Architecture(3, 3, attention=attention))


def saved(folder, name, network=None, **card):
    network = network or tiny_model()
    path = folder / f"{name}.safetensors"
    model_file.save(path, network, card_of(network, **card))
    return path


@pytest.mark.slow
def test_models_that_belong_together(tmp_path):
    paths = [
        saved(tmp_path, "a"),
        saved(tmp_path, "b", tiny_model(1)),
        saved(tmp_path, "c", tiny_model(heights=False)),
    ]
    ensemble = Ensemble.load(paths)
    assert ensemble.has_height
    assert [name for name, _ in ensemble.hashes] == [
        "a.safetensors",
        "b.safetensors",
        "c.safetensors",
    ]
    hashes = list(ensemble.fingerprint.values())
    assert len(set(hashes)) == 3
    assert Ensemble.load(paths[:1]).fingerprint == dict([next(iter(ensemble.fingerprint.items()))])
    assert not Ensemble.load(paths[2:]).has_height


@pytest.mark.slow
@pytest.mark.parametrize(
    ("card", "says"),
    [
        ({"classes": ClassTable((replace(TABLE[0], name="my ground"), *TABLE[1:]))}, "classes my"),
        ({"gsd": 0.2}, r"GSD 0\.2 m and 0\.5 m"),
        ({"dtype": "uint16"}, "data type uint16 and uint8"),
        ({"band_names": ("nir", "red", "green")}, "bands nir, red, green and red, green, blue"),
        ({"height": HeightSettings(kind="dsm")}, "heights kind='dsm'"),
    ],
)
def test_models_that_do_not(tmp_path, card, says):
    paths = [saved(tmp_path, "a"), saved(tmp_path, "b", **card)]
    with pytest.raises(ConfigError, match=rf"b\.safetensors cannot be averaged with .*: {says}"):
        Ensemble.load(paths)


@pytest.mark.parametrize(
    ("given", "window", "overlap"),
    [({"window": 128}, 128, None), ({"window": 128, "overlap": 0}, 128, 0)],
)
def test_windows_as_asked(given, window, overlap):
    ensemble = ensemble_of(described(window=64))
    windows = ensemble.window_grid(PredictSettings(**given), Window(0, 0, 500, 500))
    assert windows.size == window
    assert overlap is None or windows.overlap == overlap
    assert windows.overlap % 32 == 0


@pytest.mark.parametrize("trained", [32, 64, 96, 250, 256, 512])
def test_windows_of_a_model_whose_attention_has_no_bounds_are_those_of_its_training(trained):
    card = described(window=trained)
    windows = ensemble_of(card).window_grid(PredictSettings(), Window(0, 0, 5000, 5000))
    assert trained <= windows.size < trained + 32
    assert windows.size % 32 == windows.stride % 32 == 0


def test_windows_of_a_model_whose_attention_is_bounded_suit_the_scene():
    ensemble = ensemble_of(described(window=256, attention=512))
    for scene in (Window(0, 0, 6000, 6000), Window(0, 0, 1994, 4332)):
        windows = ensemble.window_grid(PredictSettings(), scene)
        assert windows.size >= 768
        assert windows.computed_pixels(scene) < 1.31 * scene.width * scene.height
    given = ensemble.window_grid(PredictSettings(overlap=256), Window(0, 0, 6000, 6000))
    assert given.overlap == 256


@pytest.mark.parametrize("there", [True, False])
def test_engines(monkeypatch, there):
    monkeypatch.setattr(onnx_file, "available", lambda: there)
    ensemble = ensemble_of(described(window=64))
    monkeypatch.setattr(Ensemble, "has_graphs", False)
    assert choose_engine("torch", [CPU], 1000, ensemble) == "torch"
    assert choose_engine("onnx", [CPU], 1, ensemble) == "onnx"
    assert choose_engine("auto", [CPU], 1000, ensemble) == ("onnx" if there else "torch")
    assert choose_engine("auto", [CPU], 2, ensemble) == "torch"
    assert choose_engine("auto", [GPU], 1000, ensemble) == "torch"
    with pytest.raises(ConfigError, match="is for CPUs: add --device cpu"):
        choose_engine("onnx", [GPU], 1000, ensemble)
    monkeypatch.setattr(Ensemble, "has_graphs", True)
    assert choose_engine("auto", [CPU], 2, ensemble) == ("onnx" if there else "torch")


def test_an_onnx_file_runs_in_onnx_runtime_only():
    ensemble = ensemble_of(described(window=64), path="m.onnx")
    assert choose_engine("auto", [CPU], 1, ensemble) == "onnx"
    with pytest.raises(ConfigError, match="leave out --engine torch"):
        choose_engine("torch", [CPU], 1, ensemble)
    with pytest.raises(ConfigError, match="is for CPUs"):
        choose_engine("auto", [GPU], 1, ensemble)


@pytest.mark.slow
@pytest.mark.parametrize("heights", [True, False])
def test_both_engines_agree(tmp_path, heights):
    from tests.inference.test_forward import patch

    ensemble = Ensemble.load([saved(tmp_path, "a", tiny_model(heights=heights))])
    settings = PredictSettings(tta="d4", scales=(0.5, 1.0, 1.5))
    by_torch, by_onnx = (
        ensemble.prepare(settings, WindowGrid(64, 32), CPU, engine)([patch()])
        for engine in ("torch", "onnx")
    )
    assert isinstance(by_onnx, np.ndarray)
    assert np.allclose(by_torch.numpy(), by_onnx, atol=1e-4)
