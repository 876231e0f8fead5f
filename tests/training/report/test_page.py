import base64
import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from cafe_cli.classes import ClassTable, LandClass
from cafe_cli.config.load import dump_config, load_config, parse_config
from cafe_cli.errors import InputError, ModelFileError
from cafe_cli.evaluation.metrics import Confusion, compute_scores
from cafe_cli.model import model_file
from cafe_cli.model.calibration import CalibrationSums
from cafe_cli.pages.tables import confusion
from cafe_cli.system.atomic_write import write_text
from cafe_cli.tilesets.make import tile
from cafe_cli.tilesets.tileset import load_tileset
from cafe_cli.training.history import HISTORY_FILE, EpochRecord, to_csv
from cafe_cli.training.report import examples, tile_scores
from cafe_cli.training.report import page as page_module
from cafe_cli.training.report.page import REPORT_FILE, templates, write_report
from cafe_cli.training.report.run import BEST, SCORES
from cafe_cli.training.validation import ValidationAccumulator
from tests.support.engines import card_of, settings, tiny_model, write_town
from tests.support.pages import Page, browse

EVIL = "<script>alert(1)</script>"
NAMES = (EVIL, "\"&amp;'><img src=https://example.org/a.png>", "tree")
SCENE = "b<img src=x onerror=alert(2)>"
CPU = torch.device("cpu")
SECTIONS = ["scores", "curves", "worst-validation-tiles", "class-balance", "speed", "settings"]


def a_config(names=NAMES):
    plain = settings(split__validation_scenes=[SCENE], train__epochs=5).model_dump()
    plain["classes"] = [{"id": i, "name": name} for i, name in enumerate(names)]
    return parse_config({k: v for k, v in plain.items() if k != "scenes"}, "test").model_copy(
        update={"scenes": settings().scenes}
    )


@pytest.fixture(scope="module")
def tileset(tmp_path_factory) -> Path:
    """Four training and two validation tiles, whose scene and classes have names to fear."""
    scenes, folder = (tmp_path_factory.mktemp(name) for name in ("scenes", "tiles"))
    write_town(scenes, "a", 128, 128, seed=1)
    write_town(scenes, SCENE, 64, 128, seed=2, origin=(0, 1000))
    tile(a_config().model_copy(update={"root": str(scenes)}), folder / "tiles")
    return folder / "tiles"


def rows(count: int, names=NAMES) -> list[dict[str, float]]:
    ious = {f"iou_{name}": 0.5 + i / 10 for i, name in enumerate(names)}
    return [
        {"epoch": e, "step": 3 * e, "learning_rate": 1e-3, "loss": 2 / e, "student": 1 / e}
        | {"miou": 0.5, "mean_f1": 0.6, "overall_accuracy": 0.7, **ious}
        | {"data_wait": 0.01, "crops_per_second": 12.5, "seconds": 20.0}
        for e in range(1, count + 1)
    ]


def leave(folder: Path, tileset: Path, history_rows: list[dict[str, float]]) -> Path:
    """Leave what a run leaves."""
    folder.mkdir()
    known, network = load_tileset(tileset), tiny_model()
    table, validation = known.classes, known.of("validation")
    card = card_of(network, classes=table, epoch=2)
    model_file.save(folder / BEST, network, card)
    write_text(folder / "config.toml", dump_config(a_config()))
    write_text(folder / HISTORY_FILE, to_csv([EpochRecord.from_row(row) for row in history_rows]))
    tally = ValidationAccumulator(validation, len(table))
    for i, example in enumerate(examples.predict_tiles(tileset, known, validation, network)):
        maps = (
            torch.from_numpy(a.astype(np.int64))[None] for a in (example.truth, example.predicted)
        )
        tally.add([i], *maps)
    result = compute_scores(Confusion.of(tally.counts), table)
    write_text(folder / SCORES, json.dumps(result.as_json()))
    tile_scores.write_tile_scores(
        folder / tile_scores.VALIDATION_FILE, tally.rows, validation, table
    )
    return folder


@pytest.fixture(scope="module")
def run(tileset, tmp_path_factory) -> Path:
    folder = leave(tmp_path_factory.mktemp("runs") / EVIL.replace("/", ""), tileset, rows(3))
    write_report(folder, tileset, device=CPU, ended="stopped early: no better mIoU")
    return folder


@pytest.fixture(scope="module")
def page(run) -> Page:
    return Page((run / REPORT_FILE).read_text(encoding="utf-8"))


def written(folder: Path, tileset: Path) -> Page:
    return Page(write_report(folder, tileset, device=CPU).read_text(encoding="utf-8"))


# --- the file ----------------------------------------------------------------------------------


def test_nothing_comes_from_elsewhere(page):
    links = [v for _, attrs in page.elements for k, v in attrs.items() if k in ("src", "href")]
    assert links
    assert all(link.startswith(("#", "data:image/")) for link in links)
    (style,) = re.findall(r"<style>(.*?)</style>", page.source, re.DOTALL)
    assert "url(" not in style
    assert "@import" not in style
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.elements}


