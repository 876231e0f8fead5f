import csv
import errno
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import rasterio
import torch
from hypothesis import HealthCheck, given
from hypothesis import settings as settings_of_hypothesis
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch._dynamo.exc import TorchDynamoException

from cafe_cli.config.load import dump_config, load_config
from cafe_cli.config.schema import TrainSettings
from cafe_cli.errors import (
    ConfigError,
    InputError,
    ModelFileError,
    OutputError,
    RunInterruptedError,
    TrainingError,
)
from cafe_cli.evaluation import metrics
from cafe_cli.model import model_file, stored
from cafe_cli.model.cafe import CaFE
from cafe_cli.model.calibration import CalibrationSums
from cafe_cli.model.encoders import build_encoder
from cafe_cli.tilesets.tile_rasters import read_tile
from cafe_cli.tilesets.tileset import load_tileset
from cafe_cli.training import curves, step, trainer
from cafe_cli.training.build import build_network, build_optimizer, learning_rate
from cafe_cli.training.distributed.processes import Processes
from cafe_cli.training.losses import training_loss
from cafe_cli.training.plan import LAST, dry_run
from cafe_cli.training.report import page as report_page
from cafe_cli.training.report.run import BEST, FINAL
from cafe_cli.training.train import TrainCallbacks, train
from cafe_cli.training.trainer import TrainingRun
from tests.support.engines import ENCODER, cut, settings, write_town

pytest_plugins = ["tests.support.fixtures"]
pytestmark = pytest.mark.slow

STEPS = 3  # of an epoch: six tiles in batches of two


def run(tileset: Path, output: Path, changes=None, **options):
    return train(tileset, output, settings(**(changes or {})), device="cpu", **options)


@pytest.fixture(scope="module")
def whole(tileset, tmp_path_factory) -> Path:
    """A run of two epochs that nothing disturbed."""
    output = tmp_path_factory.mktemp("whole") / "run"
    run(tileset, output)
    return output


@pytest.fixture
def no_pictures(monkeypatch):
    monkeypatch.setattr(curves, "draw_curves", lambda *args: None)
    monkeypatch.setattr(curves, "_write_tensorboard", lambda *args: None)
    monkeypatch.setattr(trainer, "write_report", lambda *args, **options: None)


PACE = ("seconds", "data_wait", "crops_per_second")


def history(output: Path) -> list[dict[str, str]]:
    with (output / "history.csv").open() as file:
        return [{k: v for k, v in row.items() if k not in PACE} for row in csv.DictReader(file)]


def same_weights(one: Path, other: Path, name: str = LAST) -> bool:
    first, second = load_file(one / name), load_file(other / name)
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


# --- learning rate -----------------------------------------------------------------------------


@given(st.integers(1, 500), st.floats(0, 1), st.floats(1e-6, 10))
def test_learning_rate(total, warmup, peak):
    given_ = TrainSettings(learning_rate=peak, warmup=warmup)
    rates = [learning_rate(step, total, given_) for step in range(total)]
    assert rates == [learning_rate(step, total, given_) for step in range(total)]
    assert all(0 < rate <= peak * (1 + 1e-9) for rate in rates)
    top = rates.index(max(rates))
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert max(rates) == pytest.approx(peak)


def test_learning_rate_by_hand():
    given_ = TrainSettings(learning_rate=0.8, warmup=0.2)
    rates = [learning_rate(step, 10, given_) for step in range(10)]
    cosine = [0.4 * (1 + math.cos(math.pi * k / 8)) for k in range(8)]
    assert rates == pytest.approx([0.4, 0.8, *cosine])
    assert learning_rate(10, 10, given_) == pytest.approx(0)


@pytest.mark.parametrize("warmup", [0, 0.05, 1])
def test_run_of_one_step(warmup):
    assert learning_rate(0, 1, TrainSettings(learning_rate=0.5, warmup=warmup)) == 0.5


# --- what a run leaves behind ------------------------------------------------------------------


def test_files(whole):
    names = {
        BEST,
        FINAL,
        LAST,
        "history.csv",
        "curves.png",
        "config.toml",
        "tensorboard",
        "scores.json",
    }
    names |= {"validation.csv", "report.html"}
    assert {p.name for p in whole.iterdir()} == names
    assert (whole / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert any(p.stat().st_size > 100 for p in (whole / "tensorboard").iterdir())
    assert load_config(whole / "config.toml").train == settings().train


def test_history(whole):
    rows = history(whole)
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "3"), ("2", "6")]
    for row in rows:
        values = {k: float(v) for k, v in row.items()}
        parts = values["student"] + values["teacher"] + values["distillation"]
        assert values["loss"] == pytest.approx(parts)
        assert 0 <= values["miou"] <= values["mean_f1"] <= 1
        each = [values[f"iou_{name}"] for name in ("ground", "building", "tree")]
        assert np.mean(each) == pytest.approx(values["miou"])


