"""The study in `benchmarks/ablation`: that it compares what it says."""

import json
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from cafe_cli.errors import ConfigError, InputError, OutputError
from cafe_cli.model.cafe import Architecture, CaFE, TrainingOutputs, labels_at
from cafe_cli.training.losses import pyramid_loss
from tests.support.rasters import grid, noise

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT))
folds = pytest.importorskip("benchmarks.ablation.folds", reason="no benchmarks in this copy")
package = pytest.importorskip("benchmarks.ablation.package")
recipe = pytest.importorskip("benchmarks.ablation.recipe")
records = pytest.importorskip("benchmarks.ablation.records")
report = pytest.importorskip("benchmarks.ablation.report")
run = pytest.importorskip("benchmarks.ablation.run")
scoring = pytest.importorskip("benchmarks.ablation.scoring")
schedule = pytest.importorskip("benchmarks.ablation.schedule")
variants = pytest.importorskip("benchmarks.ablation.variants")

CONFIG = """
classes = [{ id = 0, name = "ground" }, { id = 1, name = "tree" }]
[scenes]
optical = "ortho.tif"
elevation = "dsm.tif"
labels = "labels.tif"
[height]
kind = "ndsm"
[tile]
size = 32
overlap = 0
[split]
buffer = 0
[model]
optical_encoder = "tu-regnetx_002"
weights = "none"
width = 8
[train]
batch_size = 2
"""


@pytest.fixture
def study(tmp_path, write):
    """Return a study of a scene of 128 x 64 pixels in two strips."""
    where = grid(128, 64)
    write("data/ortho.tif", noise(3, where), where)
    write("data/dsm.tif", np.abs(noise(1, where, "float32")), where)
    for name in ("labels", "labels_sparse"):
        write(f"data/{name}.tif", noise(1, where, seed=1) % 2, where, nodata=255)
    (tmp_path / "mine.toml").write_text(CONFIG)
    return folds.begin(tmp_path / "data", tmp_path / "out", tmp_path / "mine.toml", 2, 1, {})


def row(identity="a", fold=0, seed=0, miou=0.5, **other):
    confusion = [[8, 2], [0, 10]]
    scored = {"miou": miou, "overall_accuracy": 0.9, "iou": {"x": 0.8, "y": None}}
    return {
        "identity": identity, "fold": fold, "seed": seed, "steps": 9, "device": "cpu",
        "scores": {"plain": {**scored, "confusion": confusion}}, "seconds": 3.0,
        "cpu_seconds": 2.0, "parameters": 1_000_000, "batch_size": 8, "code": "c", "commit": None,
        **other,
    }  # fmt: skip


# ------------------------------------------------------------------ the tables


def test_all_variants_can_be_built(study):
    for variant in variants.VARIANTS.values():
        recipe.Recipe.of(variant.recipe)
        made = study.config(variant).model_dump()
        for key, value in variant.config.items():
            section, name = key.split(".")
            assert made[section][name] == value


def test_tables_name_variants_and_passes_that_there_are():
    for table in variants.TABLES.values():
        for entry in (table.reference, *table.entries):
            assert entry.variant in variants.VARIANTS
            assert entry.path in scoring.PASSES


def test_an_unknown_hook_is_refused():
    with pytest.raises(ConfigError, match="no hook of the study is named 'magic'"):
        recipe.Recipe.of({"magic": 1.0})


def test_variants_of_the_same_settings_are_one_run(study):
    jobs = schedule.plan(study, ["base", "distill", "none"], seeds=2, steps=9)
    assert [job.same for job in jobs[:2]] == [("base", "none"), ("distill",)]
    assert len(jobs) == 2 * 2 * 2


def test_finished_runs_are_not_done_again(study):
    first, *others = schedule.plan(study, ["none"], seeds=2, steps=9)
    records.append(study.runs_path, row(first.identity, first.fold, first.seed))
    assert schedule.missing(study, [first, *others]) == others


def test_settings_that_the_config_does_not_name_do_not_count(study):
    """So that those of later versions leave the runs of this one valid."""
    before, text = study.identities(), study.config_path.read_text()
    study.config_path.write_text(text.replace("momentum = 0.9\n", ""))
    assert not set(before.values()) & set(study.identities().values())


def test_another_study_is_not_mixed_in(study, tmp_path):
    arguments = (tmp_path / "data", tmp_path / "out", tmp_path / "mine.toml")
    folds.begin(*arguments, 2, 1, {})
    for strips, settings in ((3, {}), (2, {"model.width": 16})):
        with pytest.raises(OutputError, match="of a study with another config"):
            folds.begin(*arguments, strips, 1, settings)