def test_names_from_outside_stay_text(page):
    for name in (*NAMES, SCENE):
        assert name in page.text
    assert not [attrs for _, attrs in page.elements if any(k.startswith("on") for k in attrs)]
    assert page.of("img")
    assert all(EVIL not in str(attrs.get("style", "")) for _, attrs in page.elements)


def test_the_markup_is_sound(page):
    assert (page.open, page.wrong) == ([], [])
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    targets = [a["href"][1:] for a in page.of("a")]
    named = [attrs["aria-labelledby"] for attrs in page.of("section")]
    assert targets == named == ids == SECTIONS
    assert page.of("html") == [{"lang": "en"}]


def test_tables_and_pictures_can_be_heard(page):
    assert all(attrs.get("scope") in ("col", "row") for attrs in page.of("th"))
    assert len(page.of("caption")) == len(page.of("table")) == 4
    assert all(attrs["alt"] and int(attrs["width"]) for attrs in page.of("img"))
    charts = [attrs for attrs in page.of("svg") if attrs.get("role") == "img"]
    assert len(charts) == 8
    assert all("epochs 1 to 3" in attrs["aria-label"] for attrs in charts)


def test_pictures_are_pictures(page):
    kinds = {"data:image/jpeg;base64": b"\xff\xd8", "data:image/png;base64": b"\x89PNG"}
    for attrs in page.of("img"):
        kind, data = attrs["src"].split(",")
        assert base64.b64decode(data).startswith(kinds[kind])


def test_it_is_small(run):
    assert (run / REPORT_FILE).stat().st_size < 200_000


# --- what it says ------------------------------------------------------------------------------


def test_head(page):
    told = page.text
    assert "3 of 5 epochs; the best model is that of epoch 2: mean IoU 0." in told
    assert "Stopped early: no better mIoU." in told
    assert "4 train, 2 validation" in told
    assert "1 min 00 s in all, 20 s per epoch" in told
    count = sum(p.numel() for p in tiny_model().parameters())
    assert f"{count:,} in the model" in told


def test_scores(run, page):
    result = json.loads((run / SCORES).read_text())
    assert f"{result['pixels']:,}" in page.text
    counts = np.array(result["confusion"])
    for i, j in np.ndindex(counts.shape):
        assert f"{100 * counts[i, j] / counts[i].sum():.1f} %{counts[i, j]:,}" in page.text
    for c in result["classes"].values():
        assert f"{c['iou']:.3f}{c['f1']:.3f}" in page.text


def test_worst_tiles(run, page):
    for score in tile_scores.read_tile_scores(run / tile_scores.VALIDATION_FILE):
        assert score.wrong
        share = f"{100 * score.wrong / score.labelled:.1f} % of {score.labelled:,} labelled pixels"
        assert share in page.text
        assert f"{score.reference} mapped as {score.predicted}" in page.text
        assert f"row {score.row}, column {score.col}; its middle is " in page.text
    assert "in EPSG:32632" in page.text
    assert len(page.of("img")) == 2 * 5


def test_settings_can_be_used_again(run, page):
    text = page.text[page.text.index("Its settings:") + len("Its settings:") :]
    path = run.parent / "again.toml"
    path.write_text(text)
    assert load_config(path) == load_config(run / "config.toml")


def test_calibration(run, tileset, tmp_path, monkeypatch):
    """Of four pixels with a probability of 0.88, one is right."""
    folder, sums = shutil.copytree(run, tmp_path / "run"), CalibrationSums()
    sums.add(np.array([[2, 0]] * 4, np.float32), np.array([0, 1, 1, 1]))
    network, calibration = tiny_model(), sums.fit()
    classes = load_tileset(tileset).classes
    card = card_of(network, classes=classes, epoch=2, calibration=calibration)
    model_file.save(folder / BEST, network, card)
    found = written(folder, tileset)
    assert "a temperature of 8.00 changed their expected calibration error from 63.1 % to" in (
        found.text
    )
    assert (
        "fitted on these scenes, so on other ground the model is still too confident" in found.text
    )
    (diagram,) = [a for a in found.of("svg") if "probability of the label" in str(a)]
    assert diagram["role"] == "img"
    assert "flatter" not in found.text
    monkeypatch.setattr(page_module, "describe_shared_scenes", lambda tileset: "They flatter.")
    again = written(folder, tileset).text
    assert "They flatter." in again
    assert "lie in scenes that were trained on, so on other ground" in again


# --- runs of other kinds -----------------------------------------------------------------------