def test_card(whole, tileset):
    info = load_tileset(tileset)
    best, last = stored.read_card(whole / BEST), stored.read_card(whole / LAST)
    top = max(history(whole), key=lambda row: float(row["miou"]))
    assert best.scores["miou"] == pytest.approx(float(top["miou"]))
    assert (best.epoch, last.epoch) == (int(top["epoch"]), 2)
    assert best.scores["pixels"] == sum(info.pixels["validation"].values())
    assert (best.gsd, best.window, best.band_names) == (info.gsd, 64, info.band_names)
    assert best.height == info.height
    assert best.classes == info.classes
    assert best.config["train"]["epochs"] == 2
    assert len(best.training_pixels.bands) == 3
    assert best.calibration is not None
    assert last.calibration is None
    network, _ = model_file.load(whole / BEST)
    assert network.optical_mean.tolist() == pytest.approx(info.optical_statistics.mean)
    assert network.height_std.tolist() == pytest.approx(info.height_statistics.std)


def test_probabilities_of_the_best_model_are_calibrated(whole, tileset):
    """The temperature is in the weights: the errors in the card are those of the file."""
    network, card = model_file.load(whole / BEST)
    info, sums = load_tileset(tileset), CalibrationSums()
    for tile in info.of("validation"):
        patch, labels = read_tile(tileset, tile, info.size)
        arrays = (patch.optical.astype(np.float32), patch.optical_valid)
        arrays += (patch.height[None], patch.height_valid)
        with torch.inference_mode():
            logits = network(*(torch.from_numpy(values)[None] for values in arrays))
        known = labels != 255
        sums.add(logits[0].movedim(0, -1).numpy()[known], labels[known].astype(np.int64))
    before, after = card.calibration.before, card.calibration.after
    assert sums.fit().before.error == pytest.approx(after.error, abs=1e-3)
    assert after.error < before.error - 0.01


def test_limits_of_16_bits_travel_with_the_model(tmp_path, no_pictures):
    write_town(tmp_path, "a", 128, 192, seed=1, dtype="uint16")
    write_town(tmp_path, "b", 64, 320, seed=2, origin=(0, 1000), dtype="uint16")
    folder = cut(tmp_path, tmp_path / "tiles")
    run(folder, tmp_path / "run")
    found = load_tileset(folder).optical_statistics
    network, card = model_file.load(tmp_path / "run" / BEST)
    assert card.dtype == "uint16"
    assert network.optical_low.tolist() == list(found.low)
    assert network.optical_high.tolist() == list(found.high)
    assert found.high < (256 * 200,) * 3


def test_best_is_smaller_than_last(whole):
    assert (whole / BEST).stat().st_size * 2 < (whole / LAST).stat().st_size
    assert not any("pyramid" in name for name in load_file(whole / BEST))
    assert not any(name.startswith("training/") for name in load_file(whole / BEST))


def test_card_of_a_crop_larger_than_the_tiles(tileset, tmp_path, no_pictures):
    assert run(tileset, tmp_path / "run", {"train__epochs": 1, "train__crop": 96}).window == 64


def test_it_learns(tileset, tmp_path, no_pictures):
    changes = {"train__epochs": 15, "train__learning_rate": 1e-2, "train__batch_size": 3}
    card = run(tileset, tmp_path / "run", changes)
    assert card.scores["miou"] > 0.6


# --- resume ------------------------------------------------------------------------------------


def interrupt_at(step: int) -> TrainCallbacks:
    def on_step(done, total, loss):
        if done == step:
            signal.raise_signal(signal.SIGINT)

    return TrainCallbacks(on_step)


@pytest.mark.parametrize("step", [1, STEPS, STEPS + 2])
def test_interrupted_run_resumes_exactly(whole, tileset, tmp_path, no_pictures, step):
    output = tmp_path / "run"
    with pytest.raises(
        RunInterruptedError, match=f"stopped at step {step} of 6; continue with --resume"
    ):
        run(tileset, output, report=interrupt_at(step))
    steps = []
    report = TrainCallbacks(lambda done, total, loss: steps.append(done))
    run(tileset, output, resume=True, report=report)
    assert steps == list(range(step + 1, 7))  # nothing is done twice
    assert history(output) == history(whole)
    assert same_weights(output, whole)
    assert same_weights(output, whole, BEST)
    assert stored.read_card(output / BEST) == stored.read_card(whole / BEST)


