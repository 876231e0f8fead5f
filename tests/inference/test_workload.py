"""What a dry run says that maps will take, beside what they take."""

import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from cafe_cli.inference.job import ComputeOptions, PredictInput, PredictOutput
from cafe_cli.inference.predict import dry_run, dry_run_per_file
from cafe_cli.inference.predictor import Predictor
from cafe_cli.inference.scene_input import SceneInput
from cafe_cli.inference.strip_store import StripStore
from cafe_cli.inference.workload import Workload
from tests.support.engines import PIXEL, PredictSettings, predict, town, write

pytest_plugins = ["tests.support.fixtures"]

CPU = ComputeOptions("cpu", 1)
SMALL = PredictSettings(window=64, overlap=32)
LEFT, TOP = 500_000, 5_200_000
VRT = """<VRTDataset rasterXSize="{side}" rasterYSize="{side}"><SRS>EPSG:32632</SRS>
<GeoTransform>500000, 0.5, 0, 5200000, 0, -0.5</GeoTransform>{bands}</VRTDataset>"""
BAND = """<VRTRasterBand dataType="Byte" band="{band}" blockXSize="512" blockYSize="512">
<ColorInterp>{color}</ColorInterp><NoDataValue>0</NoDataValue><SimpleSource>
<SourceFilename>{file}</SourceFilename><SourceBand>{band}</SourceBand>
<SrcRect xOff="0" yOff="0" xSize="200" ySize="300"/>
<DstRect xOff="{at}" yOff="{at}" xSize="200" ySize="300"/></SimpleSource></VRTRasterBand>"""


def box(left: float, top: float, right: float, bottom: float) -> tuple[float, ...]:
    """Return pixel coordinates as --bbox takes them."""
    return (LEFT + left * PIXEL, TOP - bottom * PIXEL, LEFT + right * PIXEL, TOP - top * PIXEL)


def workload(
    model, source: PredictInput, settings: PredictSettings = SMALL, workers: int | None = None
) -> Workload:
    predictor = Predictor([model], settings, CPU)
    scene = SceneInput.of(source, predictor.ensemble)
    return Workload.of(predictor.plan(scene, PredictOutput(Path("map.tif"))), 1, workers)


def write_vrt(path: Path, side: int, file: str, at: int) -> str:
    """Write a sparse raster of side x side pixels, with the one of `file` at (at, at)."""
    colors = enumerate(["Red", "Green", "Blue"], start=1)
    bands = "".join(BAND.format(band=b, color=c, file=file, at=at) for b, c in colors)
    path.write_text(VRT.format(side=side, bands=bands))
    return str(path)


@pytest.fixture
def ortho(tmp_path):
    """An image of 200 x 300 pixels without voids."""
    return write(tmp_path / "ortho.tif", town(300, 200)[0])


@pytest.mark.parametrize("bbox", [None, box(0, 0, 90, 300), box(70, 130, 71, 131)])
@pytest.mark.parametrize("products", [1, 2])
def test_it_is_what_the_run_then_takes(ortho, model, tmp_path, bbox, products, monkeypatch):
    source, folder = PredictInput((ortho,), bbox=bbox), tmp_path / "maps"
    more = {"confidence": folder / "sure.tif"} if products == 2 else {}
    outputs = PredictOutput(folder / "map.tif", **more)
    report = dry_run([model], source, outputs, settings=SMALL, compute=CPU, rate=0.5)
    found = Workload.of_facts(report.facts)
    strips: list[int] = []
    finish = StripStore.finish

    def count(store, *tags):
        strips.extend(path.stat().st_size for path in store._folder.glob("*.tif"))
        finish(store, *tags)

    monkeypatch.setattr(StripStore, "finish", count)
    meter = predict(model, source, outputs.labels, settings=SMALL, **more)
    assert (found.pixels, found.windows) == (meter.pixels, meter.run)
    assert found.computed_pixels == meter.run * 64 * 64
    assert found.strips == found.tasks == len(strips) / products
    assert found.worker_hours == pytest.approx(meter.pixels / 0.5e6 / 3600)
    assert found.strip_bytes == meter.pixels * products
    assert sum(path.stat().st_size for path in folder.iterdir()) < found.output_bytes