def test_without_validation_tiles(run, tileset, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    for name in (SCORES, tile_scores.VALIDATION_FILE):
        (folder / name).unlink()
    few = [{k: row[k] for k in ("epoch", "step", "loss")} for row in rows(1)]
    write_text(folder / HISTORY_FILE, to_csv([EpochRecord.from_row(row) for row in few]))
    found = written(folder, tileset)
    assert "There are no validation tiles, so there are no scores." in found.text
    assert "1 of 5 epochs; the best model is that of epoch 2" in found.text
    assert not found.of("img")


def test_scores_that_are_not_known(run, tileset, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    values = json.loads((folder / SCORES).read_text())
    values["classes"]["tree"] |= dict.fromkeys(("iou", "f1", "precision", "recall"))
    write_text(folder / SCORES, json.dumps(values))
    write_text(
        folder / HISTORY_FILE,
        to_csv([EpochRecord.from_row(row | {"miou": math.nan}) for row in rows(2)]),
    )
    assert "tree----" in written(folder, tileset).text


@pytest.mark.slow
def test_a_long_run_stays_small(run, tileset, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    write_text(folder / HISTORY_FILE, to_csv([EpochRecord.from_row(row) for row in rows(3000)]))
    found = written(folder, tileset)
    assert "They are too many for this page" in found.text
    assert (folder / REPORT_FILE).stat().st_size < 1_500_000


def test_many_classes():
    table = ClassTable(tuple(LandClass(i, f"class {i}") for i in range(40)))
    counts = np.eye(40, dtype=np.int64) * 10
    counts[3, 7], counts[9, 1] = 500, 20
    result = compute_scores(Confusion.of(counts), table)
    macros = templates().get_template("macros.html.jinja").module
    found = Page(macros.table(confusion(result, table)))
    assert "The 2 commonest mistakes" in found.text
    assert "class 3class 7500" in found.text
    assert len(found.of("tr")) == 3


def test_a_tile_set_that_was_cut_anew(run, tileset, tmp_path):
    folder = shutil.copytree(run, tmp_path / "run")
    table = (folder / tile_scores.VALIDATION_FILE).read_text()
    (folder / tile_scores.VALIDATION_FILE).write_text(table.replace("b<img", "c<img"))
    assert "No validation tile" in written(folder, tileset).text


@pytest.mark.parametrize(
    ("name", "text", "error", "message"),
    [
        (SCORES, "[1", InputError, "scores.json does not hold scores: .*; cafe train writes it"),
        (SCORES, "3", InputError, "scores.json does not hold scores"),
        (HISTORY_FILE, "epoch,step,loss\n", InputError, "has no epoch; train at least one"),
        (BEST, "x", ModelFileError, "is not a cafe model"),
    ],
)
def test_damage(run, tileset, tmp_path, name, text, error, message):
    folder = shutil.copytree(run, tmp_path / "run")
    (folder / REPORT_FILE).unlink()
    (folder / name).write_text(text)
    with pytest.raises(error, match=message):
        write_report(folder, tileset, device=CPU)
    assert not (folder / REPORT_FILE).exists()


# --- in a browser ------------------------------------------------------------------------------

PROBE = """<script>addEventListener("load", () => {
  const all = (what) => [...document.querySelectorAll(what)];
  const found = {
    broken: all("img").filter((i) => !i.naturalWidth).length,
    pictures: all("img").length,
    flat: all("figure.chart > svg").filter((s) => s.getBoundingClientRect().height < 50).length,
    lines: all("svg path.line").filter((p) => p.getTotalLength() > 20).length,
    tables: all("table").map((t) => t.rows.length),
    wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    paper: getComputedStyle(document.body).backgroundColor,
    title: document.title,
  };
  document.body.dataset.found = JSON.stringify(found);
})</script></body>"""


@pytest.mark.slow
def test_in_a_browser(run, tmp_path):
    """As it is, but for a script that looks at what became of it, which its policy has to allow."""
    text = (run / REPORT_FILE).read_text(encoding="utf-8")
    probed = text.replace("default-src", "script-src 'unsafe-inline'; default-src")
    path = tmp_path / "probed.html"
    path.write_text(probed.replace("</body>", PROBE), encoding="utf-8")
    dom, messages = browse(path, tmp_path / "profile", "--window-size=500,900")
    assert messages == ""
    (body,) = [attrs for tag, attrs in Page(dom).elements if tag == "body"]
    found = json.loads(body["data-found"])
    assert found.pop("paper") == "rgb(255, 255, 255)"
    assert found.pop("lines") == 12
    assert found.pop("tables") == [5, 6, 4, 6]
    assert found == {
        "broken": 0, "pictures": 10, "flat": 0, "wide": 0, "title": f"cafe train: {run.name}",
    }  # fmt: skip


@pytest.mark.slow
def test_the_browser_would_complain(run, tmp_path):
    """What the test above counts on: a request that the policy forbids is told."""
    text = (run / REPORT_FILE).read_text(encoding="utf-8")
    path = tmp_path / "asks.html"
    path.write_text(text.replace("</body>", '<img src="https://example.org/x.png"></body>'))
    _, messages = browse(path, tmp_path / "profile")
    assert "violates" in messages