def test_interrupted_twice(whole, tileset, tmp_path, no_pictures):
    output = tmp_path / "run"
    for number, resume in ((2, False), (4, True)):
        with pytest.raises(RunInterruptedError):
            run(tileset, output, report=interrupt_at(number), resume=resume)
    run(tileset, output, resume=True)
    assert history(output) == history(whole)
    assert same_weights(output, whole)


def test_handler_of_ctrl_c_is_put_back(tileset, tmp_path, no_pictures):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(RunInterruptedError):
        run(tileset, tmp_path / "run", report=interrupt_at(1))
    assert signal.getsignal(signal.SIGINT) is before


def test_second_ctrl_c_stops_at_once(tileset, tmp_path, no_pictures):
    def twice(done, total, loss):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(tileset, tmp_path / "run", report=TrainCallbacks(twice))


SCRIPT = """
import os, signal, sys
from pathlib import Path
from cafe_cli.config.load import load_config
from cafe_cli.training.train import TrainCallbacks, train

def on_step(done, total, loss):
    if done == 5:
        os.kill(os.getpid(), signal.SIGKILL)

tileset, output, config = map(Path, sys.argv[1:])
train(tileset, output, load_config(config), device="cpu", report=TrainCallbacks(on_step))
"""


def test_killed_run_resumes_exactly(whole, tileset, tmp_path, no_pictures):
    output, saved = tmp_path / "run", tmp_path / "settings.toml"
    saved.write_text(dump_config(settings()))
    words = [sys.executable, "-c", SCRIPT, str(tileset), str(output), str(saved)]
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # other sums otherwise
    killed = subprocess.run(words, timeout=300, check=False, env={**os.environ, **threads})
    assert killed.returncode == -signal.SIGKILL
    assert [row["epoch"] for row in history(output)] == ["1"]
    run(tileset, output, resume=True)
    assert history(output) == history(whole)
    assert same_weights(output, whole)
    assert same_weights(output, whole, BEST)


class KilledError(BaseException):
    """Stands for the end of the process."""


@contextmanager
def killed_at(monkeypatch, owner, name: str, call: int):
    real, calls = getattr(owner, name), []

    def fatal(*args, **kwargs):
        calls.append(name)
        if len(calls) == call:
            raise KilledError
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, fatal)
    try:
        yield
    except KilledError:
        monkeypatch.setattr(owner, name, real)
    else:
        pytest.fail(f"{name} was not called {call} times")


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [
        (step, "training_loss", 1),  # in the first step
        (curves, "to_csv", 1),  # after the first checkpoint, before its row
        (curves, "to_csv", 2),  # the same in the last epoch
        (model_file, "save", 4),  # after the first epoch
    ],
)
def test_killed_in_a_bad_moment(
    whole, tileset, tmp_path, no_pictures, monkeypatch, owner, name, call
):
    output = tmp_path / "run"
    with killed_at(monkeypatch, owner, name, call):
        run(tileset, output)
    run(tileset, output, resume=True)
    assert history(output) == history(whole)
    assert same_weights(output, whole)
    assert same_weights(output, whole, BEST)
    assert same_weights(output, whole, FINAL)


def test_resume_of_a_finished_run(whole, tileset, tmp_path, no_pictures):
    output = tmp_path / "run"
    shutil.copytree(whole, output)
    steps = []
    card = run(
        tileset, output, resume=True, report=TrainCallbacks(lambda *args: steps.append(args))
    )
    assert card == stored.read_card(whole / BEST)
    assert steps == []
    assert history(output) == history(whole)


def test_killed_before_the_report(tileset, tmp_path, monkeypatch):
    output = tmp_path / "run"
    with killed_at(monkeypatch, report_page, "render_page", 1):
        run(tileset, output, ONE)
    assert not (output / "report.html").exists()
    run(tileset, output, ONE, resume=True)
    assert (output / "report.html").exists()


@pytest.fixture(scope="module")
def encoder_file(tmp_path_factory) -> Path:
    """Return a file with weights of the encoder of the tests."""
    path = tmp_path_factory.mktemp("weights") / "encoder.safetensors"
    save_file(build_encoder(ENCODER, 3, "none").state_dict(), path)
    return path


def test_resume_needs_no_weights_from_elsewhere(encoder_file, tileset, tmp_path, no_pictures):
    begun, whole, weights = tmp_path / "begun", tmp_path / "whole", tmp_path / "x.safetensors"
    shutil.copy(encoder_file, weights)
    changes = {"model__weights": str(weights)}
    run(tileset, whole, changes)
    with pytest.raises(RunInterruptedError):
        run(tileset, begun, changes, report=interrupt_at(4))
    weights.unlink()
    with pytest.raises(
        TrainingError, match=r"starts from model\.weights was \['optical_encoder', "
    ):
        run(tileset, begun, resume=True)
    run(tileset, begun, changes, resume=True)
    assert same_weights(begun, whole)


