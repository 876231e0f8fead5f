import json
import os
import pickle
import socket
import stat

import numpy as np
import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from cafe_cli import __version__
from cafe_cli.config.schema import HeightSettings
from cafe_cli.errors import ModelFileError, OutputError
from cafe_cli.model import model_file, stored
from tests.support.engines import ENCODER, TABLE, card_of, tiny_model

pytest_plugins = ["tests.support.fixtures"]


@pytest.fixture
def parts(model):
    """Return tensors and description of a model file that is in order."""
    with safe_open(model, framework="pt") as file:
        return load_file(model), json.loads(file.metadata()["cafe"])


def logits(network):
    generator = torch.Generator().manual_seed(1)
    a, shape = network.architecture, (2, 64, 64)
    optical = 255 * torch.rand(2, a.optical_bands, 64, 64, generator=generator)
    valid = torch.rand(shape, generator=generator) > 0.1
    height = 9 * torch.rand(2, 1, 64, 64, generator=generator)
    with torch.inference_mode():
        return network(optical, valid, height, ~valid)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [
        {},
        {"heights": False},
        {"optical_bands": 5, "fusion": "gated", "pyramid": False, "guidance": "labels"},
        {"optical_encoder": "tu-test_convnext", "height_encoder": ENCODER},
    ],
    ids=str,
)
def test_round_trip(tmp_path, kind):
    network = tiny_model(**kind)
    bands = tuple(f"band {i}" for i in range(network.architecture.optical_bands))
    card = card_of(network, scores={"miou": 0.5}, config={"train": {"epochs": 3}}, band_names=bands)
    model_file.save(tmp_path / "m.safetensors", network, card)
    loaded, read = model_file.load(tmp_path / "m.safetensors")
    assert read == card == stored.read_card(tmp_path / "m.safetensors")
    assert not loaded.training
    assert loaded.architecture == network.architecture
    assert torch.equal(logits(loaded), logits(network))


def test_encoder_that_reads_numbers_off_tensors(tmp_path):
    network = tiny_model(optical_encoder="mit_b0", heights=False)
    model_file.save(tmp_path / "m.safetensors", network, card_of(network))
    loaded, _ = model_file.load(tmp_path / "m.safetensors")
    assert torch.equal(logits(loaded), logits(network))


def test_channels_last_weights(tmp_path):
    network = tiny_model()
    before = logits(network)
    path = tmp_path / "m.safetensors"
    model_file.save(path, network.to(memory_format=torch.channels_last), card_of(network))
    assert torch.allclose(logits(model_file.load(path)[0]), before, atol=1e-4)


def test_card(model):
    card = stored.read_card(model)
    assert card.format == "cafe model 3"
    assert card.cafe_version == __version__
    assert card.torch_version == torch.__version__.partition("+")[0]
    assert card.classes.names == TABLE.names
    assert card.classes.palette.tolist() == TABLE.palette.tolist()
    assert card.band_names == ("red", "green", "blue")
    assert (card.dtype, card.gsd, card.window, card.epoch) == ("uint8", 0.5, 64, 1)
    assert card.height == HeightSettings(kind="ndsm", fill=0)
    assert card.has_height
    assert card.architecture.optical_encoder == ENCODER


def test_card_in_the_file(parts):
    """The JSON of the card is a format: models of older versions are read, and read ours."""
    description = {k: v for k, v in parts[1].items() if not k.endswith("_version")}
    assert description == {
        "format": "cafe model 3",
        "architecture": {
            "classes": 3, "optical_bands": 3, "heights": True, "optical_encoder": ENCODER,
            "height_encoder": None, "width": 8, "fusion": "sum", "attention": 0,
            "guidance": "none", "enhancement": "1-p", "pyramid": True, "stream_heads": False,
            "height_planes": 1,
        },
        "classes": [
            {"id": 0, "name": "ground", "color": "#b8b0a6", "scored": True},
            {"id": 1, "name": "building", "color": "#d7301f", "scored": True},
            {"id": 2, "name": "tree", "color": "#1a7a3a", "scored": True},
        ],
        "band_names": ["red", "green", "blue"], "dtype": "uint8", "gsd": 0.5,
        "height": HeightSettings(kind="ndsm", fill=0).model_dump(),
        "window": 64, "epoch": 1, "scores": None, "config": {},
        "training_pixels": None, "calibration": None,
    }  # fmt: skip


