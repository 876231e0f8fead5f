"""The page of a map: what it says, that no name becomes markup, that it needs nothing else."""

import base64
import hashlib
import json
import re
import subprocess
import sys

import numpy as np
import pyogrio.raw
import pytest
import shapely
from rasterio.io import MemoryFile

from cafe_cli.config.load import parse_config
from cafe_cli.config.provenance import save_beside
from cafe_cli.config.schema import HeightSettings, LabelSettings
from cafe_cli.errors import BandError, ConfigError, GridError, InputError, LabelError, OutputError
from cafe_cli.evaluation.evaluate import evaluate
from cafe_cli.evaluation.points import evaluate_points
from cafe_cli.evaluation.sample import SampleSettings, sample
from cafe_cli.map_report.gather import DIFFERS, LABELLED, MAPPED, gather
from cafe_cli.map_report.report import report
from cafe_cli.map_report.source import ReportInput, Subject
from tests.evaluation.test_points import answered
from tests.support.pages import Page, browse
from tests.support.rasters import LAMBERT, TABLE, around, grid, moved, noise, write

pytest_plugins = ["tests.support.fixtures"]

EVIL = "<script>alert(1)</script>"
NAMES = (EVIL, "\"'><img src=https://example.org/a.png>", "a & b {{ 7 * 7 }}")
WHERE = grid(400, 300)
SECTIONS = ["overview", "areas", "accuracy", "worst-places", "settings"]


def a_config(names=NAMES):
    return parse_config(
        {"classes": [{"id": i, "name": name} for i, name in enumerate(names)]}, "test"
    )


