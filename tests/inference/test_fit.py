"""A scene that cannot be what the model was trained on is refused; what is doubtful is said."""

import logging
from dataclasses import replace

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp

from cafe_cli.config.schema import HeightSettings
from cafe_cli.errors import BandError, CafeError, InputError
from cafe_cli.inference.job import ComputeOptions, PredictInput, PredictOutput
from cafe_cli.inference.predict import dry_run, predict_per_file
from cafe_cli.inference.predictor import Predictor
from cafe_cli.inference.scene_input import SceneInput
from cafe_cli.model import model_file
from cafe_cli.model.distribution import DistributionSampler
from tests.support.engines import PIXEL, card_of, predict, tiny_model, town, write

SIDE = 64
CPU = ComputeOptions("cpu", 1)


def image(factor=1.0, dtype="uint8", seed=0):
    return (town(SIDE, SIDE, seed)[0].clip(8).astype(float) * factor).astype(dtype)


def metres(ground=0.0, factor=1.0):
    return (town(SIDE, SIDE)[1] * factor + ground).astype("float32")


class Trained:
    """A model with a record of its training pixels, and scenes to predict with it."""

    def __init__(self, folder):
        self.folder, self.path = folder, folder / "m.safetensors"
        self.network = tiny_model()

    def on(self, values, heights=None, **card):
        sampler, valid = DistributionSampler(), np.ones((SIDE, SIDE), bool)
        heights = metres() if heights is None else heights
        sampler.add(values, valid, heights[0], valid)
        known = {"training_pixels": sampler.distribution(), "dtype": values.dtype.name, **card}
        model_file.save(self.path, self.network, card_of(self.network, **known))
        return self

    def scene(self, values, heights=None, *, colors=None, names=None, pixel=PIXEL, **source):
        path = write(self.folder / "ortho.tif", values, pixel=pixel, photometric="rgb")
        with rasterio.open(path, "r+") as dataset:
            if colors:
                dataset.colorinterp = [ColorInterp[color] for color in colors]
            if names:
                dataset.descriptions = names
        dsm = write(self.folder / "dsm.tif", metres() if heights is None else heights, pixel=pixel)
        return PredictInput((path,), (dsm,), **source)

    def findings(self, source):
        predictor = Predictor([self.path], settings_of(), CPU)
        output = PredictOutput(self.folder / "map.tif")
        plan = predictor.plan(SceneInput.of(source, predictor.ensemble), output)
        return predictor.check_fit(plan, None)

    def bands(self, source):
        predictor = Predictor([self.path], settings_of(), CPU)
        return SceneInput.of(source, predictor.ensemble).inspect(predictor.ensemble)[0].bands


def settings_of():
    from cafe_cli.config.schema import PredictSettings

    return PredictSettings()


@pytest.fixture
def trained(tmp_path):
    return Trained(tmp_path)


# --- values ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("known", "found", "says"),
    [
        ((8, "uint16"), (257, "uint16"), r"\(16 bit\), it was trained on .* \(11 bit\)"),
        ((1, "uint8"), (16, "uint16"), r"ortho.tif is uint16, the model was trained on uint8, "),
        ((1, "uint8"), (1 / 255, "float32"), r"-scale 0 1 0 255 -ot Byte"),
        ((1 / 255, "float32"), (40, "uint16"), r"-scale 0 10000 0 1 -ot Float32"),
        ((8, "uint16"), (1, "uint16"), r"-scale 0 255 0 2047 -ot UInt16"),
    ],
)
def test_another_scaling_is_refused(trained, known, found, says):
    trained.on(image(*known))
    source = trained.scene(image(*found, seed=1))
    with pytest.raises(InputError, match=says) as caught:
        predict(trained.path, source, trained.folder / "map.tif")
    assert "does not fit the model: values of" in str(caught.value)
    assert "--ignore-mismatch" in str(caught.value)
    assert not (trained.folder / "map.tif").exists()


def test_dry_runs_and_single_files_refuse_it_too(trained, caplog):
    trained.on(image(8, "uint16"))
    source = trained.scene(image(257, "uint16"))
    report = dry_run([trained.path], source, PredictOutput(trained.folder / "m.tif"), compute=CPU)
    assert not report.ok
    assert sum("does not fit the model: values" in f.message for f in report.findings) == 1
    with pytest.raises(CafeError, match="1 of 1 orthophotos failed"):
        predict_per_file(
            [trained.path], source, PredictOutput(trained.folder / "maps"), compute=CPU
        )
    assert "does not fit the model: values" in caplog.text


def test_it_can_be_ignored(trained, caplog):
    trained.on(image(8, "uint16"))
    source = replace(trained.scene(image(257, "uint16")), ignore_mismatch=True)
    predict(trained.path, source, trained.folder / "map.tif")
    said = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert sum("does not fit" in text for text in said) == 1
    assert (trained.folder / "map.tif").exists()


def test_values_that_fit_are_silent_whatever_their_type(trained):
    trained.on(image())
    assert trained.findings(trained.scene(image(dtype="float32", seed=1))) == []
    assert trained.findings(trained.scene(image(dtype="uint16", seed=1))) == []


def test_a_model_without_a_record_warns(trained):
    trained.on(image(), training_pixels=None)
    (found,) = trained.findings(trained.scene(image(200, "uint16")))
    assert found.level == "warning"
    assert "is uint16, the model was trained on uint8" in found.message
    assert trained.findings(trained.scene(image())) == []


