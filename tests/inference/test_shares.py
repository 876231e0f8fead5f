"""The parts of a scene that `--strips I/N` predicts, joined by `cafe mosaic`, are one map."""

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

from cafe_cli.config.schema import PredictSettings
from cafe_cli.errors import ConfigError, OutputError
from cafe_cli.inference import ensemble, tiling
from cafe_cli.inference.job import ComputeOptions, PredictInput, PredictOutput
from cafe_cli.inference.predict import dry_run, predict_per_file
from cafe_cli.model import model_file, onnx_file
from cafe_cli.mosaic.job import MosaicInputs, MosaicOutputs
from cafe_cli.mosaic.mosaic import mosaic
from tests.support.engines import PIXEL, card_of, predict, tiny_model, town, write

pytest_plugins = ["tests.support.fixtures"]

HEIGHT, WIDTH = 170, 250
SETTINGS = PredictSettings(window=64, overlap=32)
CPU = ComputeOptions("cpu", 1)


@pytest.fixture
def small_strips(monkeypatch):
    """A row of windows per strip, in bands of several windows."""
    monkeypatch.setattr(tiling, "_STRIP", 1)
    monkeypatch.setattr(tiling, "_MEMORY", 150_000)


@pytest.fixture
def source(tmp_path, small_strips) -> PredictInput:
    image, metres, _ = town(HEIGHT, WIDTH)
    mask = np.full((HEIGHT, WIDTH), 255, np.uint8)
    mask[40:70, 100:150] = mask[:, :9] = 0
    optical = write(tmp_path / "ortho.tif", image, mask=mask)
    return PredictInput((optical,), (write(tmp_path / "dsm.tif", metres),))


@pytest.fixture
def varied_model(tmp_path) -> Path:
    """A model that tells classes apart on the ground of the scene."""
    network = tiny_model()
    image, metres, _ = town(160, 224)
    known = torch.ones(1, 160, 224, dtype=torch.bool)
    with torch.no_grad():
        logits = network(torch.from_numpy(image)[None].float(), known,
                         torch.from_numpy(metres)[None], known)  # fmt: skip
        network.head[-1].bias -= logits.mean(dim=(0, 2, 3))
    model_file.save(tmp_path / "model.safetensors", network, card_of(network))
    return tmp_path / "model.safetensors"


def polygon(source: PredictInput, path: Path) -> str:
    """Write a triangle that leaves whole strips empty."""
    with rasterio.open(source.optical[0]) as dataset:
        corners = [dataset.transform @ place for place in ((35, 30), (230, 60), (50, 165))]
    shape = {"type": "Polygon", "coordinates": [[*corners, corners[0]]]}
    crs = {"type": "name", "properties": {"name": "EPSG:32632"}}
    feature = {"type": "Feature", "properties": {}, "geometry": shape}
    path.write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": [feature]}))
    return str(path)


def within(source: PredictInput, area: str, folder: Path) -> PredictInput:
    """Return the scene with an area of interest."""
    with rasterio.open(source.optical[0]) as dataset:
        left, top = dataset.transform @ (21, 37)
    box = (left, top - 120 * PIXEL, left + 190 * PIXEL, top)
    aoi = polygon(source, folder / "aoi.geojson")
    changes = {"whole": {}, "bbox": {"bbox": box}, "aoi": {"aoi": aoi}}
    changes["both"] = changes["bbox"] | changes["aoi"]
    return replace(source, **changes[area])


def predict_parts(model: Path, source: PredictInput, folder: Path, count: int) -> list[Path]:
    """Predict a scene in parts, each with its confidence; return the label rasters."""
    parts = [folder / f"part_{number}.tif" for number in range(1, count + 1)]
    for number, part in enumerate(parts, start=1):
        predict(
            model, replace(source, strips=f"{number}/{count}"), part, settings=SETTINGS,
            confidence=part.with_stem(f"{part.stem}_sure"),
        )  # fmt: skip
    return parts


def assert_same(one: Path, other: Path) -> None:
    with rasterio.open(one) as a, rasterio.open(other) as b:
        assert (a.transform, a.crs, a.nodata) == (b.transform, b.crs, b.nodata)
        assert np.array_equal(a.read(), b.read())
        assert len(np.unique(a.read())) > 2


@pytest.mark.slow
@pytest.mark.parametrize(
    ("area", "counts"), [("whole", (1, 7)), ("bbox", (3,)), ("aoi", (5,)), ("both", (2,))]
)
def test_joined_parts_are_the_map(tmp_path, varied_model, source, area, counts):
    model, source = varied_model, within(source, area, tmp_path)
    whole, sure = tmp_path / "map.tif", tmp_path / "sure.tif"
    predict(model, source, whole, confidence=sure, settings=SETTINGS)
    for count in counts:
        folder = tmp_path / f"{count}"
        folder.mkdir()
        parts = predict_parts(model, source, folder, count)
        beside = [part.with_stem(f"{part.stem}_sure") for part in parts]
        joined = MosaicOutputs(folder / "joined.tif", confidence=folder / "joined_sure.tif")
        mosaic(MosaicInputs(tuple(map(str, parts)), confidences=tuple(map(str, beside))), joined)
        assert_same(folder / "joined.tif", whole)
        assert_same(folder / "joined_sure.tif", sure)