@pytest.mark.parametrize(
    "corners", [[(0, 0), (200, 0), (0, 300)], [(5, 5), (6, 5), (6, 6), (199, 299)]]
)
def test_windows_outside_polygons_do_not_count(ortho, model, tmp_path, corners):
    ring = [(LEFT + x * PIXEL, TOP - y * PIXEL) for x, y in (*corners, corners[0])]
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32632"}}
    drawn = {"type": "Polygon", "coordinates": [ring]}
    feature = {"type": "Feature", "properties": {}, "geometry": drawn}
    area = {"type": "FeatureCollection", "crs": crs, "features": [feature]}
    (tmp_path / "aoi.geojson").write_text(json.dumps(area))
    source = PredictInput((ortho,), aoi=str(tmp_path / "aoi.geojson"))
    found, whole = workload(model, source), workload(model, PredictInput((ortho,)))
    meter = predict(model, source, tmp_path / "map.tif", settings=SMALL)
    # Accurate to a cell of 32 pixels, the side by which an area knows its windows.
    assert meter.run <= found.windows < min(whole.windows, meter.run + 12)
    assert found.pixels < whole.pixels
    assert found.read_bytes < whole.read_bytes


@pytest.mark.parametrize(
    ("bbox", "share"),
    # Windows of 64 pixels, 32 apart, over [70, 71) begin at 32 and 64: [32, 128) is read.
    [(None, 1), (box(70, 130, 71, 131), 96 * 96 / (200 * 300)), (box(0, 0, 200, 10), 64 / 300)],
)
def test_a_part_of_the_files_is_read(ortho, model, bbox, share):
    found = workload(model, PredictInput((ortho,), bbox=bbox))
    expected = share * Path(ortho).stat().st_size
    assert expected <= found.read_bytes <= expected + 1
    assert (found.egress_bytes, found.unsized_files) == (0, 0)


def test_a_surface_model_counts_where_the_image_lies(ortho, model, tmp_path):
    # The surface model reaches 100 pixels beyond the image on the left and above.
    dsm = write(tmp_path / "dsm.tif", town(600, 400)[1], (-100, -100))
    alone = workload(model, PredictInput((ortho,))).read_bytes
    both = workload(model, PredictInput((ortho,), (dsm,))).read_bytes
    assert both - alone == pytest.approx(Path(dsm).stat().st_size / 4, abs=1)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_share_of_the_strips(ortho, model, tmp_path, number, monkeypatch):
    monkeypatch.setattr("cafe_cli.inference.tiling._STRIP", 2000)
    source = PredictInput((ortho,), strips=f"{number}/3")
    found = workload(model, source)
    meter = predict(model, source, tmp_path / "map.tif", settings=SMALL)
    assert (found.pixels, found.windows) == (meter.pixels, meter.run)
    assert found.pixels < 200 * 300 / 2


@pytest.mark.parametrize(("workers", "tasks"), [(1, 3), (2, 5), (3, 9), (1000, 9)])
def test_tasks_run_the_windows_above_again(ortho, model, monkeypatch, workers, tasks):
    monkeypatch.setattr("cafe_cli.inference.tiling._STRIP", 2000)
    source = PredictInput((ortho,))
    alone, many = workload(model, source), workload(model, source, workers=workers)
    assert alone.windows == 9 * 6
    assert (many.strips, many.tasks) == (9, tasks)
    # A task but the first runs a row of six windows once more.
    assert many.windows == (9 + tasks - 1) * 6
    assert many.read_bytes == pytest.approx(alone.read_bytes * many.windows / alone.windows, abs=1)


def test_files_beside_the_area_are_not_read(ortho, model, tmp_path):
    right = write(tmp_path / "right.tif", town(300, 400, seed=1)[0], (200, 0))
    left_half = PredictInput((ortho, right), bbox=box(0, 0, 10, 300))
    assert workload(model, left_half).read_bytes == pytest.approx(
        64 / 200 * Path(ortho).stat().st_size, abs=1
    )


def test_the_files_behind_a_virtual_raster_count(ortho, model, tmp_path):
    sparse = write_vrt(tmp_path / "sparse.vrt", 1000, ortho, 300)
    found = workload(model, PredictInput((sparse,)))
    assert found.read_bytes == sum(Path(name).stat().st_size for name in (ortho, sparse))


