"""Networks in ONNX Runtime, and the files that are kept of them."""

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cafe_cli.errors import ConfigError, ModelFileError
from cafe_cli.inference.engines.onnx import OnnxNetwork, find_graph, make_graph
from cafe_cli.inference.engines.torch import fold_batchnorm
from cafe_cli.model import model_file, onnx_cache, onnx_export, onnx_file, stored
from cafe_cli.model.architecture import Architecture
from cafe_cli.model.cafe import CaFE
from cafe_cli.model.inputs import example_inputs
from tests.support.engines import card_of, tiny_model

SMALL = "tu-test_resnet"
NAME = Path("m.safetensors")

pytestmark = pytest.mark.skipif(
    not (find_spec("onnx") and find_spec("onnxruntime")), reason="the extra onnx is not installed"
)


def network(encoder=SMALL, **changes):
    torch.manual_seed(0)
    made = CaFE(Architecture(3, 4, optical_encoder=encoder, width=8, **changes))
    made.set_statistics(
        [100.0] * 4, [50.0] * 4, [10.0], [5.0], optical_limits=([0.0] * 4, [200.0] * 4)
    )
    return made.eval()


def exported(model):
    return onnx_export.export_onnx(model, card_of(model))


def runner(model, *shapes):
    return OnnxNetwork(exported(model), NAME, shapes)


def arrays(inputs):
    """Return the inputs of `CaFE.forward` as those of a network that inference calls."""
    optical, valid, *heights = inputs
    if heights[0] is None:
        heights = [torch.zeros(len(optical), 1, *valid.shape[1:]), valid]
    return [x.numpy() for x in (optical, valid, *heights)]


def by_torch(model, *inputs):
    with torch.inference_mode():
        return model(*inputs).softmax(1).numpy()


# --- Networks -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("encoder", "changes"),
    [
        (SMALL, {"fusion": "gated"}),
        (SMALL, {"attention": 64}),
        (SMALL, {"attention": 512}),
        ("mobilenet_v2", {"heights": False}),
        ("efficientnet-b0", {"heights": False}),
        ("tu-test_convnext", {}),
        ("tu-regnetx_004", {"heights": False}),
        ("tu-tf_efficientnet_lite0", {"height_encoder": "tu-regnetx_002"}),  # the defaults
    ],
)
def test_the_probabilities_are_those_of_torch_at_every_size(encoder, changes):
    """In windows that are smaller than the reach of the attention, too."""
    model = network(encoder, **changes)
    run = runner(model)
    for shape in ((2, 64, 96), (1, 320, 288), (3, 32, 32)):
        inputs = example_inputs(model, *shape)
        found = run(*arrays(inputs))
        assert found.shape == (shape[0], 3, *shape[1:])
        assert found.dtype == np.float32
        assert np.abs(found - by_torch(model, *inputs)).max() < 2e-5


@pytest.mark.slow
def test_masks_with_nan():
    model = network()
    optical = torch.rand(1, 4, 64, 64) * 255
    valid = torch.rand(1, 64, 64) < 0.5
    optical[~valid[:, None].expand_as(optical)] = float("nan")
    nothing = torch.zeros(1, 64, 64, dtype=torch.bool)
    inputs = (optical, valid, torch.full((1, 1, 64, 64), float("nan")), nothing)
    found = runner(model, (1, 64, 64))(*arrays(inputs))
    assert np.abs(found - by_torch(model, *inputs)).max() < 2e-5


def test_a_folded_network_and_one_of_channels_last_give_the_same():
    model = network()
    inputs = example_inputs(model, 1, 64, 64)
    wanted = by_torch(model, *inputs)
    folded = fold_batchnorm(model, *inputs).to(memory_format=torch.channels_last)
    found = runner(folded, (1, 64, 64))(*arrays(inputs))
    assert np.abs(found - wanted).max() < 2e-5


@pytest.mark.slow
def test_the_same_inputs_give_the_same_bytes():
    model = network()
    inputs = arrays(example_inputs(model, 1, 64, 64))
    run, again = runner(model, (1, 64, 64)), runner(model)
    first = run(*inputs)
    kept = first.copy()
    run(inputs[0] + 50, *inputs[1:])
    assert np.array_equal(first, kept)  # what was returned stays
    assert np.array_equal(run(*inputs), first)
    assert np.array_equal(again(*inputs), first)