@pytest.mark.slow
@pytest.mark.parametrize("memory", [1, 10**9])
def test_parts_of_narrow_and_of_broad_bands(tmp_path, varied_model, source, monkeypatch, memory):
    monkeypatch.setattr(tiling, "_MEMORY", memory)
    model = varied_model
    predict(model, source, tmp_path / "map.tif", settings=SETTINGS)
    parts = predict_parts(model, source, tmp_path, 4)
    mosaic(MosaicInputs(tuple(map(str, parts))), MosaicOutputs(tmp_path / "joined.tif"))
    assert_same(tmp_path / "joined.tif", tmp_path / "map.tif")


def test_a_part_lies_on_the_box_of_its_strips(tmp_path, model, source):
    part = tmp_path / "part.tif"
    report = dry_run(
        [model], replace(source, strips="1/9"), PredictOutput(part), settings=SETTINGS, compute=CPU
    )
    meter = predict(model, replace(source, strips="1/9"), part, settings=SETTINGS)
    whole = dry_run([model], source, PredictOutput(part.with_stem("map")), settings=SETTINGS,
                    compute=CPU)  # fmt: skip
    assert report.facts["windows"] == meter.total < whole.facts["windows"] / 6
    assert report.facts["strips"] < whole.facts["strips"] / 6
    with rasterio.open(part) as dataset, rasterio.open(source.optical[0]) as scene:
        assert dataset.transform == scene.transform
        assert dataset.width < WIDTH
        assert dataset.height < HEIGHT
        assert report.facts["map"]["height"] == dataset.height
    made = tomllib.loads(part.with_name("part.tif.toml").read_text())
    assert made["source"]["strips"] == "1/9"


def test_another_part_is_not_resumed(tmp_path, model, source):
    part = tmp_path / "part.tif"
    predict(model, replace(source, strips="2/9"), part, settings=SETTINGS)
    before = part.read_bytes()
    predict(model, replace(source, strips="2/9"), part, settings=SETTINGS, resume=True)
    for other in ("3/9", "2/8", None):
        with pytest.raises(OutputError, match="was made of other inputs or with other settings"):
            predict(model, replace(source, strips=other), part, settings=SETTINGS, resume=True)
    assert part.read_bytes() == before


def test_strips_of_another_part_are_not_resumed(tmp_path, model, source):
    def interrupt(meter):
        if (tmp_path / ".part.tif.strips").exists() and meter.windows > 16:
            raise KeyboardInterrupt

    part = tmp_path / "part.tif"
    with pytest.raises(KeyboardInterrupt):
        predict(model, replace(source, strips="1/2"), part, settings=SETTINGS, progress=interrupt)
    with pytest.raises(OutputError, match='strips was "1/2", now "2/2"'):
        predict(model, replace(source, strips="2/2"), part, settings=SETTINGS, resume=True)
    predict(model, replace(source, strips="1/2"), part, settings=SETTINGS, resume=True)
    predict(model, replace(source, strips="1/2"), tmp_path / "again.tif", settings=SETTINGS)
    assert part.read_bytes() == (tmp_path / "again.tif").read_bytes()


def test_more_parts_than_strips(tmp_path, model, source, monkeypatch):
    monkeypatch.setattr(tiling, "_STRIP", 10**9)
    monkeypatch.setattr(tiling, "_MEMORY", 10**9)
    message = "--strips 2/2: there are more parts than strips, 1; .* like --strips 1/1"
    with pytest.raises(ConfigError, match=message):
        predict(model, replace(source, strips="2/2"), tmp_path / "part.tif", settings=SETTINGS)
    assert not (tmp_path / "part.tif").exists()


def test_all_parts_have_the_engine_of_the_whole(tmp_path, model, source, monkeypatch):
    """Whether ONNX Runtime pays off is decided by the windows of the scene, not of a part."""
    monkeypatch.setattr(onnx_file, "available", lambda: True)
    monkeypatch.setattr(onnx_file, "can_export", lambda: True)
    asked = []
    choose = ensemble.choose_engine

    def choose_engine(wish, devices, windows, networks):
        asked.append(windows)
        return choose(wish, devices, windows, networks)

    monkeypatch.setattr("cafe_cli.inference.predictor.choose_engine", choose_engine)
    for strips in (None, "1/9", "9/9"):
        dry_run([model], replace(source, strips=strips), PredictOutput(tmp_path / "map.tif"),
                settings=SETTINGS, compute=CPU)  # fmt: skip
    assert len(asked) == 3
    assert len(set(asked)) == 1


def test_parts_of_the_files(tmp_path, model):
    image, _, _ = town(40, 50)
    names = tuple(write(tmp_path / f"{letter}.tif", image) for letter in "abcde")
    for number in (1, 2, 3):
        source = PredictInput(names, strips=f"{number}/3")
        predict_per_file([model], source, PredictOutput(tmp_path / f"maps{number}"), compute=CPU)
    made = [sorted(f.name for f in (tmp_path / f"maps{n}").glob("*.tif")) for n in (1, 2, 3)]
    assert sorted(name for files in made for name in files) == [
        f"{letter}.tif" for letter in "abcde"
    ]
    assert {len(files) for files in made} == {1, 2}
    predict(model, PredictInput(names[:1]), tmp_path / "whole.tif")
    assert (tmp_path / "maps1/a.tif").read_bytes() == (tmp_path / "whole.tif").read_bytes()
    with pytest.raises(ConfigError, match="--strips 6/6: there are more parts than orthophotos, 5"):
        predict_per_file(
            [model], PredictInput(names, strips="6/6"), PredictOutput(tmp_path / "maps"),
            compute=CPU,
        )  # fmt: skip
