"""The scores of a short demo, compared with those that are committed; bytes that do not vary."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

from cafe_cli.config.load import dump_config, load_config
from cafe_cli.config.schema import PredictSettings
from cafe_cli.demo import demo
from cafe_cli.inference.job import PredictInput
from cafe_cli.training import curves, trainer
from tests.support.engines import ENCODER, predict
from tests.support.rasters import read

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "configs" / "sample.toml"
GOLDEN = Path(__file__).with_name("golden_scores.json")
TOLERANCE = 0.04
"""Of a share: other CPUs add up in another order, which moves pixels between near classes."""
SHORT = {
    "model.optical_encoder": ENCODER, "model.height_encoder": "same", "model.weights": "none",
    "model.width": 8, "train.epochs": 4, "train.batch_size": 4, "train.workers": 0,
    "train.optimizer": "sgd", "train.learning_rate": 2e-2, "augment.jpeg": 0,
}  # fmt: skip

pytestmark = pytest.mark.slow
if not SAMPLE.exists():
    pytest.skip("no sample data in this copy", allow_module_level=True)


@pytest.fixture(scope="module")
def short_demo(tmp_path_factory):
    """The demo with the smallest network and few epochs: its folder and its scores."""
    folder = tmp_path_factory.mktemp("demo")
    config = load_config(SAMPLE, SHORT)
    (folder / "sample.toml").write_text(dump_config(config), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(curves, "draw_curves", lambda *args: None)
        patch.setattr(curves, "_write_tensorboard", lambda *args: None)
        patch.setattr(trainer, "write_report", lambda *args, **options: None)
        scores = demo(folder / "sample.toml", folder / "demo", device="cpu")
    return folder / "demo", scores


def test_golden_scores(short_demo):
    """After a change that is meant to alter maps, renew the file and commit it with the change.

    ``RENEW_GOLDEN_SCORES=1 pytest tests/end_to_end/test_golden_scores.py`` writes it.
    """
    found = short_demo[1].as_json()
    values = {"overall_accuracy": found["overall_accuracy"], "miou": found["miou"]}
    if os.environ.get("RENEW_GOLDEN_SCORES"):
        GOLDEN.write_text(json.dumps(values, indent=1) + "\n")
    assert values == pytest.approx(json.loads(GOLDEN.read_text()), abs=TOLERANCE)


def mapped(demo_folder, output, jobs=2, **settings):
    """Map a piece of the third scene; return the map as it is stored."""
    source = PredictInput(
        (str(ROOT / "sample_data" / "town_1_ortho.tif"),),
        (str(ROOT / "sample_data" / "town_dsm.tif"),),
    )
    chosen = PredictSettings(**settings) if settings else None
    predict(demo_folder / "run" / "best.safetensors", source, output, jobs=jobs, settings=chosen)
    return output


def test_one_worker_and_eight_write_the_same_bytes(short_demo, tmp_path):
    one, eight = (
        mapped(short_demo[0], tmp_path / str(jobs) / "map.tif", jobs).read_bytes()
        for jobs in (1, 8)
    )
    assert one == eight


@pytest.mark.parametrize("engine", ["torch", "onnx"])
def test_batch_sizes_agree_in_all_but_a_few_pixels(short_demo, tmp_path, engine):
    """In 1 of 1000 pixels at most: sums of another order decide between classes that are equal."""
    options = {"engine": engine, "window": 128, "overlap": 32}
    one, *others = (
        read(mapped(short_demo[0], tmp_path / f"{size}.tif", batch_size=size, **options))
        for size in (1, 3, 8)
    )
    assert len(np.unique(one)) > 1
    for other in others:
        assert (one != other).mean() <= 1e-3