def test_card_that_does_not_know_later_settings(tmp_path, parts):
    tensors, description = parts
    path = tmp_path / "m.safetensors"
    for key in ("attention", "heights", "height_planes"):
        del description["architecture"][key]
    forge(path, tensors, description)
    card = model_file.load(path)[1]
    assert card.has_height
    assert card.architecture.attention == 0


def test_files_of_the_format_before(tmp_path, parts):
    tensors, description = parts
    path = tmp_path / "m.safetensors"
    del description["training_pixels"], description["calibration"]
    forge(path, tensors, {**description, "format": "cafe model 2"})
    card = model_file.load(path)[1]
    assert card.format == "cafe model 2"
    assert card.training_pixels is card.calibration is None


def test_everybody_may_read_it(tmp_path):
    network = tiny_model()
    (tmp_path / "plain").touch()
    model_file.save(tmp_path / "m.safetensors", network, card_of(network))
    modes = {stat.S_IMODE(os.stat(p).st_mode) for p in tmp_path.iterdir()}
    assert len(modes) == 1
    assert len(list(tmp_path.iterdir())) == 2


def test_training_tensors(tmp_path):
    network, path = tiny_model(), tmp_path / "last.safetensors"
    training = {"0/exp_avg": torch.arange(6.0).reshape(2, 3), "0/step": torch.tensor(7.0)}
    values = {"progress": {"epoch": 3, "best": 0.1 + 0.2}}
    model_file.save(path, network, card_of(network), (training, values))
    loaded, _ = model_file.load(path)
    assert torch.equal(logits(loaded), logits(network))
    own, extra, read = model_file.load_training(path)
    assert read == values
    assert own.keys() == network.state_dict().keys()
    assert extra.keys() == training.keys()
    assert all(torch.equal(extra[k], training[k]) for k in training)


def test_model_is_no_checkpoint(model):
    with pytest.raises(ModelFileError, match="not a checkpoint to resume from"):
        model_file.load_training(model)


def refused(path, says: str, load=model_file.load) -> None:
    with pytest.raises(ModelFileError) as caught:
        load(path)
    message = str(caught.value)
    assert says in message
    assert str(path) in message
    assert "\n" not in message
    assert len(message) < 500


def header(size: int, text: bytes = b"") -> bytes:
    return size.to_bytes(8, "little") + text


JUNK = {
    "empty": b"",
    "random": np.random.default_rng(0).bytes(5000),
    "zeros": bytes(5000),
    "huge header": header(2**63, b"{}"),
    "header larger than the file": header(10**6, b"{}"),
    "header no JSON": header(5, b"\xff{\x00]}"),
    "header no object": header(2, b"[]"),
    "deep JSON": header(20_000, b"[" * 20_000),
    "offsets beyond the file": header(
        70, b'{"a":{"dtype":"F32","shape":[9999999],"data_offsets":[0,39999996]}}'.ljust(70)
    ),
}


@pytest.mark.parametrize("junk", JUNK.values(), ids=JUNK)
def test_junk(tmp_path, junk):
    path = tmp_path / "m.safetensors"
    path.write_bytes(junk)
    for load in (model_file.load, stored.read_card, model_file.load_training):
        refused(path, "is not a cafe model, or it is damaged", load)


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.999])
def test_truncated(tmp_path, model, share):
    path = tmp_path / "m.safetensors"
    path.write_bytes(model.read_bytes()[: int(model.stat().st_size * share)])
    refused(path, "is not a cafe model, or it is damaged")


