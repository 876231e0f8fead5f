"""What lies outside the training data is said in one line; ground like the training's is not."""

from pathlib import Path

import numpy as np
import pytest

from cafe_cli.config.schema import HeightSettings
from cafe_cli.inference.foreign_ground import describe_foreign_ground, sample
from cafe_cli.inference.job import ComputeOptions, PredictInput, PredictOutput
from cafe_cli.inference.predict import dry_run
from cafe_cli.model import model_file
from cafe_cli.raster.window import Window
from cafe_cli.scenes import scene_ground
from cafe_cli.scenes.inspection import inspect_scene
from cafe_cli.scenes.scene import find_scene_ground, open_scene
from cafe_cli.vector.area_of_interest import Area
from tests.support.engines import card_of, ensemble_of, predict, tiny_model, town, write
from tests.support.rasters import scene_files

NDSM = HeightSettings(kind="ndsm", fill=0)
SIDE = 96
SHARED = Path(__file__).parents[3] / "shared/data"


@pytest.fixture
def rasters(tmp_path):
    """Return a function that writes a town, changed by factors, and returns its files."""

    def make(name="town", brightness=1.0, taller=0.0, void=0, seed=3):
        image, metres, _ = town(SIDE, SIDE, seed)
        bright = (image * np.reshape(brightness, (-1, 1, 1))).clip(1, 255).astype("uint8")
        metres = metres + np.where(metres > 4, np.float32(taller), np.float32(0))
        metres[:, :void] = -9999
        return scene_files(
            name, write(tmp_path / f"{name}.tif", bright),
            write(tmp_path / f"{name}_dsm.tif", metres, nodata=-9999),
        )  # fmt: skip

    return make


def measure(files, settings=NDSM, part=None):
    """Return the distribution of a scene, or of a part of it, as a window of fractions."""
    with opened(files, settings) as scene:
        return sample(scene, area_of(scene, part))


def opened(files, settings):
    inspection = inspect_scene(files, settings)
    return open_scene(inspection, find_scene_ground(inspection))


def area_of(scene, part):
    if part is None:
        return Area.whole(scene.grid)
    width, height = scene.grid.width, scene.grid.height
    left, top, right, bottom = (
        round(share * n) for share, n in zip(part, (width, height) * 2, strict=True)
    )
    bounds = scene.grid.at(Window.from_bounds(left, top, right, bottom)).bounds
    return Area.from_bbox(bounds, scene.grid)


def knowing(*pixels, settings=NDSM):
    """Return an ensemble of models that were trained on such pixels."""
    network = tiny_model()
    cards = [card_of(network, training_pixels=p, height=settings) for p in pixels]
    return ensemble_of(*cards)


def describe(files, ensemble, settings=NDSM, part=None, heights=True):
    with opened(files, settings) as scene:
        return describe_foreign_ground(scene, area_of(scene, part), ensemble, heights=heights)


def test_known_ground_is_not_mentioned(rasters):
    ensemble = knowing(measure(rasters("a", seed=3)))
    assert describe(rasters("b", seed=4), ensemble) is None


def test_only_what_lies_outside_is_named(rasters):
    known = measure(rasters("a"))
    files = rasters("b", brightness=(1, 0.25, 1))
    green = 1 - measure(files).bands[1].p50 / known.bands[1].p50
    assert describe(files, knowing(known)) == (
        f"{files.optical[0]} is unlike the training data, the map may be poor: "
        f"green is {100 * green:.0f} % darker"
    )


def test_brighter_bands_share_a_part_of_the_line(rasters):
    text = describe(rasters("b", brightness=(1.9, 4, 1)), knowing(measure(rasters("a"))))
    assert text.count(";") == 0
    assert "red is" in text
    assert ", green is" in text
    assert text.count("% brighter") == 2
    assert "blue" not in text


def test_tall_scenes(rasters):
    text = describe(rasters("b", taller=30), knowing(measure(rasters("a"))))
    assert text.endswith(": heights above ground reach 39 m, 99.9 % of training lies below 9 m")


def test_absolute_heights_are_not_called_above_ground(rasters):
    settings = HeightSettings(ground="none", fill=0)
    known = measure(rasters("a"), settings)
    text = describe(rasters("b", taller=30), knowing(known, settings=settings), settings)
    assert ": heights reach 39 m" in text


def test_heights_below_the_ground(rasters):
    text = describe(rasters("b", taller=-30), knowing(measure(rasters("a"))))
    assert "heights above ground go down to -25 m, 99.9 % of training lies above 0 m" in text


def test_a_metre_more_than_flat_ground_is_not_foreign(rasters):
    flat = measure(rasters("a", taller=-4))
    assert flat.heights.p99 < 5.1
    assert describe(rasters("b", taller=-3.2), knowing(flat)) is None