@pytest.fixture
def url(tmp_path, tmp_path_factory, monkeypatch):
    """Return a function that returns the URL of a file of the test's folder."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    root = Path(__file__).parents[2]
    words = [sys.executable, "-m", "tests.support.broken_server", str(tmp_path), os.devnull]
    with subprocess.Popen(words, text=True, stdout=subprocess.PIPE, cwd=root) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        yield lambda manner, name: f"http://127.0.0.1:{port}/{manner}/{name}"
        process.terminate()


@pytest.mark.parametrize("prefix", ["", "/vsicurl/"])
def test_files_of_a_server_are_egress(ortho, model, tmp_path, url, prefix):
    dsm = write(tmp_path / "dsm.tif", town(300, 200)[1])
    found = workload(model, PredictInput((prefix + url("stamped", "ortho.tif"),), (dsm,)))
    size = Path(ortho).stat().st_size
    assert found.egress_bytes == size
    assert found.read_bytes == size + Path(dsm).stat().st_size
    assert found.unsized_files == 0


def test_files_of_unknown_size_count_uncompressed(ortho, model, url):
    source = PredictInput((url("ranges", "ortho.tif"),), bbox=box(0, 0, 200, 10))
    found = workload(model, source)
    assert found.unsized_files == 1
    assert found.egress_bytes == found.read_bytes == 200 * 64 * 3


def test_a_raster_of_ten_thousand_megapixels_is_planned_in_little_memory(ortho, model, tmp_path):
    huge = write_vrt(tmp_path / "huge.vrt", 100_000, ortho, 40_000)
    workload(model, PredictInput((ortho,)))  # imports and caches
    tracemalloc.start()
    found = workload(model, PredictInput((huge,)), PredictSettings(window=1024, overlap=128))
    held = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (found.pixels, found.strip_bytes) == (10**10, 10**10)
    assert found.computed_pixels >= found.pixels
    assert found.strips > 1000
    assert held < 30e6


def test_scenes_are_planned_one_at_a_time(ortho, model, tmp_path):
    later = write(tmp_path / "later.tif", town(64, 64)[0])
    outputs = PredictOutput(tmp_path / "maps")
    reports = dry_run_per_file([model], PredictInput((ortho, later)), outputs, compute=CPU)
    assert next(reports).ok
    Path(later).write_bytes(b"no raster")
    broken = next(reports)
    assert not broken.ok
    assert Workload.of_facts(broken.facts) == Workload()
    assert next(reports, None) is None


def test_workloads_are_sums(ortho, model, tmp_path):
    other = write(tmp_path / "other.tif", town(64, 96)[0])
    one, two = (workload(model, PredictInput((name,))) for name in (ortho, other))
    both = one + two
    assert (both.scenes, both.pixels) == (2, 200 * 300 + 64 * 96)
    assert both.read_bytes == one.read_bytes + two.read_bytes
    assert both.worker_hours is None
    assert Workload(worker_hours=1.5) + Workload(worker_hours=2) == Workload(worker_hours=3.5)
    assert (Workload(worker_hours=1.5) + one).worker_hours is None


@pytest.mark.parametrize(
    ("workers", "hours"), [(1, 10), (2, 5), (3, 4), (5, 2), (9, 2), (10, 1), (11, 1), (1000, 1)]
)
def test_workers_take_whole_tasks(workers, hours):
    assert Workload(tasks=10, worker_hours=10.0).hours(workers) == pytest.approx(hours)
    assert Workload(tasks=10, worker_hours=None).hours(workers) is None
    assert Workload().hours(workers) == 0


def test_the_rate_is_that_of_the_worker():
    half = Workload(pixels=1_800_000_000, worker_hours=0.5)
    assert half.megapixels_per_second == pytest.approx(1.0)
    assert Workload(pixels=10, worker_hours=None).megapixels_per_second is None
    assert Workload().megapixels_per_second is None


def test_windows_are_timed_once_for_each_size(ortho, model, tmp_path, monkeypatch):
    names = [write(tmp_path / f"{n}.tif", np.full((3, 64, 64), n, np.uint8)) for n in range(1, 4)]
    timed: list[int] = []

    def time_window(predictor, plan):
        timed.append(plan.windows.size)
        return 3.6

    monkeypatch.setattr(Predictor, "_time_window", time_window)
    monkeypatch.setattr("cafe_cli.inference.ensemble.Ensemble.has_graphs", True)
    source, outputs = PredictInput((*names, ortho)), PredictOutput(tmp_path / "maps")
    settings = PredictSettings(engine="onnx")
    found = [
        Workload.of_facts(report.facts)
        for report in dry_run_per_file([model], source, outputs, settings=settings, compute=CPU)
    ]
    assert [work.worker_hours for work in found[:3]] == [0.001] * 3
    assert found[3].worker_hours == pytest.approx(0.001 * found[3].windows)
    assert timed == [64]