def test_missing_and_folder(tmp_path):
    refused(tmp_path / "m.safetensors", "does not exist")
    refused(tmp_path, "is a folder; name the model in it")


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("writer", [pickle.dump, torch.save], ids=["pickle", "torch.save"])
def test_code_is_not_run(tmp_path, writer):
    path, mark = tmp_path / "m.safetensors", tmp_path / "run"
    with path.open("wb") as file:
        writer(Evil(mark), file)
    for load in (model_file.load, stored.read_card, model_file.load_training):
        refused(path, "is not a cafe model", load)
    assert not mark.exists()


def test_weights_of_something_else(tmp_path):
    path = tmp_path / "m.safetensors"
    save_file({"conv.weight": torch.zeros(3, 3)}, path)
    refused(path, "holds weights, but not those of a cafe model")


def forge(path, tensors, description) -> None:
    text = description if isinstance(description, str) else json.dumps(description)
    save_file(tensors, path, {"cafe": text})


@pytest.mark.parametrize(
    ("description", "says"),
    [
        ("[1, 2]", "description cannot be used"),
        ("7", "description cannot be used"),
        ("null", "description cannot be used"),
        ("{", "description cannot be used"),
        ("{}", "description cannot be used"),
        ("[" * 9999, "description cannot be used"),
        ("", "description cannot be used"),
    ],
)
def test_description_that_is_none(tmp_path, parts, description, says):
    path = tmp_path / "m.safetensors"
    forge(path, parts[0], description)
    refused(path, says)
    refused(path, says, stored.read_card)


CARDS = {
    "format": ("cafe model 9", "of another version of cafe"),
    "spell": ("abracadabra", "spell"),
    "gsd": (0, "gsd"),
    "window": (10**9, "window"),
    "height": ({"kind": "moon"}, "height.kind"),
    "classes": ([], "class ids are []"),
    "band_names": (["red"], "3 bands is described with 3 classes and 1 bands"),
}


@pytest.mark.parametrize("key", CARDS)
def test_cards(tmp_path, parts, key):
    tensors, description = parts
    value, says = CARDS[key]
    path = tmp_path / "m.safetensors"
    forge(path, tensors, {**description, key: value})
    refused(path, says)


CLASSES = [
    [{"id": 0, "name": "a"}],
    [{"id": "x", "name": "a", "color": "#000000", "scored": True}],
    [{"id": 0, "name": "a", "color": "red", "scored": True}],
    [{"id": 5, "name": "a", "color": "#000000", "scored": True}],
    TABLE.as_json()[:2],
]


@pytest.mark.parametrize("classes", CLASSES, ids=range(len(CLASSES)))
def test_class_tables(tmp_path, parts, classes):
    tensors, description = parts
    path = tmp_path / "m.safetensors"
    forge(path, tensors, {**description, "classes": classes})
    refused(path, "class")


ARCHITECTURES = {
    "unknown key": {"hook": "os.system"},
    "hub": {"optical_encoder": "hf-hub:evil/x"},
    "hub of timm": {"optical_encoder": "tu-hf-hub:evil/x"},
    "hub for heights": {"height_encoder": "tu-hf_hub:evil/x"},
    "path": {"optical_encoder": "/tmp/evil"},
    "local folder": {"optical_encoder": "tu-local-dir:/tmp/evil"},
    "dots": {"optical_encoder": "tu-../../evil"},
    "tag": {"optical_encoder": "tu-resnet18.evil"},
    "no such encoder": {"optical_encoder": "evilnet"},
    "encoder is a number": {"optical_encoder": 0},
    "encoder is none": {"optical_encoder": None},
    "encoder is a list": {"height_encoder": ["resnet18"]},
    "encoder is endless": {"optical_encoder": "x" * 100_000},
    "other encoder": {"optical_encoder": "tu-test_convnext"},
    "width 10**9": {"width": 10**9},
    "width 4096": {"width": 4096},
    "width 0": {"width": 0},
    "width of text": {"width": "8"},
    "width of a fraction": {"width": 8.5},
    "no width": {"width": None},
    "classes 0": {"classes": 0},
    "classes 10**9": {"classes": 10**9},
    "classes text": {"classes": "3" * 100_000},
    "bands 10**9": {"optical_bands": 10**9},
    "fusion": {"fusion": "magic"},
    "guidance": {"guidance": ["none"]},
    "no heights": {"heights": False},
}