def test_the_average_is_validated_and_saved(tileset, tmp_path, no_pictures):
    """The final model has the weights of the average that the checkpoint has."""
    output = tmp_path / "run"
    run(tileset, output, ONE | {"train__average": 0.5})
    network, card = model_file.load(output / FINAL)
    trained, extra, _ = model_file.load_training(output / LAST)
    own = network.state_dict()
    differing = 0
    for name, value in own.items():
        if not name.startswith("head.3."):  # divided by the temperature
            assert value.equal(extra[f"average/module.{name}"])
            differing += not value.equal(trained[name])
    assert differing > 50
    assert (card.epoch, card.scores) == (1, stored.read_card(output / BEST).scores)
    assert card.scores is not None


def test_without_average_the_network_itself_is_saved(tileset, tmp_path, no_pictures):
    output = tmp_path / "run"
    run(tileset, output, ONE | {"train__average": 0.0})
    network, _ = model_file.load(output / FINAL)
    trained, extra, _ = model_file.load_training(output / LAST)
    own = {k: v for k, v in network.state_dict().items() if not k.startswith("head.3.")}
    assert all(value.equal(trained[name]) for name, value in own.items())
    assert not any(name.startswith("average") for name in extra)


def test_pretrained_encoders_have_a_learning_rate_of_their_own(encoder_file, tileset, tmp_path):
    config = settings(
        model__weights=str(encoder_file), train__encoder_learning_rate=0.25,
        train__optimizer="sgd", train__weight_decay=0.5,
    )  # fmt: skip
    network = build_network(load_tileset(tileset), config)
    made = build_optimizer(network, config.train, config.model.pretrained)
    found = {
        id(parameter): (group["factor"], group["weight_decay"])
        for group in made.param_groups for parameter in group["params"]
    }  # fmt: skip
    for name, parameter in network.named_parameters():
        factor = 0.25 if name.partition(".")[0].endswith("_encoder") else 1
        assert found[id(parameter)] == (factor, 0.5 if parameter.ndim > 1 else 0)


def test_dry_run_of_a_resume(whole, tileset, tmp_path):
    assert dry_run(tileset, tmp_path, settings(), resume=True).ok  # it begins one
    (other,) = dry_run(tileset, whole, settings(train__seed=9), resume=True).findings
    assert "train.seed was 0, now it is 9" in other.message
    assert dry_run(tileset, whole, settings(), resume=True).ok


def test_other_settings_are_refused_before_any_work(whole, tileset, monkeypatch):
    monkeypatch.setattr(trainer.fine_tuning, "build", None)
    with pytest.raises(TrainingError, match=r"train\.seed was 0, now it is 9"):
        run(tileset, whole, {"train__seed": 9}, resume=True)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.learning_rate", 0.5),
        ("train.epochs", 9),
        ("train.batch_size", 3),
        ("train.seed", 1),
        ("train.optimizer", "sgd"),
        ("model.width", 16),
        ("model.guidance", "none"),
    ],
)
def test_resume_with_other_settings(whole, tileset, key, value):
    before = (whole / LAST).read_bytes()
    with pytest.raises(TrainingError, match=rf"{key} was .*, now it is {value}; set it back"):
        run(tileset, whole, {key.replace(".", "__"): value}, resume=True)
    assert (whole / LAST).read_bytes() == before


def test_resume_with_other_tiles(whole, scenes, tmp_path):
    other = cut(scenes, tmp_path / "tiles", tile__overlap=32)
    with pytest.raises(TrainingError, match="the tile set"):
        run(other, whole, resume=True)


def test_resume_of_a_run_that_knew_fewer_settings(whole, tileset, tmp_path, no_pictures):
    output = tmp_path / "run"
    with pytest.raises(RunInterruptedError):
        run(tileset, output, report=interrupt_at(4))
    tensors, extra, values = model_file.load_training(output / LAST)
    for key in ("train.accumulate", "train.clip", "train.freeze_epochs"):
        del values["settings"][key]
    del values["progress"]["stale"]
    network, _ = model_file.load(output / LAST)
    network.load_state_dict(tensors)
    model_file.save(output / LAST, network, stored.read_card(output / LAST), (extra, values))
    with pytest.raises(TrainingError, match=r"train\.accumulate was 1, now it is 2; set it back"):
        run(tileset, output, {"train__accumulate": 2}, resume=True)
    run(tileset, output, resume=True)
    assert history(output) == history(whole)
    assert same_weights(output, whole)


