import re
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from cafe_cli.classes import ClassTable
from cafe_cli.config.load import dump_config, load_config
from cafe_cli.config.schema import Config
from cafe_cli.errors import ConfigError, ModelFileError, TrainingError
from cafe_cli.model import model_file, stored
from cafe_cli.tilesets.tileset import load_tileset
from cafe_cli.training import fine_tuning
from cafe_cli.training.plan import dry_run
from cafe_cli.training.report.run import BEST
from cafe_cli.training.train import TrainCallbacks, train
from tests.support.engines import ENCODER, settings

pytest_plugins = ["tests.support.fixtures"]


def started(model, **changes):
    return fine_tuning.settle_model(settings(train__from_model=str(model), **changes))


def unset(config, *keys):
    """Return the config as if it did not set keys of [model]."""
    values = config.model_dump(exclude={"model": set(keys)}, exclude_unset=True)
    return Config.model_validate(values)


@pytest.fixture
def info(tileset):
    return load_tileset(tileset)


def altered(model, path, change):
    """Write the model with other tensors or metadata."""
    tensors = load_file(model)
    metadata = {"cafe": stored.read_card(model).model_dump_json()}
    change(tensors, metadata)
    save_file(tensors, path, metadata)
    return path


def test_no_model_to_start_from(info):
    config = settings()
    assert fine_tuning.settle_model(config) == config
    assert fine_tuning.build(info, config).taken == []


def test_the_model_gives_its_architecture(model):
    given = unset(settings(train__from_model=str(model)), "width", "optical_encoder")
    config = fine_tuning.settle_model(given)
    card = stored.read_card(model)
    assert config.model.width == card.architecture.width != Config().model.width
    assert config.model.optical_encoder == ENCODER
    assert config.model.initial_weights == ("from_model", "from_model")
    assert config.train.from_sha256 == stored.sha256(model)


@pytest.mark.parametrize(
    ("changes", "weights"),
    [
        ({"model__optical_encoder": "resnet18"}, ("none", "none")),
        ({"model__height_encoder": "resnet18"}, ("from_model", "none")),
        ({"model__optical_encoder": "resnet18", "model__height_encoder": ENCODER}, None),
    ],
)
def test_encoders_that_the_config_sets_otherwise(model, changes, weights):
    expected = weights or ("none", "from_model")
    assert started(model, **changes).model.initial_weights == expected


def test_a_config_of_another_run(model):
    config = settings(
        train__from_model=str(model), model__weights="from_model", model__optical_encoder="resnet18"
    )
    assert fine_tuning.settle_model(config).model.weights == "imagenet"


def test_weights_of_no_model():
    with pytest.raises(ConfigError, match=r"train\.from_model is not set: name the model"):
        settings(model__weights="from_model")


def test_statistics_are_the_models(model, info):
    begun = fine_tuning.build(info, started(model))
    source = model_file.load(model)[0]
    for name in ("optical_mean", "optical_std", "height_mean", "height_std"):
        assert torch.equal(getattr(begun.network, name), getattr(source, name)), name
    assert not torch.equal(
        begun.network.optical_mean, torch.tensor(info.optical_statistics.mean)
    )  # else the test says nothing
    assert (begun.taken[-1].name, begun.taken[-1].taken) == ("statistics of inputs", 2)


@pytest.mark.parametrize("change", [{"dtype": "uint16"}, {"scale": 16}, {"scale": 1 / 255}])
def test_statistics_of_another_scaling_are_those_of_the_tiles(model, info, change):
    factor = change.pop("scale", 1)
    found = info.optical_statistics
    scaled = found.model_copy(
        update={"mean": [v * factor for v in found.mean], "std": [v * factor for v in found.std]}
    )
    other = info.model_copy(update={"optical_statistics": scaled, **change})
    begun = fine_tuning.build(other, started(model))
    assert torch.allclose(begun.network.optical_mean, torch.tensor(scaled.mean))
    assert begun.taken[-1].note.startswith("image: of these tiles, whose values are of another")


def test_absolute_heights_are_standardised_anew(model, info):
    absolute = info.height.model_copy(update={"kind": "dsm", "ground": "none"})
    begun = fine_tuning.build(info.model_copy(update={"height": absolute}), started(model))
    assert torch.allclose(begun.network.height_mean, torch.tensor(info.height_statistics.mean))
    assert (
        begun.taken[-1].note == "heights: of these tiles, since not both are heights above ground"
    )


@pytest.mark.parametrize(
    ("new", "old", "places"),
    [
        (("Band 4 NIR", "rot"), ("red", "nir"), (1, 0)),
        (("band 1", "band 2"), ("band 1", "band 2"), (0, 1)),
        (("R", "G", "B"), ("blue", "green", "red"), (2, 1, 0)),
        (("nir",), ("red", "green"), (None,)),
    ],
)
def test_match_bands(new, old, places):
    assert fine_tuning.match_bands(new, old).places == places


def test_bands_without_names_are_taken_by_position(caplog):
    found = fine_tuning.match_bands(("band 1", "band 2"), ("red", "green"))
    assert found.places == (0, 1)
    assert "have no names" in caplog.text


