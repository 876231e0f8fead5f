"""The default encoder, against the one of segmentation-models-pytorch and timm."""

import subprocess
import sys

import pytest
import torch
from segmentation_models_pytorch.encoders import get_encoder

from cafe_cli.model import model_file
from cafe_cli.model.efficientnet_lite import EfficientNetLite, variant
from cafe_cli.model.encoders import STORED, build_encoder, feature_channels
from tests.support.engines import card_of, tiny_model

HEAVY = ("timm", "segmentation_models_pytorch", "torchvision", "torch._dynamo")


def both(number, bands):
    """Build own and foreign encoder, with the same weights."""
    torch.manual_seed(number)
    own = EfficientNetLite(number, bands)
    other = get_encoder(f"tu-tf_efficientnet_lite{number}", in_channels=bands, weights=None)
    other.load_state_dict(own.state_dict())
    return own, other


@pytest.mark.slow
@pytest.mark.parametrize(("number", "bands"), [(0, 3), (0, 2), (1, 4), (2, 3), (3, 3), (4, 1)])
def test_tensors_have_the_names_order_and_spread_of_the_library(number, bands):
    torch.manual_seed(0)
    own = EfficientNetLite(number, bands).state_dict()
    other = get_encoder(f"tu-tf_efficientnet_lite{number}", in_channels=bands, weights=None)
    wanted = other.state_dict()
    assert [(n, t.shape, t.dtype) for n, t in own.items()] == [
        (n, t.shape, t.dtype) for n, t in wanted.items()
    ]
    kernels = [name for name, tensor in own.items() if tensor.ndim == 4]
    for name in kernels:
        size = own[name].numel()
        spread = own[name].std() / wanted[name].std()
        assert float(spread) == pytest.approx(1, abs=6 * size**-0.5)
        assert float(own[name].mean()) == pytest.approx(
            0, abs=6 * float(own[name].std()) * size**-0.5
        )
    assert all(own[name].equal(wanted[name]) for name in own if name not in kernels)


@pytest.mark.slow
@pytest.mark.parametrize("number", range(5))
def test_features_and_gradients_are_those_of_the_library(number):
    own, other = both(number, 3)
    image = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    results = []
    for encoder in (own, other):
        trained = encoder(image)[-4:]
        sum(feature.square().mean() for feature in trained).backward()
        with torch.no_grad():
            results.append([*trained, *encoder.eval()(image)[-4:]])
    for mine, wanted in zip(*results, strict=True):
        assert mine.equal(wanted)
    for mine, wanted in zip(own.parameters(), other.parameters(), strict=True):
        assert mine.grad.equal(wanted.grad)
    # The running statistics, after one step.
    for mine, wanted in zip(own.buffers(), other.buffers(), strict=True):
        assert mine.equal(wanted)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("tu-tf_efficientnet_lite0", 0),
        ("tu-tf_efficientnet_lite4", 4),
        ("tu-tf_efficientnet_lite5", None),
        ("tu-tf_efficientnet_lite0.in1k", None),
        ("tf_efficientnet_lite0", None),
        ("efficientnet-b0", None),
        ("tu-tf_efficientnet_b0", None),
    ],
)
def test_names(name, number):
    assert variant(name) == number


@pytest.mark.parametrize("number", range(5))
def test_there_are_four_features_with_the_channels_that_are_told(number):
    name = f"tu-tf_efficientnet_lite{number}"
    encoder = build_encoder(name, 3, STORED)
    assert isinstance(encoder, EfficientNetLite)
    # Training goes on with the library, whose random numbers are part of what a seed stands for.
    assert not isinstance(build_encoder(name, 3, "none"), EfficientNetLite)
    features = encoder.eval()(torch.zeros(1, 3, 64, 96))
    told = feature_channels(encoder, name, 3)
    sides = [(16, 24), (8, 12), (4, 6), (2, 3)]
    assert [f.shape for f in features] == [
        (1, n, *side) for n, side in zip(told, sides, strict=True)
    ]


@pytest.mark.slow
def test_a_model_is_loaded_and_folded_without_the_libraries(tmp_path):
    path = tmp_path / "model.safetensors"
    network = tiny_model(optical_encoder="tu-tf_efficientnet_lite0")
    model_file.save(path, network, card_of(network))
    code = f"""
import sys
from pathlib import Path
import torch
from cafe_cli.inference.engines.torch import prepare_network
from cafe_cli.model import model_file
network, _ = model_file.load(Path({str(path)!r}))
folded = prepare_network(network, torch.device("cpu"))
assert not any(isinstance(part, torch.nn.BatchNorm2d) for part in folded.modules())
print(*(name for name in {HEAVY!r} if name in sys.modules))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