def test_two_scenes_are_refused(tmp_path, write):
    where = grid(64, 64)
    for name in ("a", "b"):
        write(f"data/{name}_ortho.tif", noise(3, where), where)
    (tmp_path / "mine.toml").write_text('[scenes]\noptical = "{id}_ortho.tif"\n')
    with pytest.raises(InputError, match=r"the config finds 2 scene\(s\)"):
        folds.begin(tmp_path / "data", tmp_path / "out", tmp_path / "mine.toml", 2, 1, {})
    assert not (tmp_path / "out").exists()


def test_a_study_belongs_to_one_process(study):
    with (
        records.alone(study),
        pytest.raises(OutputError, match="a study is running in"),
        records.alone(study),
    ):
        pass


# ------------------------------------------------------------------ a run


def test_a_run_trains_on_one_strip_and_is_scored_on_the_other(study):
    folds.cut(study)
    done = run.run(study, "distill_noisy", 1, 0, 2, torch.device("cpu"))
    assert done["losses"]
    assert {"plain", "guided", "sparse"} <= done["scores"].keys()
    # The right half, all of it, once; sparse labels are the same labels here.
    assert np.sum(done["scores"]["plain"]["confusion"]) == 64 * 64
    assert done["scores"]["sparse"] == done["scores"]["plain"]


def test_a_run_can_be_repeated(study):
    folds.cut(study)
    once, again = (run.run(study, "none", 0, 3, 2, torch.device("cpu")) for _ in range(2))
    assert once["losses"] == again["losses"]
    assert once["scores"] == again["scores"]


def test_crashes_are_told_and_kept(study, monkeypatch, capsys):
    def start(study, job, device):
        with study.log_path(job).open("w") as log:
            code = f"import sys; sys.exit('no luck' if {job.fold} else 0)"
            process = subprocess.Popen([sys.executable, "-c", code], stdout=log, stderr=log)
        return schedule._Running(process, job, 0.0)

    monkeypatch.setattr(schedule, "_start", start)
    monkeypatch.setattr(schedule, "_LOOK", 0.01)
    jobs = schedule.plan(study, ["none"], seeds=1, steps=9)
    assert schedule.carry_out(study, jobs, "cpu", side_by_side=2) == 1
    (kept,) = records.read(study.failures_path)
    assert (kept["fold"], kept["said"]) == (1, "no luck")
    assert "none fold 1 seed 0: FAILED" in capsys.readouterr().out
    assert "- failed: none, fold 1, seed 0, 9 steps: no luck" in list(report.failures(study, []))


# ------------------------------------------------------------------ the hooks


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    optical = torch.rand(2, 3, 64, 64, generator=generator) * 255
    height = torch.rand(2, 1, 64, 64, generator=generator)
    valid = torch.ones(2, 64, 64, dtype=torch.bool)
    labels = torch.randint(3, (2, 64, 64), generator=generator)
    labels[:, :9] = 255
    return package.Sample(package.Inputs(optical, valid, height, valid), labels)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return CaFE(Architecture(3, 3, optical_encoder="tu-regnetx_002", width=8, guidance="distill"))


def test_smoothing_is_that_of_torch(batch):
    path = [torch.randn(2, 3, side, side) for side in (8, 64)]
    smoothed = pyramid_loss(path, batch.labels)
    smoothed = smoothed + recipe.smoothing(0.1, TrainingOutputs(path), batch.labels)
    expected = [
        F.cross_entropy(
            x, labels_at(batch.labels, x.shape[-2:]), ignore_index=255, label_smoothing=0.1
        )
        for x in path
    ]
    torch.testing.assert_close(smoothed, torch.stack(expected).mean())


def test_lovasz_of_a_hard_prediction_is_one_minus_iou(batch):
    guess, known = torch.randint(3, batch.labels.shape), batch.labels != 255
    logits = 1000.0 * F.one_hot(guess, 3).movedim(-1, 1)
    ious = []
    for c in range(3):
        own, found = (batch.labels == c) & known, (guess == c) & known
        ious.append(((own & found).sum() / (own | found).sum()).item())
    assert recipe.lovasz_softmax(logits, batch.labels).item() == pytest.approx(
        1 - statistics.mean(ious)
    )


def test_borders_lose_their_labels(batch):
    labels = torch.zeros(1, 5, 8, dtype=torch.int64)
    labels[..., 4:] = 1
    (line, *_) = recipe.borders(1, batch._replace(labels=labels), None).labels[0].tolist()
    assert line == [0, 0, 0, 255, 255, 1, 1, 1]