@pytest.mark.parametrize(
    "changes", [{"train__patience": 9}, {"train__checkpointing": True}, {"train__devices": 1}],
    ids=str,
)  # fmt: skip
def test_what_may_change(whole, tileset, tmp_path, no_pictures, changes):
    output = tmp_path / "run"
    with pytest.raises(RunInterruptedError):
        run(tileset, output, report=interrupt_at(4))
    run(tileset, output, changes, resume=True)
    assert same_weights(output, whole)


def test_batch_size_that_was_found_is_kept(tileset, tmp_path, no_pictures, caplog):
    caplog.set_level("INFO", "cafe")
    output, auto = tmp_path / "run", {"train__batch_size": "auto", "train__epochs": 3}
    with pytest.raises(RunInterruptedError):
        run(tileset, output, auto, report=interrupt_at(1))
    assert "train.batch_size: 8 tiles" in caplog.text
    assert load_config(output / "config.toml").train.batch_size == 8
    assert run(tileset, output, auto, resume=True).config["train"]["batch_size"] == 8


BUSY = {
    "train__label_smoothing": 0.1, "train__ignore_border": 1, "train__category_contrast": 0.1,
    "train__stream_heads": 0.3, "train__class_balance": 0.5,
    "train__epochs": 4, "train__batch_size": 3, "train__accumulate": 2, "train__patience": 1,
    "train__clip": 0.5, "train__freeze_epochs": 1, "train__learning_rate": 3e-2,
}  # fmt: skip


@pytest.fixture(scope="module")
def busy(tileset, tmp_path_factory) -> Path:
    """A run with accumulation, clipping, frozen encoders, early stopping, auxiliary losses."""
    output = tmp_path_factory.mktemp("busy") / "run"
    run(tileset, output, BUSY)
    return output


def test_every_auxiliary_loss_trains(busy):
    losses = {key: float(value) for key, value in history(busy)[-1].items() if "_" in key}
    assert min(losses["stream_heads"], losses["category_contrast"]) > 0
    assert not model_file.load(busy / BEST)[1].architecture.stream_heads


