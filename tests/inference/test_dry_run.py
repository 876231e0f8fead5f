"""What `cafe predict --dry-run` reports is the plan that a run carries out."""

import numpy as np
import pytest

from cafe_cli.inference.job import ComputeOptions, PredictInput, PredictOutput
from cafe_cli.inference.predict import dry_run, dry_run_per_file
from tests.support.engines import predict, town, write

pytest_plugins = ["tests.support.fixtures"]

CPU = ComputeOptions("cpu", 1)


@pytest.fixture
def source(tmp_path):
    image, metres, _ = town(96, 130)
    optical = write(tmp_path / "ortho.tif", image)
    return PredictInput((optical,), (write(tmp_path / "dsm.tif", metres),))


def messages(report) -> str:
    return " | ".join(finding.message for finding in report.findings)


def test_it_counts_the_windows_of_the_run(source, model, tmp_path):
    report = dry_run([model], source, PredictOutput(tmp_path / "map.tif"), compute=CPU)
    assert report.ok, messages(report)
    assert not (tmp_path / "map.tif").exists()
    meter = predict(model, source, tmp_path / "map.tif")
    assert report.facts["windows"] == meter.total
    assert report.facts["map"] == {"width": 130, "height": 96, "gsd": 0.5}


@pytest.mark.slow
def test_it_fails_for_the_reasons_of_the_run(source, model, tmp_path):
    taken = tmp_path / "taken.tif"
    taken.write_text("precious")
    wrong = PredictInput(source.optical, source.elevation, bands=(1, 2))
    for one, outputs, says, planned in [
        (source, PredictOutput(taken), "taken.tif exists; pass --overwrite", True),
        (source, PredictOutput(taken, resume=True), "was made of other inputs or with", False),
        (source, PredictOutput(taken / "map.tif"), "is a file, so", True),
        (wrong, PredictOutput(tmp_path / "map.tif"), "the model was trained on 3", False),
    ]:
        report = dry_run([model], one, outputs, compute=CPU)
        assert not report.ok
        assert says in messages(report)
        assert ("windows" in report.facts) == planned


def test_wrong_outputs_and_damaged_models_are_both_reported(source, tmp_path):
    (tmp_path / "map.tif").write_text("precious")
    (tmp_path / "half.safetensors").write_bytes(b"x")
    outputs = PredictOutput(tmp_path / "map.tif")
    report = dry_run([tmp_path / "half.safetensors"], source, outputs, compute=CPU)
    taken, damaged = report.findings
    assert (taken.where, "exists" in taken.message) == (str(tmp_path / "map.tif"), True)
    assert "half.safetensors is not a cafe model" in damaged.message


def test_outputs_are_checked_where_the_rasters_are_wrong_too(source, model, tmp_path):
    write(tmp_path / "dsm.tif", np.zeros((1, 96, 130), np.float32))
    (tmp_path / "map.tif").write_text("precious")
    report = dry_run([model], source, PredictOutput(tmp_path / "map.tif"), compute=CPU)
    assert "every height is 0 m" in messages(report)
    assert "map.tif exists; pass --overwrite" in messages(report)


def test_folders_of_a_map_per_file_may_be_missing(source, model, tmp_path):
    (tmp_path / "maps").mkdir()
    outputs = PredictOutput(tmp_path / "maps", confidence=tmp_path / "sure")
    (report,) = dry_run_per_file([model], source, outputs, compute=CPU)
    assert report.ok, messages(report)
    assert not (tmp_path / "sure").exists()
    (tmp_path / "maps/ortho.tif").write_text("precious")
    (report,) = dry_run_per_file([model], source, outputs, compute=CPU)
    assert "ortho.tif exists; pass --overwrite" in messages(report)