def stripes(where=WHERE):
    """Return class ids in broad stripes, and labels that differ from them in one corner."""
    ids = (np.arange(where.width) // 50 % 3 * np.ones((where.height, 1))).astype(np.uint8)
    truth = ids.copy()
    truth[200:280, 300:380] = 1 - np.minimum(ids[200:280, 300:380], 1)
    truth[:20] = 255
    ids[290:] = 255
    return ids, truth


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A map, what belongs to it, and names that an attacker might choose."""
    folder = tmp_path_factory.mktemp('it\'s "<b>"')
    ids, truth = stripes()
    confidence = np.full(ids.shape, 90, np.uint8)
    confidence[30:90, 20:90] = 40
    confidence[ids == 255] = 255
    finer = grid(800, 600, pixel=0.25)
    heights = np.linspace(100, 180, 300 * 400, dtype=np.float32).reshape(300, 400)
    return {
        "map": write(folder / "m'\"<i>.tif", ids, WHERE, nodata=255),
        "image": write(folder / "image.tif", noise(3, finer), finer),
        "heights": write(folder / "heights.tif", heights, WHERE),
        "reference": write(folder / "labels.tif", truth, WHERE, nodata=255),
        "confidence": write(folder / "confidence.tif", confidence, WHERE, nodata=255),
    }


def written(files, path, *roles, config=None, **options):
    source = ReportInput(
        files["map"], **{role: files[role] for role in roles}, config=config or a_config()
    )
    report(source, path, **options)
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def path(files, tmp_path_factory):
    path = tmp_path_factory.mktemp("out") / "map.html"
    written(files, path, "image", "heights", "reference", "confidence", title=f"T {EVIL}")
    return path


@pytest.fixture(scope="module")
def page(path):
    return Page(path.read_text(encoding="utf-8"))


# --- the file ----------------------------------------------------------------------------------


def test_nothing_comes_from_elsewhere(page):
    links = [v for _, attrs in page.elements for k, v in attrs.items() if k in ("src", "href")]
    assert links
    assert all(link.startswith(("#", "data:image/")) for link in links)
    (style,) = re.findall(r"<style>(.*?)</style>", page.source, re.DOTALL)
    assert "url(" not in style
    assert "@import" not in style
    assert not {"link", "iframe", "object"} & {tag for tag, _ in page.elements}


def test_only_its_own_script_may_run(page):
    (script,) = re.findall(r"<script>(.*?)</script>", page.source, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policies = [a["content"] for a in page.of("meta") if "http-equiv" in a]
    assert policies == [
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'"
    ]
    assert not [a for _, a in page.elements if any(k.startswith("on") for k in a)]
    for word in ("http", "fetch", "XMLHttp", "innerHTML", "eval"):
        assert word not in script


def test_names_from_outside_stay_text(page):
    for name in (*NAMES, "m'\"<i>.tif"):
        assert name in page.text
    assert page.text.count(f"T {EVIL}") == 2  # the title and the heading
    assert "49" not in re.findall(r"a & b ([^\n]*)", page.text)[0]
    assert len(page.of("script")) == 1
    assert all(EVIL not in str(a.get("style", "")) for _, a in page.elements)


def test_the_markup_is_sound(page):
    assert (page.open, page.wrong) == ([], [])
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))
    assert [attrs["aria-labelledby"] for attrs in page.of("section")] == SECTIONS
    assert {a["href"][1:] for a in page.of("a")} <= set(ids)
    assert page.of("html") == [{"lang": "en"}]


def test_it_can_be_heard_and_used_without_a_mouse(page):
    assert all(attrs.get("scope") in ("col", "row") for attrs in page.of("th"))
    assert len(page.of("caption")) == len(page.of("table")) == 3
    pictures = [attrs for attrs in page.of("img") if "src" in attrs]
    assert all(attrs["alt"] for attrs in pictures)
    labels = re.findall(r"<label[^>]*>(.*?)</label>", page.source, re.DOTALL)
    assert all(re.sub("<option.*</option>|<[^>]*>", "", text).strip() for text in labels)
    assert len(labels) == len(page.of("select")) + len(page.of("input")) == 4


def test_pictures_have_one_size(page):
    layers = [a for a in page.of("img") if a.get("alt") in ("image", "map", "errors", "confidence")]
    assert {(a["width"], a["height"]) for a in layers} == {("400", "300")}
    kinds = {"data:image/jpeg;base64": b"\xff\xd8", "data:image/png;base64": b"\x89PNG"}
    for attrs in page.of("img"):
        if "src" in attrs:
            kind, data = attrs["src"].split(",")
            assert base64.b64decode(data).startswith(kinds[kind])


# --- what it says ------------------------------------------------------------------------------


def test_areas(page):
    ids, _ = stripes()
    for i in range(3):
        share = (ids == i).sum() / (ids != 255).sum()
        assert f"{100 * share:.1f} %{(ids == i).sum() / 4 / 10_000:,.2f}" in page.text


def test_accuracy_is_that_of_evaluate(files, page):
    scores = evaluate(files["map"], files["reference"], classes=a_config().class_table)
    assert f"overall accuracy {100 * scores.overall_accuracy:.1f} %" in page.text
    assert "95 % interval" in page.text
    for name, row in scores.classes.items():
        assert f"{name}{row.iou:.3f} (" in page.text
    assert f"{scores.confusion[0][0]:,}" in page.text


def test_the_worst_place_is_where_the_labels_differ(page):
    first = page.text[page.text.index("Place 1") :][:400]
    share, row, column = re.search(
        r"([\d.]+) % of .* labelled pixels differ .*\n?.*row (\d+), column (\d+)", first
    ).groups()
    assert float(share) > 80
    assert 180 <= int(row) <= 240
    assert 280 <= int(column) <= 340


def test_the_least_sure_place(files, tmp_path):
    found = written(files, tmp_path / "a.html", "confidence")
    first = found.text[found.text.index("Place 1") :][:200]
    confidence, row, column = re.search(
        r"mean confidence (\d+) %.*?row (\d+), column (\d+)", first, re.DOTALL
    ).groups()
    assert int(confidence) < 50
    assert 15 <= int(row) <= 60
    assert 10 <= int(column) <= 60
    assert "compared with no reference" in found.text


def test_vector_labels(files, tmp_path):
    """Polygons cover ground like a raster: they are drawn, scored and have worst places."""
    corners = [WHERE.transform @ corner for corner in ((0, 0), (200, 150))]
    box = shapely.to_wkb(shapely.box(*corners[0], *corners[1]))
    labels = str(tmp_path / "labels.gpkg")
    pyogrio.raw.write(
        labels, np.array([box], object), [np.array([1])], ["code"], driver="GPKG",
        geometry_type="Polygon", crs="EPSG:32632",
    )  # fmt: skip
    config = a_config().model_copy(update={"labels": LabelSettings(attribute="code")})
    known = {**files, "reference": labels}
    found = written(known, tmp_path / "a.html", "reference", config=config)
    assert "overall accuracy 25.0 %" in found.text  # one of four stripes
    assert "100.0 % of " in found.text
    assert [a["alt"] for a in found.of("img") if "src" in a][:3] == ["map", "reference", "errors"]


def test_an_image_in_another_crs(files, tmp_path, write):
    x, y = WHERE.footprint.centroid.coords[0]
    other = around(x, y, 300, 0.8, LAMBERT)
    image = np.zeros((3, other.height, other.width), np.uint8)
    image[0] = 200
    known = {**files, "image": str(write("lambert.tif", image, other))}
    found = written(known, tmp_path / "a.html", "image")
    (source,) = [a["src"] for a in found.of("img") if a.get("alt") == "image"]
    with MemoryFile(base64.b64decode(source.split(",")[1])) as memory, memory.open() as picture:
        red, green, blue = picture.read().reshape(3, -1)
    assert picture.shape == (300, 400)
    assert red.min() > 190
    assert max(green.max(), blue.max()) < 10


@pytest.mark.parametrize(
    ("units", "given", "metres"),
    [("m", "auto", 1.0), ("ft", "auto", 0.3048), (None, "foot", 0.3048)],
)
def test_heights_are_in_metres(files, tmp_path, units, given, metres):
    heights = np.full((300, 400), -9999, np.float32)
    heights[50:, 50:] = np.linspace(100, 200, 350)
    path = write(tmp_path / "feet.tif", heights, WHERE, nodata=-9999, units=units)
    config = a_config().model_copy(update={"height": HeightSettings(unit=given)})
    found = written({**files, "heights": path}, tmp_path / "a.html", "heights", config=config)
    assert f"heights, {100 * metres:.1f} to {200 * metres:.1f} m" in found.text


def test_a_map_alone(files, tmp_path):
    found = written(files, tmp_path / "a.html")
    assert not found.of("select")
    assert len(found.of("img")) == 1
    assert "To find the worst places, the report needs" in found.text
    assert "There is no file with settings beside the map." in found.text


def test_a_map_that_is_right(files, tmp_path):
    same = {**files, "reference": files["map"]}
    found = written(same, tmp_path / "a.html", "reference")
    assert "overall accuracy 100.0 %" in found.text
    assert "No place is worse than the rest." in found.text


def test_without_a_crs(tmp_path, write):
    path = write("plain.tif", np.eye(40, dtype=np.uint8), grid(40, 40, crs=None))
    found = written({"map": str(path)}, tmp_path / "a.html")
    assert "The map has no CRS" in found.text
    assert "1,560" in found.text  # pixels


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (7, 5)])
def test_tiny_maps(tmp_path, write, shape):
    where = grid(shape[1], shape[0])
    ids = np.zeros(shape, np.uint8)
    paths = {"map": ids, "reference": 1 - ids, "heights": ids.astype(np.float32)}
    known = {role: str(write(f"{role}.tif", v, where)) for role, v in paths.items()}
    known["image"] = str(write("image.tif", noise(1, where, "uint16"), where))
    found = written(known, tmp_path / "a.html", "image", "heights", "reference")
    assert "overall accuracy 0.0 %" in found.text
    assert "Place 1" in found.text


def test_no_pixel_has_a_class(tmp_path, write):
    path = write("void.tif", np.full((20, 20), 255, np.uint8), grid(20, 20), nodata=255)
    assert "No pixel has a class" in written({"map": str(path)}, tmp_path / "a.html").text


@pytest.mark.slow
def test_a_large_map_is_shown_small(tmp_path, write):
    where = grid(3300, 1700)
    ids = np.zeros((1700, 3300), np.uint8)
    ids[1000:1400, 2000:2600] = 2
    truth = np.where(ids == 2, 1, ids).astype(np.uint8)
    image = np.full((3, 1700, 3300), 60, np.uint8)
    paths = {"map": ids, "reference": truth, "image": image}
    known = {role: str(write(f"{role}.tif", v, where)) for role, v in paths.items()}
    found = written(known, tmp_path / "a.html", "reference", "image")
    layers = [a for a in found.of("img") if a.get("alt") in ("image", "map", "errors")]
    assert {(a["width"], a["height"]) for a in layers} == {("1100", "567")}
    assert "100.0 % of " in found.text
    assert (tmp_path / "a.html").stat().st_size < 1_000_000


def test_sums_do_not_depend_on_the_size_of_cells(files, monkeypatch):
    """All pixels are counted, whatever the pictures show."""
    ids, truth = stripes()
    source = ReportInput(files["map"], reference=files["reference"], config=a_config())
    monkeypatch.setattr("cafe_cli.map_report.source._OVERVIEW", 60)
    subject = Subject(source)
    assert subject.factor == 7
    found = gather(subject)
    labelled = (ids != 255) & (truth != 255)
    for plane, expected in (
        (MAPPED, ids != 255), (LABELLED, labelled), (DIFFERS, labelled & (ids != truth)),
    ):  # fmt: skip
        assert found.cells.sums[plane].sum() == expected.sum()
    rows, columns = np.minimum(np.arange(43) * 7 + 3, 299), np.minimum(np.arange(58) * 7 + 3, 399)
    assert (found.ids == ids[np.ix_(rows, columns)]).all()
    assert found.truth is not None
    assert (found.truth == truth[np.ix_(rows, columns)]).all()


# --- points ------------------------------------------------------------------------------------


def test_points_of_a_sample_give_areas_with_intervals(tmp_path, write):
    random = np.random.default_rng(5)
    truth = random.choice(np.array([0, 1, 2], np.uint8), (70, 90), p=[0.6, 0.3, 0.1])
    where = grid(90, 70)
    ids = np.where(random.random((70, 90)) < 0.8, truth, 0).astype(np.uint8)
    map_ = str(write("map.tif", ids, where))
    sample(map_, tmp_path / "drawn.gpkg", SampleSettings(count=300, minimum=40), classes=TABLE)
    points = answered(tmp_path / "drawn.gpkg", tmp_path / "seen.gpkg", truth)
    known = {"map": map_, "reference": points}
    found = written(known, tmp_path / "a.html", "reference", config=a_config(TABLE.names))
    assert "estimated hectares" in found.text
    assert re.search(r"building[\d.]+ %0\.\d\d0\.\d\d0\.\d\d to 0\.\d\d", found.text)
    assert "estimated from 300 points in 3 strata" in found.text
    assert "points predicted" in found.text
    told = evaluate_points([map_], points, classes=TABLE).first.scores
    rows = found.text[found.text.index("Confusion matrix") :].splitlines()
    for name, row in told.classes.items():  # the matrix and the table of scores say the same
        (shown,) = [line for line in rows if line.startswith(name) and "%" in line]
        assert f"{100 * row.recall:.1f} %" in shown
    (users,) = [line for line in rows if line.startswith("user's accuracy")]
    shares = [*(row.precision for row in told.classes.values()), told.overall_accuracy]
    assert users == "user's accuracy" + "".join(f"{100 * share:.1f} %" for share in shares)
    assert "To find the worst places, the report needs" in found.text


# --- settings ----------------------------------------------------------------------------------


def test_settings_and_secrets(files, tmp_path, write):
    ids, _ = stripes()
    map_ = str(write("map.tif", ids, WHERE, nodata=255))
    url = "https://me:pass99@example.org/o.tif?token=hide11"
    save_beside(tmp_path / "map.tif", {"source": {"optical": url}, "note": EVIL})
    path = tmp_path / "a.html"
    found = written({"map": map_}, path, title=f"of {url}")
    assert "cafe_version" in found.text
    assert "https://***@example.org/o.tif?***" in found.text
    assert EVIL in found.text
    assert "pass99" not in found.source
    assert "hide11" not in found.source


# --- mistakes ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"image": "elsewhere"}, GridError, "does not overlap"),
        ({"image": "missing.tif"}, InputError, "missing.tif does not exist"),
        ({"heights": "image"}, BandError, "has 3 bands, heights have one; .*--image"),
        ({"confidence": "image"}, BandError, "a confidence raster has one"),
        ({"reference": "heights"}, LabelError, "holds values that no class has"),
        ({"map": "image"}, BandError, "a land-cover map has one"),
    ],
)
def test_mistakes(files, tmp_path, write, changes, error, message):
    away = str(write("away.tif", noise(3, WHERE), moved(WHERE, 5000, 0)))
    known = {**files, "elsewhere": away, "missing.tif": str(tmp_path / "missing.tif")}
    given = {"map": files["map"]} | {role: known[name] for role, name in changes.items()}
    with pytest.raises(error, match=message):
        report(ReportInput(**given, config=a_config()), tmp_path / "a.html")
    assert not (tmp_path / "a.html").exists()


@pytest.mark.parametrize("name", ["map.pdf", "map", "map.html.gz"])
def test_other_formats(files, tmp_path, name):
    with pytest.raises(OutputError, match=r"is not named like a page; name it \.html"):
        written(files, tmp_path / name)


def test_an_output_that_exists(files, tmp_path):
    path = tmp_path / "a.html"
    path.write_text("mine")
    with pytest.raises(OutputError, match="pass --overwrite"):
        written(files, path)
    assert path.read_text() == "mine"
    written(files, path, overwrite=True)
    assert path.read_text().startswith("<!doctype html>")
    assert [p.name for p in tmp_path.iterdir()] == ["a.html"]


def test_an_output_that_another_process_writes(files, tmp_path):
    path = tmp_path / "a.html"
    code = (
        "import sys; from pathlib import Path; from cafe_cli.system.locks import lock_outputs\n"
        "with lock_outputs([Path(sys.argv[1])]): print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(OutputError, match=f"{other.pid}"):
            written(files, path)
    assert not path.exists()


def test_an_output_that_is_an_input(tmp_path, write):
    path = write("map.html", np.zeros((9, 9), np.uint8), grid(9, 9))
    with pytest.raises(ConfigError, match="is an input too"):
        written({"map": str(path)}, tmp_path / "map.html", overwrite=True)


def test_the_command(invoke, files, tmp_path):
    (tmp_path / "c.toml").write_text(
        "classes = [{ id = 0, name = 'a' }, { id = 1, name = 'b' }, { id = 2, name = 'c' }]"
    )
    words = ("report", files["map"], "-o", tmp_path / "a.html", "-c", tmp_path / "c.toml")
    code, said = invoke(*words, "--image", files["image"], "--title", "North bank")
    assert code == 0
    assert re.search(r"wrote .*a\.html \([\d.]+ [kM]B\)", said.err)
    assert "<h1>North bank</h1>" in (tmp_path / "a.html").read_text()
    code, said = invoke(*words)
    assert code == 1
    assert "pass --overwrite" in said.err


# --- in a browser ------------------------------------------------------------------------------

PROBE = """<script>addEventListener("load", () => {
  const pick = (what) => document.querySelector(what);
  const at = () => getComputedStyle(pick(".stage")).getPropertyValue("--at");
  const found = {
    start: at(), wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
    broken: [...document.querySelectorAll("img")].filter((i) => !i.naturalWidth).length,
    plain: getComputedStyle(pick("#layers")).display,
    left: pick(".stage .left").alt, right: pick(".stage .right").alt,
    focus: [...document.querySelectorAll("#swipe select, #swipe input, #swipe a")]
      .filter((e) => (e.focus(), document.activeElement === e)).length,
  };
  const slider = pick("#position");
  slider.value = 20; slider.dispatchEvent(new Event("input"));
  found.moved = at(); found.heard = slider.getAttribute("aria-valuetext");
  const select = pick("#right");
  select.value = 4; select.dispatchEvent(new Event("change"));
  found.changed = pick(".stage .right").alt;
  pick("#marks").click();
  found.frames = getComputedStyle(pick(".stage svg")).display;
  document.body.dataset.found = JSON.stringify(found);
})</script></body>"""


@pytest.mark.slow
@pytest.mark.parametrize("width", [420, 1300])
def test_in_a_browser(path, page, tmp_path, width):
    """As it is, but for a script that uses it, which its policy has to allow."""
    digest = re.search(r"'sha256-[^']*'", page.source)[0]
    probed = tmp_path / "probed.html"
    text = page.source.replace(digest, "'unsafe-inline'").replace("</body>", PROBE)
    probed.write_text(text, encoding="utf-8")
    dom, messages = browse(probed, tmp_path / "profile", f"--window-size={width},900")
    assert messages == ""
    (body,) = Page(dom).of("body")
    found = json.loads(body["data-found"])
    assert found.pop("focus") == 4 + len(re.findall('href="#place-', page.source))
    assert found == {
        "start": "50%", "wide": 0, "broken": 0, "plain": "none", "left": "image", "right": "map",
        "moved": "20%", "heard": "20 % from the left", "changed": "errors", "frames": "none",
    }  # fmt: skip


@pytest.mark.slow
def test_the_policy_lets_the_page_work(path, page, tmp_path):
    """The very file: its script runs, and that of somebody else does not."""
    dom, messages = browse(path, tmp_path / "profile")
    assert messages == ""
    assert 'class="layers replaced"' in dom
    evil = tmp_path / "evil.html"
    evil.write_text(page.source.replace("</body>", "<script>document.title = 'x'</script></body>"))
    dom, messages = browse(evil, tmp_path / "profile")
    assert "violates" in messages
    assert "<title>x</title>" not in dom


def test_without_scripts_it_is_pictures(page):
    """What scripts show is hidden until one runs; the pictures are in the page itself."""
    (swipe,) = [attrs for _, attrs in page.elements if attrs.get("id") == "swipe"]
    assert "hidden" in swipe
    (layers,) = [attrs for _, attrs in page.elements if attrs.get("id") == "layers"]
    assert layers["class"] == "layers"