def test_another_pixel_size(model, info):
    config = started(model)
    assert fine_tuning.warnings(info, config) == []
    coarse = info.model_copy(update={"gsd": 5 * info.gsd})
    (message,) = fine_tuning.warnings(coarse, config)
    assert "tiles have pixels of 2.5 m" in message
    assert "tile.gsd = 0.5" in message


def test_no_class_in_common(model, info):
    classes = ClassTable(tuple(replace(c, name=f"x{c.id}") for c in info.classes))
    other = info.model_copy(update={"classes": classes})
    (message,) = fine_tuning.warnings(other, started(model))
    assert "no class of" in message


def nan(tensors, metadata):
    tensors["head.3.bias"][0] = float("nan")


def no_card(tensors, metadata):
    del metadata["cafe"]
    metadata["format"] = "pt"


@pytest.mark.parametrize(
    ("change", "says"),
    [(nan, "are NaN or infinite"), (no_card, "to cafe train --weights")],
)
def test_models_that_cannot_be_taken(model, tileset, tmp_path, change, says):
    path = altered(model, tmp_path / "other.safetensors", change)
    report = dry_run(tileset, tmp_path / "run", settings(train__from_model=str(path)), device="cpu")
    (finding,) = report.findings
    assert says in finding.message
    assert str(path) in finding.message


@pytest.mark.parametrize("key", ["weights", "height_weights"])
def test_a_model_is_not_the_weights_of_an_encoder(model, tileset, tmp_path, key):
    config = settings(**{f"model__{key}": str(model)})
    (finding,) = dry_run(tileset, tmp_path / "run", config, device="cpu").findings
    assert f"{model} is a cafe model, not the weights of one encoder" in finding.message
    assert f"--from {model}" in finding.message


@pytest.mark.parametrize("name", ["model.onnx", "weights.pth", "model.pt", "model.zip"])
def test_other_formats(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"08")
    with pytest.raises(ModelFileError, match="is not a model that cafe train wrote"):
        started(path)


@pytest.mark.parametrize(
    ("name", "says"), [("", "is a folder"), ("absent.safetensors", "does not exist")]
)
def test_no_model(tmp_path, name, says):
    with pytest.raises(ModelFileError, match=says):
        started(tmp_path / name)


def test_a_file_cut_short(model, tmp_path):
    path = tmp_path / "short.safetensors"
    path.write_bytes(model.read_bytes()[:5000])
    with pytest.raises(ModelFileError, match="is not a cafe model, or it is damaged"):
        started(path)


def test_another_file_than_recorded(model):
    with pytest.raises(ConfigError, match=r"another file than before: its SHA-256 is \w{64}"):
        started(model, train__from_sha256="0" * 64)


def test_a_run_is_not_replaced_by_one_that_starts_from_it(model, tileset, tmp_path):
    output = tmp_path / "run"
    output.mkdir()
    (output / "config.toml").touch()
    shutil.copy(model, output / BEST)
    config = settings(train__from_model=str(output / BEST))
    with pytest.raises(ConfigError, match=r"holds the input .*best"):
        train(tileset, output, config, device="cpu", overwrite=True)


@pytest.mark.slow
def test_a_run_is_the_same_when_it_is_resumed_without_the_model(model, tileset, tmp_path):
    path = tmp_path / "base.safetensors"
    shutil.copy(model, path)
    config = settings(train__from_model=str(path), train__epochs=2)
    tables = []
    train(tileset, tmp_path / "whole", config, report=TrainCallbacks(start=tables.append))
    assert len(tables) == 1
    saved = load_config(tmp_path / "whole" / "config.toml")
    assert saved.train.from_sha256 == stored.sha256(path)
    assert saved.train.from_model == str(path)

    def stop(step, total, loss):
        if step == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(tileset, tmp_path / "parts", config, report=TrainCallbacks(step=stop))
    path.unlink()
    train(tileset, tmp_path / "parts", config, resume=True)
    whole, parts = (load_file(tmp_path / name / BEST) for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert stored.read_card(tmp_path / "parts" / BEST).config["train"]["from_sha256"]
    other = settings(train__from_model=str(model), train__epochs=2)
    with pytest.raises(TrainingError, match=r"train\.from_model was .*base"):
        train(tileset, tmp_path / "parts", other, resume=True)


@pytest.mark.slow
def test_the_command_line_says_what_was_taken(model, tileset, tmp_path, invoke, monkeypatch):
    monkeypatch.chdir(model.parent)
    (tmp_path / "c.toml").write_text(dump_config(settings(train__epochs=1)))
    output = tmp_path / "run"
    words = ["train", tileset, "-c", tmp_path / "c.toml", "-o", output, "--from", model.name]
    code, said = invoke(*words, "--device", "cpu")
    assert code == 0, said.err
    assert f"starts from {model}\n" in said.err
    assert re.search(r"decoder\W+8 of 8", said.err)
    assert load_config(output / "config.toml").train.from_model == str(model)