@settings_of_hypothesis(max_examples=3, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_killed_at_any_step(busy, tileset, no_pictures, data):
    end = int(history(busy)[-1]["step"])
    last = data.draw(st.integers(1, end), "killed after step")

    def kill(done, total, loss):
        if done == last:
            raise KilledError

    with TemporaryDirectory() as folder:
        output = Path(folder) / "run"
        with suppress(KilledError):
            run(tileset, output, BUSY, report=TrainCallbacks(kill))
        run(tileset, output, BUSY, resume=True)
        assert history(output) == history(busy)
        assert same_weights(output, busy)
        assert same_weights(output, busy, BEST)


def test_resume_without_a_checkpoint(tileset, tmp_path):
    (tmp_path / "notes.txt").write_text("of another program")
    with pytest.raises(InputError, match=r"cannot resume: .* holds no last\.safetensors"):
        run(tileset, tmp_path, resume=True)


@pytest.mark.parametrize("there", [False, True])
def test_resume_begins_where_there_is_no_run(whole, tileset, tmp_path, caplog, there):
    """So that a scheduler, or torchrun after a failure, may start one command again and again."""
    output = tmp_path / "run"
    if there:
        output.mkdir()
    with caplog.at_level("INFO", "cafe"):
        run(tileset, output, resume=True)
    assert f"{output} holds no run to resume: training begins" in caplog.messages
    assert history(output) == history(whole)
    assert same_weights(output, whole)


def test_some_processes_do_not_see_the_run(tileset, tmp_path, monkeypatch):
    """As where the folder of the run is on a disk of one machine."""
    monkeypatch.setattr(Processes, "max", lambda processes, value: 1)
    with pytest.raises(OutputError, match=r"only some processes .* that all machines share"):
        run(tileset, tmp_path / "run")


def test_resume_from_a_model(whole, tileset, tmp_path):
    shutil.copy(whole / BEST, tmp_path / LAST)
    with pytest.raises(ModelFileError, match="not a checkpoint to resume from"):
        run(tileset, tmp_path, resume=True)


@pytest.mark.parametrize("part", ["settings", "progress"])
def test_resume_from_a_damaged_state(whole, tileset, tmp_path, part):
    network, card = model_file.load(whole / LAST)
    _, _, values = model_file.load_training(whole / LAST)
    model_file.save(tmp_path / LAST, network, card, ({}, {**values, part: 7}))
    with pytest.raises(ModelFileError, match="is damaged"):
        run(tileset, tmp_path, resume=True)


def test_workers_change_nothing(whole, tileset, tmp_path, no_pictures):
    run(tileset, tmp_path / "run", {"train__workers": 1})
    assert history(tmp_path / "run") == history(whole)
    assert same_weights(tmp_path / "run", whole)


# --- choices -----------------------------------------------------------------------------------

ONE = {"train__epochs": 1}


@pytest.mark.parametrize(
    ("guidance", "losses"),
    [
        ("none", ["student"]),
        ("labels", ["teacher"]),
        ("distill", ["student", "teacher", "distillation"]),
    ],
)
def test_guidance(tileset, tmp_path, no_pictures, guidance, losses):
    card = run(tileset, tmp_path / "run", {**ONE, "model__guidance": guidance})
    (row,) = history(tmp_path / "run")
    assert [k for k in row if k in ("student", "teacher", "distillation")] == losses
    assert card.config["model"]["guidance"] == guidance
    assert card.scores["miou"] is not None


@pytest.mark.parametrize(
    "changes",
    [
        {"train__optimizer": "sgd"},
        {"train__dice": 0.5},
        {"model__pyramid": False},
        {"model__fusion": "gated"},
        {"train__batch_size": 50},
    ],
    ids=str,
)
def test_choices(tileset, tmp_path, no_pictures, changes):
    run(tileset, tmp_path / "run", {**ONE, **changes})
    (row,) = history(tmp_path / "run")
    assert math.isfinite(float(row["loss"]))


def test_sgd_resumes_exactly(tileset, tmp_path, no_pictures):
    sgd = {"train__optimizer": "sgd", **ONE}
    run(tileset, tmp_path / "whole", sgd)
    with pytest.raises(RunInterruptedError):
        run(tileset, tmp_path / "run", sgd, report=interrupt_at(2))
    run(tileset, tmp_path / "run", sgd, resume=True)
    assert same_weights(tmp_path / "run", tmp_path / "whole")


def test_seeds_differ(whole, tileset, tmp_path, no_pictures):
    run(tileset, tmp_path / "run", {"train__seed": 1})
    assert history(tmp_path / "run")[0]["loss"] != history(whole)[0]["loss"]


def test_no_validation_tiles(scenes, tmp_path, no_pictures, caplog):
    folder = cut(
        scenes, tmp_path / "tiles",
        scenes__only=["a"], split__validation_scenes=[], split__validation=0,
    )  # fmt: skip
    card = run(folder, tmp_path / "run")
    assert "has no validation tiles" in caplog.text
    assert card.scores is None
    assert card.epoch == 2  # the last
    assert "miou" not in history(tmp_path / "run")[0]
    assert not (tmp_path / "run" / "scores.json").exists()


def test_no_heights(tmp_path, no_pictures):
    for name, seed, row in (("a", 1, 0), ("b", 2, 1000)):
        write_town(tmp_path, name, 64, 128, seed, origin=(0, row))
    folder = cut(tmp_path, tmp_path / "tiles", scenes__elevation=None)
    card = run(folder, tmp_path / "run", ONE)
    assert not card.has_height
    network, _ = model_file.load(tmp_path / "run" / BEST)
    assert not hasattr(network, "height_encoder")


# --- guidance and validation -------------------------------------------------------------------


def test_labels_are_for_training_only(tileset, tmp_path, no_pictures, monkeypatch):
    forward, guided, calls = CaFE.forward, CaFE.training_outputs, []

    def plain(self, *inputs):
        calls.append("plain")
        assert len(inputs) == 4
        assert not self.training
        assert not torch.is_grad_enabled()
        return forward(self, *inputs)

    def with_labels(self, *inputs):
        calls.append("guided")
        assert self.training
        return guided(self, *inputs)

    monkeypatch.setattr(CaFE, "forward", plain)
    monkeypatch.setattr(CaFE, "training_outputs", with_labels)
    run(tileset, tmp_path / "run", {"train__epochs": 2})
    assert calls == (["guided"] * STEPS + ["plain"] * 3) * 2


def test_validation_labels_change_scores_only(whole, tileset, tmp_path, no_pictures):
    other = tmp_path / "tiles"
    shutil.copytree(tileset, other)
    for path in (other / "validation" / "label").glob("*.tif"):
        with rasterio.open(path, "r+") as dataset:
            dataset.write((dataset.read() + 1) % 3)
    run(other, tmp_path / "run")
    assert same_weights(tmp_path / "run", whole)
    scores = [[row["miou"] for row in history(folder)] for folder in (tmp_path / "run", whole)]
    assert scores[0] != scores[1]


def test_every_validation_pixel_counts_once(tileset, tmp_path, no_pictures):
    info = load_tileset(tileset)
    card = run(tileset, tmp_path / "run", {**ONE, "train__batch_size": 3})
    assert len(info.of("validation")) % 3
    labels = [np.bincount(read_tile(tileset, t, 64)[1].ravel(), minlength=3)
              for t in info.of("validation")]  # fmt: skip
    assert np.sum(card.scores["confusion"], axis=1).tolist() == np.sum(labels, axis=0).tolist()


def test_best_is_the_best(tileset, tmp_path, no_pictures, monkeypatch):
    mious = iter([math.nan, 0.2, 0.5, math.nan, 0.3, 0.5])
    real = metrics.compute_scores

    def scripted(confusion, classes):
        return metrics.Scores(**{**vars(real(confusion, classes)), "miou": next(mious)})

    monkeypatch.setattr(trainer, "compute_scores", scripted)
    told = []
    report = TrainCallbacks(epoch=lambda row, best: told.append((row.epoch, best)))
    changes = {"train__epochs": 6, "train__batch_size": 6}
    card = run(tileset, tmp_path / "run", changes, report=report)
    assert card.epoch == 3
    assert [epoch for epoch, best in told if best] == [1, 2, 3]


def test_the_next_batch_is_drawn_while_a_step_is_computed(
    tileset, tmp_path, no_pictures, monkeypatch
):
    told = []
    for owner, name in (
        (TrainingRun, "_next_batch"),
        (step.Step, "backward"),
        (step.Step, "update"),
    ):
        real = getattr(owner, name)
        monkeypatch.setattr(
            owner, name, lambda *args, _n=name, _r=real: (told.append(_n), _r(*args))[1]
        )
    run(tileset, tmp_path / "run", ONE)
    assert told == ["_next_batch", *["backward", "_next_batch", "update"] * STEPS]


def test_validation_takes_as_many_tiles_at_a_time_as_training(
    tileset, tmp_path, no_pictures, monkeypatch
):
    asked = []
    monkeypatch.setattr(trainer, "batches_in_order", lambda *args: asked.append(args) or [])
    run(tileset, tmp_path / "run", {**ONE, "train__batch_size": 6, "train__accumulate": 2})
    assert [sizes[1] for sizes in asked] == [3]


# --- failures ----------------------------------------------------------------------------------


def test_loss_that_is_nan(tileset, tmp_path, no_pictures, monkeypatch):
    calls = []

    def broken(*args, **options):
        calls.append(args)
        parts = training_loss(*args)
        return {**parts, "total": parts["total"] * (math.nan if len(calls) == 5 else 1)}

    monkeypatch.setattr(step, "training_loss", broken)
    message = r"the loss is nan at step 5; no single tile .*lower train\.learning_rate \(now 0\.0"
    with pytest.raises(TrainingError, match=message):
        run(tileset, tmp_path / "run")
    weights = load_file(tmp_path / "run" / LAST)
    assert all(torch.isfinite(t.float()).all() for t in weights.values())


def test_tile_that_makes_the_loss_nan(tileset, tmp_path, no_pictures, monkeypatch):
    third = load_tileset(tileset).of("train")[2]
    bad = read_tile(tileset, third, 64)[1]
    fingerprint = np.bincount(bad.ravel(), minlength=3).tolist()

    def broken(outputs, labels, *args, **options):
        parts = training_loss(outputs, labels, *args)
        found = [torch.bincount(tile.flatten(), minlength=3).tolist() for tile in labels]
        return {**parts, "total": parts["total"] * (math.nan if fingerprint in found else 1)}

    monkeypatch.setattr(step, "training_loss", broken)
    where = rf"{third.name} \(scene a, row {third.row}, column {third.col}\)"
    with pytest.raises(TrainingError, match=rf"nan at step \d; so is that of {where} alone: look"):
        run(tileset, tmp_path / "run", {"augment__scale": 1})


def test_heights_that_are_no_numbers(tileset, tmp_path, no_pictures):
    spoilt = tmp_path / "tiles"
    shutil.copytree(tileset, spoilt)
    name = load_tileset(spoilt).of("train")[2].name
    with rasterio.open(spoilt / f"train/height/{name}.tif", "r+") as dataset:
        dataset.write(np.full((1, 1, 1), np.nan, np.float32), window=((0, 1), (0, 1)))
    # One tile at a time: the loss alone does not tell a spoilt tile from a spoilt network.
    changes = {"train__batch_size": 1, "augment__height_dropout": 0}
    # The first pixel has to be in every crop, and in no void.
    changes |= {"augment__scale": 1, "augment__height_voids": 0}
    message = rf"the loss is nan .* heights of {name} \(.*\) are NaN or infinite: declare these"
    with pytest.raises(TrainingError, match=message):
        run(spoilt, tmp_path / "run", changes)


def test_out_of_memory(tileset, tmp_path, no_pictures, monkeypatch):
    def full(*args, **options):
        raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(step, "training_loss", full)
    message = r"out of memory in training; lower train\.batch_size \(now 2\), train\.crop"
    with pytest.raises(TrainingError, match=message) as caught:
        run(tileset, tmp_path / "run")
    assert "set train.checkpointing = true, raise train.accumulate (now 1)" in str(caught.value)
    monkeypatch.undo()
    run(tileset, tmp_path / "run", {"train__checkpointing": True}, resume=True)


@pytest.mark.parametrize("asked", [False, True])
def test_compiler_that_fails(tileset, tmp_path, no_pictures, monkeypatch, asked):
    def fail(*args, **options):
        if asked:
            signal.raise_signal(signal.SIGINT)
        raise TorchDynamoException("the compiler was killed\nand a second line")

    monkeypatch.setattr(step, "compile_encoders", lambda network: None)
    monkeypatch.setattr(step, "training_loss", fail)
    said = "torch.compile failed (the compiler was killed): continue with --resume"
    kind, message = (KeyboardInterrupt, None) if asked else (TrainingError, re.escape(said))
    with pytest.raises(kind, match=message):
        run(tileset, tmp_path / "run", {"train__compile": True})


def test_existing_output(whole, tileset):
    before = (whole / LAST).read_bytes()
    with pytest.raises(OutputError, match="exists; pass --resume to continue it, or --overwrite"):
        run(tileset, whole)
    assert (whole / LAST).read_bytes() == before


def test_overwrite(tileset, tmp_path, no_pictures):
    run(tileset, tmp_path / "run", ONE)
    (tmp_path / "run" / "tensorboard").mkdir(exist_ok=True)
    (tmp_path / "run" / "tensorboard" / "events.out.tfevents.0").touch()
    (tmp_path / "run" / ".best.partial.safetensors").touch()
    run(tileset, tmp_path / "run", {**ONE, "train__seed": 3}, overwrite=True)
    assert not (tmp_path / "run" / ".best.partial.safetensors").exists()
    assert not (tmp_path / "run" / "tensorboard" / "events.out.tfevents.0").exists()
    assert load_config(tmp_path / "run" / "config.toml").train.seed == 3


def test_only_runs_are_overwritten(tileset, tmp_path):
    precious = tmp_path / "precious.tif"
    precious.touch()
    with pytest.raises(OutputError, match="is not the folder of a run"):
        run(tileset, tmp_path, overwrite=True)
    assert precious.exists()
    with pytest.raises(OutputError, match="holds the tile set"):
        run(tileset, tileset, overwrite=True)
    assert (tileset / "tileset.json").exists()


def test_nothing_is_written_without_tiles(tmp_path):
    with pytest.raises(InputError, match="is not a tile set"):
        run(tmp_path, tmp_path / "run")
    assert os.listdir(tmp_path) == []


def test_full_disk(tileset, tmp_path, monkeypatch):
    def full(*args):
        raise OutputError("cannot write last.safetensors: No space left on device")

    monkeypatch.setattr(model_file, "save", full)
    with pytest.raises(OutputError, match="No space left"):
        run(tileset, tmp_path / "run")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("call", [2, 3, 4])  # the three models of the first epoch
def test_full_disk_leaves_the_checkpoint(whole, tileset, tmp_path, no_pictures, monkeypatch, call):
    output, real, calls = tmp_path / "run", model_file._write, []

    def full(tensors, metadata, path, beside):
        calls.append(path)
        if len(calls) == call:
            beside.write_bytes(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        real(tensors, metadata, path, beside)

    monkeypatch.setattr(model_file, "_write", full)
    name = (BEST, FINAL, LAST)[call - 2]
    with pytest.raises(OutputError, match=f"cannot write .*{name}: No space left on device"):
        run(tileset, output)
    monkeypatch.setattr(model_file, "_write", real)
    assert not list(output.glob(".*"))
    run(tileset, output, resume=True)
    assert history(output) == history(whole)
    assert same_weights(output, whole)


@pytest.mark.parametrize("workers", [0, 1])
def test_damaged_tile(tileset, tmp_path, no_pictures, workers):
    other = tmp_path / "tiles"
    shutil.copytree(tileset, other)
    path = sorted((other / "train" / "image").glob("*.tif"))[2]
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match=path.name) as caught:
        run(other, tmp_path / "run", {**ONE, "train__workers": workers})
    assert "\n" not in str(caught.value)
    assert "Traceback" not in str(caught.value)


def test_devices_that_are_not_there(tileset, tmp_path):
    with pytest.raises(ConfigError, match=r"cuda:99"):
        train(tileset, tmp_path / "run", settings(), device="cuda:99")
    with pytest.raises(ConfigError, match="cannot be shared among 3 devices"):
        run(tileset, tmp_path / "run", {"train__devices": 3})
    assert not (tmp_path / "run").exists()