@pytest.mark.parametrize("name", ["noise", "predicted"])
def test_masks_change_only_what_guides(batch, network, name):
    before = batch.labels.clone()
    hook = recipe.GUIDE[name]
    unchanged, changed = (hook(p, network, batch, np.random.default_rng(0)) for p in (0.0, 1.0))
    assert torch.equal(unchanged, before)
    assert not torch.equal(changed, before)
    assert torch.equal(batch.labels, before)
    assert network.training


def test_batches_that_are_not_guided_have_no_teacher(batch, network):
    guided, plain = (recipe.Recipe(guided=share) for share in (1.0, 0.0))
    random = np.random.default_rng(0)
    assert guided.outputs(network, batch, random).teacher is not None
    assert plain.outputs(network, batch, random).teacher is None
    assert network.architecture.guidance == "distill"


@pytest.mark.parametrize("seed", range(4))
def test_zoom_keeps_streams_together(batch, seed):
    marked = batch._replace(
        inputs=batch.inputs._replace(height=batch.labels[:, None].float()),
    )
    (_, _, height, valid), labels = recipe.zoom(0.7, marked, np.random.default_rng(seed))
    assert labels.shape[-1] % 32 == 0
    assert valid.dtype == torch.bool
    assert torch.equal(height[:, 0], labels.float())


def test_averaged_weights_follow(network):
    averaged = recipe.Averaged(network, 0.5)
    start = averaged.network.head[0].weight.clone()
    with torch.no_grad():
        network.head[0].weight.add_(1.0)
    averaged.update(network)
    moved = averaged.network.head[0].weight - start
    torch.testing.assert_close(moved, torch.full_like(moved, 0.9))  # the first decay is 0.1


def test_balance_draws_rare_classes():
    counts = np.array([[100, 0]] * 9 + [[0, 1]])
    keys = [[package.SampleKey(0, seed) for seed in range(8)]] * 50
    drawn = [key for batch in recipe.balance(1.0, keys, counts, np.random.default_rng(0))
             for key in batch]  # fmt: skip
    assert 0.4 < np.mean([key.tile == 9 for key in drawn]) < 0.6
    assert [key.seed for key in drawn[:8]] == list(range(8))


def test_blobs_are_the_share_that_was_asked_for():
    gone = scoring.blobs((64, 96), 0.3, seed=1)
    assert gone.sum() == round(0.3 * 64 * 96)
    assert torch.equal(gone, scoring.blobs((64, 96), 0.3, seed=1))
    assert scoring.blobs((64, 96), 1.0, seed=1).all()


# ------------------------------------------------------------------ the report


def test_only_pairs_are_compared():
    reference = {(0, 0): 50.0, (1, 0): 60.0, (2, 0): 90.0}
    found = report.paired({(0, 0): 51.0, (1, 0): 63.0, (5, 5): 0.0}, reference)
    assert (found.mean, found.pairs) == (2.0, 2)
    assert found.error == pytest.approx(1.0)
    assert report.paired({(5, 5): 0.0}, reference) is None


def test_pooled_scores_add_up_whole_seeds_only():
    rows = [row(fold=0), row(fold=1), row(fold=0, seed=1)]
    line = report.Line("", "plain", {(r["fold"], r["seed"]): r for r in rows})
    assert line.pooled() == pytest.approx(100 * (8 / 10 + 10 / 12) / 2)


def test_a_report_of_what_there_is(study, capsys):
    identities = study.identities()
    assert report.write(study, ["guidance"]) is None
    for fold in (0, 1):
        records.append(study.runs_path, row(identities["none"], fold, miou=0.5 + fold / 10))
    records.append(study.runs_path, row(identities["labels"], 1, miou=0.63))
    report.write(study, ["guidance", "heights"])
    text = (study.folder / "report.md").read_text()
    assert "| two streams, no guidance | 2 | 55.0 ± 7.1 | reference |" in text
    assert "| guided by labels | 1 | 63.0 | +3.0 (1) |" in text
    assert "missing where the map is made" not in text
    assert (study.folder / "guidance_9_cpu.png").stat().st_size > 1000


def test_a_torn_line_costs_one_run(study, caplog):
    path = study.runs_path
    path.write_text(json.dumps(row()) + '\n{"identity": "b", "fo')
    records.append(path, row("c"))
    assert [r["identity"] for r in records.read(path)] == ["a", "c"]
    assert "line 2 is damaged and left out" in caplog.text
