import importlib
import sys
from importlib.util import find_spec

import pytest
import torch
from torch import nn

from cafe_cli.errors import ConfigError
from cafe_cli.inference.engines import onnx
from cafe_cli.inference.engines.torch import fold_batchnorm
from cafe_cli.model.architecture import Architecture
from cafe_cli.model.cafe import CaFE
from cafe_cli.model.inputs import example_inputs

SMALL = "tu-test_resnet"

installed = pytest.mark.skipif(
    not (find_spec("onnx") and find_spec("onnxruntime")), reason="the extra onnx is not installed"
)


def network(encoder=SMALL, **changes):
    torch.manual_seed(0)
    made = CaFE(Architecture(3, 4, optical_encoder=encoder, width=8, **changes))
    made.set_statistics([100.0] * 4, [50.0] * 4, 10.0, 5.0, optical_limits=([0.0] * 4, [200.0] * 4))
    return made.deployed()


def largest_error(found, wanted):
    return float((found - wanted).abs().max() / wanted.abs().max())


def by_torch(model, *inputs):
    with torch.inference_mode():
        return model(*inputs)


# --- Installed ------------------------------------------------------------------------------------


@pytest.mark.slow
@installed
@pytest.mark.parametrize(
    ("encoder", "changes"),
    [
        (SMALL, {"fusion": "gated"}),
        (SMALL, {"attention": 64}),
        ("mobilenet_v2", {"heights": False}),
        ("efficientnet-b0", {"heights": False}),
        ("tu-test_convnext", {}),
        ("tu-regnetx_004", {"heights": False}),
        ("tu-tf_efficientnet_lite0", {"height_encoder": "tu-regnetx_002"}),  # the defaults
    ],
)
def test_the_logits_are_those_of_torch(encoder, changes):
    model = network(encoder, **changes)
    inputs = example_inputs(model, 2, 64, 96)
    wanted = by_torch(model, *inputs)
    found = onnx.OnnxNetwork(model, [(2, 64, 96)])(*inputs)
    assert found.shape == (2, 3, 64, 96)
    assert found.dtype == torch.float32
    assert largest_error(found, wanted) < 2e-5


@pytest.mark.slow
@installed
def test_other_inputs_than_the_ones_it_was_built_with_and_masks_with_nan():
    model = network()
    run = onnx.OnnxNetwork(model, [(1, 64, 64)])
    optical = torch.rand(1, 4, 64, 64) * 255
    valid = torch.rand(1, 64, 64) < 0.5
    optical[~valid[:, None].expand_as(optical)] = float("nan")
    nothing = torch.zeros(1, 64, 64, dtype=torch.bool)
    inputs = (optical, valid, torch.full((1, 1, 64, 64), float("nan")), nothing)
    assert largest_error(run(*inputs), by_torch(model, *inputs)) < 2e-5


@installed
def test_a_folded_network_and_one_of_channels_last_give_the_same():
    model = network()
    inputs = example_inputs(model, 1, 64, 64)
    wanted = by_torch(model, *inputs)
    folded = fold_batchnorm(model, *inputs).to(memory_format=torch.channels_last)
    last = [x.to(memory_format=torch.channels_last) if x.ndim == 4 else x for x in inputs]
    assert largest_error(onnx.OnnxNetwork(folded, [(1, 64, 64)])(*last), wanted) < 2e-5


@pytest.mark.slow
@installed
@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.int16])
def test_pixels_may_be_as_they_are_in_the_file(dtype):
    model = network(heights=False)
    run = onnx.OnnxNetwork(model, [(1, 64, 64)])
    optical, *others = example_inputs(model, 1, 64, 64)
    raw = optical.clamp(0, 255).to(dtype)
    assert torch.equal(run(raw, *others), run(raw.float(), *others))


@pytest.mark.slow
@installed
def test_the_same_inputs_give_the_same_bytes():
    model = network()
    inputs = example_inputs(model, 1, 64, 64)
    run, again = (onnx.OnnxNetwork(model, [(1, 64, 64)]) for _ in range(2))
    first = run(*inputs).clone()
    run(*example_inputs(model, 1, 64, 64)[:2], torch.zeros(1, 1, 64, 64), inputs[3])
    assert torch.equal(run(*inputs), first)
    assert torch.equal(again(*inputs), first)


@installed
def test_what_it_returned_stays_when_it_is_called_again():
    model = network()
    run = onnx.OnnxNetwork(model, [(1, 64, 64)])
    optical, *others = example_inputs(model, 1, 64, 64)
    first = run(optical, *others)
    kept = first.clone()
    run(optical + 50, *others)
    assert torch.equal(first, kept)


@installed
def test_building_is_silent_and_leaves_no_file(tmp_path, monkeypatch, capfd, recwarn):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    model = network(heights=False)
    onnx.OnnxNetwork(model, [(1, 64, 64)])
    assert capfd.readouterr() == ("", "")
    assert list(recwarn) == []
    assert list(tmp_path.rglob("*")) == []
    assert not model._forward_hooks


@installed
def test_it_uses_as_many_threads_as_torch(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    options = onnx._options(onnx._runtime())
    assert options.intra_op_num_threads == 3
    assert options.inter_op_num_threads == 1


@installed
def test_a_network_that_becomes_another_one_is_refused(monkeypatch):
    monkeypatch.setattr(onnx, "TOLERANCE", -1.0)
    with pytest.raises(
        ConfigError, match=r"'tu-test_resnet' differently from torch \(by .*: use --engine torch"
    ):
        onnx.OnnxNetwork(network(heights=False), [(1, 64, 64)])


@installed
def test_an_operation_without_an_onnx_counterpart_is_one_line(capfd):
    class Odd(nn.Module):
        def forward(self, x):
            return torch.linalg.matrix_exp(x)

    model = network(heights=False)
    model.head.add_module("odd", Odd())
    with pytest.raises(
        ConfigError, match=r"'tu-test_resnet' cannot be exported to ONNX .*torch"
    ) as error:
        onnx.OnnxNetwork(model, [(1, 64, 64)])
    assert "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


# --- Not installed --------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_what_is_missing_is_said_in_one_line(monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    importlib.reload(onnx)  # which does not need it yet
    with pytest.raises(ConfigError, match=r"--engine onnx needs: pip install onnx onnxruntime"):
        onnx.OnnxNetwork(network(heights=False), [(1, 64, 64)])


def test_it_is_available_with_both_packages_only(monkeypatch):
    for found in ({"onnx", "onnxruntime"}, {"onnx"}, {"onnxruntime"}, set()):
        monkeypatch.setattr(onnx, "find_spec", lambda name, f=found: name in f or None)
        assert onnx.available() == (len(found) == 2)