def test_voids(rasters):
    text = describe(rasters("b", void=SIDE // 2), knowing(measure(rasters("a"))))
    assert text.endswith(": 50 % of the image has no height, in training 0 %")
    assert describe(rasters("b", void=SIDE // 8), knowing(measure(rasters("a")))) is None


def test_only_the_area_of_interest_counts(rasters):
    """The upper half has no heights."""
    ensemble, files = knowing(measure(rasters("a"))), rasters("b", void=SIDE // 2)
    assert describe(files, ensemble, part=(0, 0.5, 1, 1)) is None
    assert "100 % of the image has no height" in describe(files, ensemble, part=(0, 0, 1, 0.5))


def test_heights_may_be_left_out(rasters):
    ensemble = knowing(measure(rasters("a")))
    assert describe(rasters("b", taller=30), ensemble, heights=False) is None


def test_an_ensemble_knows_what_one_of_its_models_knows(rasters):
    low, tall = measure(rasters("a")), measure(rasters("b", taller=30))
    assert describe(rasters("b", taller=30), knowing(low, tall)) is None
    assert describe(rasters("b", taller=30), knowing(low, low)) is not None


def test_models_without_a_record_tell_nothing(rasters):
    assert describe(rasters("b", taller=30), knowing(None)) is None


@pytest.fixture
def trained_on_a_town(rasters, tmp_path):
    network, path = tiny_model(), tmp_path / "model.safetensors"
    model_file.save(path, network, card_of(network, training_pixels=measure(rasters("a"))))
    return path


@pytest.mark.slow
def test_predict_warns_of_it_once(rasters, trained_on_a_town, tmp_path, caplog):
    tall = rasters("b", taller=30)
    source = PredictInput(tall.optical, tall.elevation)
    predict(trained_on_a_town, source, tmp_path / "map.tif")
    said = [r.message for r in caplog.records if "unlike the training data" in r.message]
    assert len(said) == 1
    assert "heights above ground reach 39 m" in said[0]


@pytest.mark.slow
def test_dry_runs_report_it(rasters, trained_on_a_town, tmp_path):
    for taller, expected in ((0, 0), (30, 1)):
        files = rasters("b", taller=taller)
        report = dry_run(
            [trained_on_a_town], PredictInput(files.optical, files.elevation),
            PredictOutput(tmp_path / "map.tif"), compute=ComputeOptions("cpu", 1),
        )  # fmt: skip
        found = [f for f in report.as_json()["findings"] if "unlike the training" in f["message"]]
        assert len(found) == expected
        assert all(f["level"] == "warning" and f["where"] == files.optical[0] for f in found)


@pytest.mark.slow
def test_dry_runs_estimate_the_ground_once(rasters, tmp_path, monkeypatch):
    dsm, calls, estimate = HeightSettings(fill=0), [], scene_ground.ground_below
    network, path = tiny_model(), tmp_path / "model.safetensors"
    known = measure(rasters("a"), dsm)
    model_file.save(path, network, card_of(network, training_pixels=known, height=dsm))

    def count(*args):
        calls.append(args)
        return estimate(*args)

    monkeypatch.setattr(scene_ground, "ground_below", count)
    files = rasters("b", taller=30)
    report = dry_run(
        [path], PredictInput(files.optical, files.elevation),
        PredictOutput(tmp_path / "map.tif"), compute=ComputeOptions("cpu", 1),
    )  # fmt: skip
    assert any("heights above ground reach" in f.message for f in report.findings)
    assert len(calls) == 1


@pytest.mark.slow
@pytest.mark.real_data
@pytest.mark.skipif(not (SHARED / "mountain_ky").is_dir(), reason=f"no sites in {SHARED}")
class TestSites:
    DSM = HeightSettings()
    HALVES = ((0, 0, 0.5, 1), (0.5, 0, 1, 1))

    @staticmethod
    def site(name):
        folder = SHARED / name
        return scene_files(name, folder / "ortho.tif", folder / "dsm.tif")

    @pytest.mark.parametrize("name", ["autzen", "frankfort_ky", "versailles_ky"])
    def test_a_half_is_not_foreign_to_the_other(self, name):
        files, (west, east) = self.site(name), self.HALVES
        for one, other in ((west, east), (east, west)):
            with opened(files, self.DSM) as scene:
                ensemble = knowing(sample(scene, area_of(scene, one)), settings=self.DSM)
                assert describe_foreign_ground(scene, area_of(scene, other), ensemble) is None

    def test_mountains_and_forests_are_foreign_to_a_town(self):
        ensemble = knowing(measure(self.site("autzen"), self.DSM), settings=self.DSM)
        text = describe(self.site("mountain_ky"), ensemble, self.DSM)
        assert "heights above ground reach" in text
        assert "red is 51 % darker" in text
        forest = describe(self.site("neon_forest_us/TEAK_043"), ensemble, self.DSM)
        assert "brighter" in forest
