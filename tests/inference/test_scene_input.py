"""What a person may give `cafe predict` by mistake."""

import numpy as np
import pytest

from tests.support.engines import town, write

pytest_plugins = ["tests.support.fixtures"]


@pytest.fixture
def files(tmp_path):
    image, metres, _ = town(64, 64)
    return {
        "ortho": write(tmp_path / "ortho.tif", image),
        "dsm": write(tmp_path / "dsm.tif", np.asarray(metres, "float32").reshape(1, 64, 64)),
        "map": str(tmp_path / "map.tif"),
    }


def test_an_image_is_no_surface_model(files, model, invoke):
    code, said = invoke(
        "predict", model, "--optical", files["ortho"], "--elevation", files["ortho"],
        "-o", files["map"],
    )  # fmt: skip
    assert code == 1
    assert "has 3 bands, heights have one" in said.err


@pytest.mark.parametrize("end", ["toml", "aux.xml"])
def test_an_output_is_not_lost_to_what_lies_beside_another(end, files, model, invoke):
    code, said = invoke(
        "predict", model, "--optical", files["ortho"], "--elevation", files["dsm"],
        "-o", files["map"], "--confidence", f"{files['map']}.{end}",
    )  # fmt: skip
    assert code == 2
    assert f"map.tif.{end}: rasters are written as GeoTIFF" in said.err


def test_a_crs_without_a_bbox(files, model, invoke):
    code, said = invoke(
        "predict", model, "--optical", files["ortho"], "--elevation", files["dsm"],
        "-o", files["map"], "--bbox-crs", "EPSG:4326",
    )  # fmt: skip
    assert code == 2
    assert "give --bbox too" in said.err


@pytest.mark.parametrize("size", ["0", "-1", "nan", "inf"])
@pytest.mark.parametrize("words", [(), ("--dry-run",)])
def test_a_pixel_size_that_is_none(size, words, files, model, invoke):
    code, said = invoke(
        "predict", model, "--optical", files["ortho"], "-o", files["map"], "--pixel-size", size,
        *words,
    )  # fmt: skip
    assert code == (1 if words else 2)
    assert f"--pixel-size {size} is not above 0" in said.err


def test_one_folder_for_two_outputs(files, model, invoke, tmp_path):
    code, said = invoke(
        "predict", model, "--per-file", "--optical", files["ortho"],
        "-o", str(tmp_path / "maps"), "--confidence", str(tmp_path / "maps"),
    )  # fmt: skip
    assert code == 2
    assert "is the folder of two outputs" in said.err
    assert not (tmp_path / "maps").exists()