# --- bands -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "how",
    [
        {"colors": ("blue", "green", "red")},
        {"names": ("B", "G", "R")},
        {"names": ("Blue (490 nm)", "Green (560 nm)", "Red (665 nm)")},
    ],
)
def test_bands_are_read_in_the_order_of_the_model(trained, caplog, how):
    caplog.set_level(logging.INFO)
    trained.on(image())
    source = trained.scene(image(seed=1)[::-1], **how)
    assert trained.bands(source) == (3, 2, 1)
    assert "ortho.tif are read in the order of the model, by their names: red, green" in caplog.text
    assert trained.findings(source) == []


def test_every_orthophoto_has_its_own_order(trained):
    trained.on(image())
    one = trained.scene(image())
    source = replace(
        one, optical=(*one.optical, write(trained.folder / "other.tif", image()[::-1]))
    )
    with rasterio.open(source.optical[1], "r+") as dataset:
        dataset.descriptions = ("blue", "green", "red")
    predictor = Predictor([trained.path], settings_of(), CPU)
    inspection, _ = SceneInput.of(source, predictor.ensemble).inspect(predictor.ensemble)
    assert [member.bands for member in inspection.optical] == [(1, 2, 3), (3, 2, 1)]


def test_infrared_first(trained):
    trained.on(image(), band_names=("IR", "R", "G"))
    source = trained.scene(image(), names=("red", "green", "nir"))
    assert trained.bands(source) == (3, 1, 2)


def test_bands_that_were_asked_for_stay(trained, caplog):
    trained.on(image())
    source = trained.scene(image(), names=("blue", "green", "red"), bands=(1, 2, 3))
    assert trained.bands(source) == (1, 2, 3)
    assert "--bands 3,2,1 follows the names" in caplog.text


def test_other_bands_are_a_warning(trained, caplog):
    trained.on(image())
    assert trained.bands(trained.scene(image(), names=("nir", "red", "green"))) == (1, 2, 3)
    assert "are nir, red, green, the model was trained on red, green, blue" in caplog.text


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_unnamed_bands_look_exchanged(trained, dtype):
    trained.on(image(dtype=dtype), band_names=("band 1", "band 2", "band 3"))
    source = trained.scene(image(dtype=dtype)[::-1], colors=("gray",) + ("undefined",) * 2)
    (found, *_) = trained.findings(source)
    assert found.level == "warning"
    assert "--bands 3,2,1" in found.message


def test_too_many_bands_are_chosen_by_name(trained):
    trained.on(image())
    four = np.concatenate([image(), image()[:1]])
    names = ("nir", "red", "green", "blue")
    with pytest.raises(BandError, match=r"choose them with --bands 2,3,4"):
        trained.bands(trained.scene(four, names=names, colors=("gray",) + ("undefined",) * 3))


# --- heights and GSD ---------------------------------------------------------------------------


@pytest.mark.parametrize("ground", [30, 120, 2100])
def test_absolute_heights_are_refused(trained, ground):
    trained.on(image())
    source = trained.scene(image(), metres(ground))
    (found,) = trained.findings(source)
    assert found.level == "error"
    assert f"heights above ground of {ground}" in found.message
    assert "--height-kind dsm" in found.message
    terrain = write(trained.folder / "dtm.tif", np.full((1, SIDE, SIDE), ground, "float32"))
    assert trained.findings(replace(source, dtm=(terrain,))) == []


def test_heights_above_ground_with_a_terrain_model_are_refused(trained):
    trained.on(image(), height=HeightSettings(ground="dtm"))
    terrain = write(trained.folder / "dtm.tif", np.full((1, SIDE, SIDE), 120, "float32"))
    source = replace(trained.scene(image()), dtm=(terrain,))
    (found,) = trained.findings(source)
    assert "--height-kind ndsm" in found.message
    assert trained.findings(replace(source, dtm=(), height_kind="ndsm")) == []


def test_heights_above_ground_are_refused_by_a_model_of_absolute_ones(trained):
    settings = HeightSettings(ground="none")
    trained.on(image(), metres(120), height=settings)
    flat = metres()
    flat[:, : SIDE // 2] = 0
    (found,) = trained.findings(trained.scene(image(), flat))
    assert found.level == "error"
    assert "look like heights above ground" in found.message
    assert trained.findings(trained.scene(image(), metres(120))) == []


@pytest.mark.parametrize(("factor", "level"), [(100, "error"), (10, "warning")])
def test_heights_in_other_units(trained, factor, level):
    trained.on(image())
    source = trained.scene(image(), metres(factor=factor))
    (found,) = trained.findings(source)
    assert found.level == level
    assert "--height-unit" in found.message
    unit = {10: "decimetre", 100: "centimetre"}[factor]
    assert trained.findings(replace(source, height_unit=unit)) == []


def test_feet(trained):
    trained.on(image())
    (found,) = trained.findings(trained.scene(image(), metres(factor=3.28)))
    assert found.message.endswith("if the heights are in feet, set --height-unit")


def test_a_gsd_far_off_is_refused(trained):
    trained.on(image())
    source = trained.scene(image(), pixel=10 * PIXEL)
    with pytest.raises(InputError, match=r"is 5 m, .* at 0.5 m; --gsd model resamples"):
        trained.bands(source)
    assert trained.bands(replace(source, ignore_mismatch=True)) == (1, 2, 3)
