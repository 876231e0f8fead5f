"""Commands that run, or fail, without torch and what it brings."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch

from cafe_cli.cli.main import cli
from cafe_cli.model import model_file, onnx_export
from tests.support.engines import card_of, settings, tiny_model, town, write, write_town

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")

HEAVY = ("torch", "torchvision", "timm", "segmentation_models_pytorch", "lightning_fabric")
# As if none of them were installed.
RUN = f"""
import sys
for name in {HEAVY}: sys.modules[name] = None
from cafe_cli.cli.main import main
main()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A scene, a model and its ONNX file."""
    folder = tmp_path_factory.mktemp("without")
    image, metres, _ = town(230, 190)
    metres[0, 100:140, 20:90] = np.nan
    mask = np.ones((230, 190), bool)
    mask[:70, 64:140] = False
    write(folder / "ortho.tif", image, mask=mask)
    write(folder / "dsm.tif", metres)
    model = tiny_model(attention=128)
    with torch.no_grad():
        model.head[-1].weight *= 100  # labels that change from pixel to pixel
    model_file.save(folder / "m.safetensors", model, card_of(model))
    (folder / "m.onnx").write_bytes(onnx_export.export_onnx(model, card_of(model)))
    return folder


def cafe(folder: Path, *words: object, **environment: str):
    """Run the command line as if torch were not installed."""
    return subprocess.run(
        [sys.executable, "-c", RUN, *map(str, words)], cwd=folder, capture_output=True, text=True,
        timeout=300, check=False, env={**os.environ, **environment},
    )  # fmt: skip


def cafe_with_torch(folder: Path, *words: object, **environment: str) -> None:
    """Run the command line in this process, which has torch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for name, value in environment.items():
            patch.setenv(name, value)
        cli.main([*map(str, words)], standalone_mode=False)


SCENE = ("--optical", "ortho.tif", "--elevation", "dsm.tif", "--device", "cpu")
BOX = (500_010, 5_199_900, 500_060, 5_199_990)
OUTPUTS = ("-o", "{}.tif", "--confidence", "{}_c.tif", "--probabilities", "{}_p.tif")


def outputs(name: str, folder: Path) -> list[np.ndarray]:
    rasters = []
    for kind in ("", "_c", "_p"):
        with rasterio.open(folder / f"{name}{kind}.tif") as dataset:
            rasters.append(dataset.read())
    return rasters


FINE = ("--window", 64, "--overlap", 32)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        (),
        (
            "--window",
            96,
            "--overlap",
            0,
            "--blend",
            "crop",
            "--bbox",
            *BOX,
        ),
        (*FINE, "--tta", "flips", "--scales", "0.5,1.5"),
        (*FINE, "--batch-size", 3, "--blend", "gaussian", "-j", 1),
    ],
)
def test_the_same_bytes_as_the_onnx_engine_on_the_model(folder, options):
    words = (*SCENE, *options, "--overwrite")
    done = cafe(folder, "predict", "m.onnx", *words, *(word.format("file") for word in OUTPUTS))
    assert done.returncode == 0, done.stderr
    model = ("predict", "m.safetensors", "--engine", "onnx")
    cafe_with_torch(folder, *model, *words, *(word.format("model") for word in OUTPUTS))
    one, other = outputs("file", folder), outputs("model", folder)
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    assert len(np.unique(one[0])) > 2


@pytest.mark.slow
def test_a_model_that_ran_before_needs_no_torch(folder, tmp_path):
    cache = {"CAFE_CACHE": str(tmp_path / "cache")}
    words = ("predict", "m.safetensors", *SCENE, "-o", "twin.tif", "--overwrite")
    cafe_with_torch(folder, *words, "--engine", "onnx", **cache)
    before = outputs_of(folder / "twin.tif")
    again = cafe(folder, "-v", *words, **cache)
    assert again.returncode == 0, again.stderr
    assert "exported" not in again.stderr
    assert np.array_equal(outputs_of(folder / "twin.tif"), before)
    planned = cafe(folder, *words, "--dry-run", **cache)
    assert planned.returncode == 0, planned.stderr
    assert "seconds" in planned.stdout + planned.stderr


def outputs_of(path: Path) -> np.ndarray:
    with rasterio.open(path) as dataset:
        return dataset.read()


@pytest.mark.slow
def test_a_run_of_torch_is_resumed_after_an_export(folder, tmp_path, capfd):
    """That the faster engine is there meanwhile is no reason to refuse the strips of a run."""
    cache = {"CAFE_CACHE": str(tmp_path / "cache")}
    words = ("predict", "m.safetensors", *SCENE, "-o", "resumed.tif")
    cafe_with_torch(folder, *words, **cache)
    other = ("predict", "m.safetensors", *SCENE, "-o", "other.tif", "--engine", "onnx")
    cafe_with_torch(folder, *other, **cache)
    cafe_with_torch(folder, *words, "--resume", **cache)
    cafe_with_torch(folder, "-v", *words, "--resume", **cache)
    assert "is complete" in capfd.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (("info", "m.onnx"), 0, "model"),
        (("info", "m.safetensors"), 0, "model"),
        (("info", "ortho.tif"), 0, "raster"),
        (("predict", "m.safetensors", *SCENE, "-o", "n.tif", "--dry-run"), 0, "ok"),
        (("predict", "m.onnx", *SCENE, "-o", "n.tif", "--dry-run"), 0, "ok"),
        (("predict", "m.onnx", "-o", "n.tif", "--optical", "nothing.tif"), 1, "nothing.tif"),
        (("predict", "m.safetensors", *SCENE, "-o", "ortho.tif"), 2, "ortho.tif"),
        (("predict", "m.safetensors", *SCENE, "-o", "n.tif", "--bands", "1,2"), 1, "3 (red"),
        (("predict", "m.safetensors", *SCENE[:4], "-o", "n.tif", "--device", "tpu"), 2, "'tpu'"),
        (("predict", "m.onnx", *SCENE, "-o", "n.tif", "--engine", "torch"), 2, "leave out"),
        (("predict", "nothing.onnx", *SCENE, "-o", "n.tif"), 1, "does not exist"),
        (("predict", "dsm.tif", *SCENE, "-o", "n.tif"), 1, "dsm.tif"),
        (("train", "nothing", "-o", "run"), 1, "torch is not installed: pip install torch"),
    ],
)
def test_answers_that_need_no_torch(folder, words, code, says):
    done = cafe(folder, *words)
    assert done.returncode == code, done.stderr
    assert says in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_check_needs_no_torch(tmp_path):
    write_town(tmp_path, "a", 96, 96)
    write_town(tmp_path, "b", 96, 96, 1, (300, 0))
    (tmp_path / "c.toml").write_text(
        '[scenes]\noptical = "{id}_ortho.tif"\nelevation = "{id}_dsm.tif"\n'
        'labels = "{id}_labels.tif"\n[tile]\nsize = 64\n[height]\nkind = "ndsm"\n'
        + "".join(f'[[classes]]\nid = {c.id}\nname = "{c.name}"\n' for c in settings().classes)
    )
    done = cafe(tmp_path, "check", "-c", "c.toml")
    assert "not installed" not in done.stderr
    assert "check" in done.stdout + done.stderr