SAYS = {
    "unknown key": "unknown architecture setting 'hook'",
    "hub": "'hf-hub:evil/x' is not the name of an encoder",
    "path": "'/tmp/evil' is not the name of an encoder",
    "width 10**9": "width is 1000000000: it has to be 1 to 4096",
    "width of a fraction": "width is 8.5: it has to be 1 to 4096",
    "no such encoder": "no encoder is named 'evilnet'",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architectures(tmp_path, parts, monkeypatch, name):
    def connect(*args):
        pytest.fail(f"a model file made cafe connect to {args}")

    monkeypatch.setattr(socket.socket, "connect", connect)
    tensors, description = parts
    path = tmp_path / "m.safetensors"
    architecture = {**description["architecture"], **ARCHITECTURES[name]}
    forge(path, tensors, {**description, "architecture": architecture})
    refused(path, SAYS.get(name, ""))


def without_head(tensors):
    return {k: v for k, v in tensors.items() if k != "head.3.weight"}


WEIGHTS = {
    "missing": (without_head, "1 missing, 0 unknown, 0 of another shape, e.g. 'head.3.weight'"),
    "extra": (lambda t: {**t, "evil\nx": torch.zeros(1)}, "1 unknown"),
    "shape": (lambda t: {**t, "head.3.weight": torch.zeros(9, 9)}, "1 of another shape"),
    "none": (lambda t: {"training/x": torch.zeros(1)}, "missing"),
}


@pytest.mark.parametrize(("change", "says"), WEIGHTS.values(), ids=WEIGHTS)
def test_weights_that_do_not_fit(tmp_path, parts, change, says):
    tensors, description = parts
    path = tmp_path / "m.safetensors"
    forge(path, change(tensors), description)
    refused(path, says)


@pytest.mark.parametrize("training", ["[1]", "{", "7"])
def test_state_of_training_that_is_none(tmp_path, parts, training):
    tensors, description = parts
    path = tmp_path / "m.safetensors"
    save_file(tensors, path, {"cafe": json.dumps(description), "training": training})
    refused(path, "training state is damaged", model_file.load_training)


def test_full_disk(tmp_path, monkeypatch):
    network, path = tiny_model(), tmp_path / "m.safetensors"
    model_file.save(path, network, card_of(network))
    before = path.read_bytes()

    def full(tensors, target, metadata):
        target.write_bytes(b"half")
        (target.parent / ".tmpAbC").write_bytes(b"half")
        raise SafetensorError(
            "Error while serializing: I/O error: No space left on device (os error 28) at path x"
        )

    monkeypatch.setattr(model_file, "save_file", full)
    with pytest.raises(OutputError) as caught:
        model_file.save(path, tiny_model(1), card_of(network))
    assert str(caught.value) == f"cannot write {path}: No space left on device"
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["m.safetensors"]


def test_killed_while_saving(tmp_path, monkeypatch):
    network, path = tiny_model(), tmp_path / "m.safetensors"

    def killed(tensors, target, metadata):
        (target.parent / ".tmpAbC").write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(model_file, "save_file", killed)
        patch.setattr(model_file, "remove", lambda path: None)  # as if nothing ran any more
        with pytest.raises(KeyboardInterrupt):
            model_file.save(path, network, card_of(network))
    assert not path.exists()
    model_file.save(path, network, card_of(network))
    assert os.listdir(tmp_path) == ["m.safetensors"]
