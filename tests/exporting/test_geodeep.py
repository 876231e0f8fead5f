"""GeoDeep's own maps of exported models beside those of cafe predict.

Both cut windows at half of their overlap (blend "crop"). GeoDeep smooths its maps by a median of
5 x 5 pixels, and moves the last windows back into the raster instead of reaching beyond it.
"""

import json

import numpy as np
import pytest
from scipy.ndimage import median_filter

from cafe_cli.config.schema import PredictSettings
from cafe_cli.exporting.export import ExportOptions, export
from cafe_cli.inference.job import PredictInput
from cafe_cli.model import model_file
from cafe_cli.training.train import train
from tests.support.engines import (
    TABLE,
    card_of,
    cut,
    decided,
    predict,
    settings,
    tiny_model,
    write_town,
)
from tests.support.rasters import read

geodeep = pytest.importorskip("geodeep")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:Specified provider 'CUDAExecutionProvider'"),
]
pytest_plugins = ["tests.support.fixtures"]

WINDOW, OVERLAP = 64, 32
WINDOWS = PredictSettings(window=WINDOW, overlap=OVERLAP, blend="crop")


@pytest.fixture(scope="module")
def trained(scenes, tmp_path_factory):
    """A model that a short run has trained without heights."""
    folder = tmp_path_factory.mktemp("run")
    tiles = cut(scenes, folder / "tiles", scenes__elevation=None)
    train(tiles, folder / "run", settings(train__learning_rate=5e-3, train__epochs=8), device="cpu")
    return folder / "run" / "final.safetensors"


@pytest.fixture
def scene(tmp_path):
    """Make a scene: ``scene(height, width)`` -> (orthophoto, surface model)."""

    def make(height, width):
        write_town(tmp_path, "s", height, width, seed=7)
        return str(tmp_path / "s_ortho.tif"), str(tmp_path / "s_dsm.tif")

    return make


def maps_of(model, optical, folder):
    """Return GeoDeep's map of the exported model, and that of cafe predict, smoothed alike."""
    out = folder / "model.onnx"
    export(model, out, ExportOptions("geodeep", window=WINDOW, overlap=OVERLAP))
    theirs = geodeep.segment(optical, str(out), output_type="raw", max_threads=1)
    predict(model, PredictInput((optical,)), folder / "map.tif", settings=WINDOWS)
    return theirs, read(folder / "map.tif")[0]


def equal(one, other):
    return float((one == other).mean())


def test_the_same_windows_give_the_same_map(trained, scene, tmp_path):
    """A raster of whole windows: every label is the same."""
    optical, _ = scene(WINDOW + 2 * 32, WINDOW + 4 * 32)
    theirs, ours = maps_of(trained, optical, tmp_path)
    assert len(np.unique(ours)) == len(TABLE)
    assert theirs.shape == ours.shape
    assert equal(theirs, median_filter(ours, 5)) > 0.9999


@pytest.mark.parametrize(("size", "least"), [((150, 203), 0.93), ((40, 90), 0.85)], ids=str)
def test_other_sizes(trained, scene, tmp_path, size, least):
    """The last windows lie elsewhere; a raster smaller than a window is padded on other sides."""
    optical, _ = scene(*size)
    theirs, ours = maps_of(trained, optical, tmp_path)
    assert theirs.shape == ours.shape == size
    assert equal(theirs, median_filter(ours, 5)) > least  # 0.967 and 0.904 when this was written


def test_a_model_of_heights_gets_none(scene, tmp_path, caplog):
    network, model = decided(tiny_model()), tmp_path / "heights.safetensors"
    model_file.save(model, network, card_of(network))
    optical, elevation = scene(WINDOW + 2 * 32, WINDOW + 32)
    theirs, ours = maps_of(model, optical, tmp_path)
    assert "GeoDeep passes none: expect a poorer map" in caplog.text
    assert equal(theirs, median_filter(ours, 5)) > 0.9999
    informed = tmp_path / "informed.tif"
    predict(model, PredictInput((optical,), (elevation,)), informed, settings=WINDOWS)
    assert equal(theirs, median_filter(read(informed)[0], 5)) < 0.999


def test_what_geodeep_reads(trained, tmp_path):
    from geodeep.inference import create_session

    out = tmp_path / "model.onnx"
    export(trained, out, ExportOptions("geodeep", window=WINDOW, overlap=OVERLAP))
    _, config = create_session(str(out))
    assert config["input_shape"] == [1, 3, WINDOW, WINDOW]
    assert config["tiles_size"] == WINDOW
    assert config["tiles_overlap"] == 50
    assert config["resolution"] == 50
    assert config["model_type"] == "Segmentor"
    assert config["class_names"] == {str(c.id): c.name for c in TABLE}
    assert config["seg_thresh"] == config["seg_small_segment"] == 0


def test_polygons_of_geodeep_have_the_names_of_the_classes(trained, scene, tmp_path):
    optical, _ = scene(WINDOW, WINDOW)
    out = tmp_path / "model.onnx"
    export(trained, out, ExportOptions("geodeep", window=WINDOW, overlap=OVERLAP))
    found = json.loads(geodeep.segment(optical, str(out), output_type="geojson"))
    assert {f["properties"]["class"] for f in found["features"]} == {c.name for c in TABLE}