def test_exporting_is_silent_and_changes_nothing(tmp_path, monkeypatch, capfd, recwarn):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    model = network(heights=False, pyramid=True)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    exported(model)
    assert capfd.readouterr() == ("", "")
    assert list(recwarn) == []
    assert list(tmp_path.rglob("*")) == []
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("given", "threads"), [("3", 3), ("3,2", 3), ("", None), ("0", None), ("many", None)]
)
def test_it_uses_as_many_threads_as_torch_would(monkeypatch, given, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    monkeypatch.setattr(onnx_file, "cores", lambda: 5)
    assert onnx_file.threads() == (threads or 5)


def test_an_operation_without_an_onnx_counterpart_is_one_line(capfd):
    class Odd(nn.Module):
        def forward(self, x):
            return torch.linalg.matrix_exp(x)

    model = network(heights=False)
    model.head.add_module("odd", Odd())
    with pytest.raises(
        ConfigError, match=r"'tu-test_resnet' cannot be exported to ONNX .*torch"
    ) as error:
        exported(model)
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


def test_a_network_that_becomes_another_one_is_refused(monkeypatch):
    monkeypatch.setattr(onnx_export, "TOLERANCE", -1.0)
    model = network(heights=False)
    with pytest.raises(
        ConfigError, match=r"'tu-test_resnet' differently from torch \(by .*: use --engine torch"
    ):
        onnx_export.export_checked(model, card_of(model))


@pytest.mark.parametrize(
    ("missing", "says"),
    [("onnx", r"needs: pip install '.\[onnx\]'"), ("onnxruntime", "pip install onnxruntime")],
)
def test_what_is_missing_is_said_in_one_line(monkeypatch, missing, says):
    monkeypatch.setitem(sys.modules, missing, None)
    model = network(heights=False)
    with pytest.raises(ConfigError, match=says):
        onnx_export.export_checked(model, card_of(model))


def test_an_export_needs_both_packages_a_run_one(monkeypatch):
    for found in ({"onnx", "onnxruntime"}, {"onnx"}, {"onnxruntime"}, set()):
        monkeypatch.setattr(onnx_file, "find_spec", lambda name, f=found: name in f or None)
        assert onnx_file.can_export() == (len(found) == 2)
        assert onnx_file.available() == ("onnxruntime" in found)


# --- Files ----------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path):
    model = tiny_model()
    path = tmp_path / "m.safetensors"
    model_file.save(path, model, card_of(model))
    (tmp_path / "m.onnx").write_bytes(onnx_export.export_onnx(model, card_of(model)))
    return path


def test_an_onnx_file_says_the_same_about_itself(saved):
    model, twin = stored.read_model(saved), stored.read_model(saved.with_suffix(".onnx"))
    assert twin.card == model.card
    assert twin.parameters == model.parameters == sum(p.numel() for p in tiny_model().parameters())
    assert twin.is_onnx
    assert not model.is_onnx
    assert model.statistics["optical_mean"] == [128.0] * 3
    assert model.statistics["height_std"] == [4.0]


def damage(path, how):
    content = path.read_bytes()
    if how == "cut":
        path.write_bytes(content[:-5000])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "text":
        path.write_text("not a graph")
    else:
        path.write_bytes(bytes(byte ^ 255 for byte in content[:200]) + content[200:])


@pytest.mark.parametrize("how", ["cut", "empty", "text", "flipped"])
def test_damaged_files_are_refused_in_one_line(saved, how):
    path = saved.with_suffix(".onnx")
    damage(path, how)
    with pytest.raises(ModelFileError, match=r"m\.onnx .*(damaged|of a cafe model)") as error:
        stored.read_model(path)
    assert "\n" not in str(error.value)


def test_files_of_others_and_for_others_are_refused(saved, tmp_path):
    import onnx

    path = saved.with_suffix(".onnx")
    proto = onnx.load(path)
    del proto.metadata_props[:]
    onnx.save(proto, tmp_path / "other.onnx")
    with pytest.raises(ModelFileError, match="not of a cafe model; make one with cafe export"):
        stored.read_model(tmp_path / "other.onnx")
    model = tiny_model()
    logits = onnx_export.export_onnx(model, card_of(model), softmax=False)
    (tmp_path / "logits.onnx").write_bytes(logits)
    with pytest.raises(ModelFileError, match="returns logits: it was made for another program"):
        stored.read_model(tmp_path / "logits.onnx")
    for wrong in (tmp_path / "nowhere.onnx", tmp_path):
        with pytest.raises(ModelFileError, match=r"does not exist|is a folder"):
            stored.read_model(wrong)


# --- The cache ------------------------------------------------------------------------------------


@pytest.fixture
def cached(saved, tmp_path, monkeypatch):
    """A model, its hash, and the ONNX file that was kept of it."""
    monkeypatch.setenv(onnx_cache.VARIABLE, str(tmp_path / "cache"))
    model, digest = stored.read_model(saved), stored.sha256(saved)
    assert find_graph(model, digest) is None
    return model, digest, make_graph(model, digest, tiny_model())


def test_an_exported_model_is_found_again(cached):
    model, digest, path = cached
    assert find_graph(model, digest) == path
    assert find_graph(model, "0" * 64) is None
    assert stored.read_model(path).card == model.card
    twin = stored.read_model(model.path.with_suffix(".onnx"))
    assert find_graph(twin, "0" * 64) == twin.path


@pytest.mark.parametrize("how", ["cut", "empty", "flipped"])
def test_a_damaged_file_is_made_again(cached, how):
    model, digest, path = cached
    damage(path, how)
    assert find_graph(model, digest) is None
    assert not path.exists()
    assert make_graph(model, digest, tiny_model()) == path


def test_files_of_another_version_are_not_used(cached, monkeypatch):
    model, digest, _ = cached
    monkeypatch.setattr(onnx_cache, "__version__", "9.9.9")
    assert find_graph(model, digest) is None


def test_a_cache_that_cannot_be_written_is_done_without(saved, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for folder in ("none", str(tmp_path / "file")):
        monkeypatch.setenv(onnx_cache.VARIABLE, folder)
        model = stored.read_model(saved)
        graph = make_graph(model, stored.sha256(saved), tiny_model())
        assert isinstance(graph, bytes)
        assert find_graph(model, stored.sha256(saved)) is None


def test_the_oldest_files_are_removed(cached, monkeypatch):
    import os

    model, digest, path = cached
    monkeypatch.setattr(onnx_cache, "_KEPT", 2)
    os.utime(path, (1, 1))
    others = [onnx_cache.store(f"{number}" * 64, bytes([number])) for number in (1, 2)]
    assert not path.exists()
    assert all(other.exists() for other in others)
    assert find_graph(model, digest) is None
