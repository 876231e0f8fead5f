"""`cafe heights --with-image`: a scene as bands of 8 bits."""

import tomllib

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp

from cafe_cli.config.schema import HeightSettings
from cafe_cli.errors import ConfigError, OutputError
from cafe_cli.scenes.eight_bit import dry_run, encode, encode_heights, encode_image, write_heights
from cafe_cli.scenes.height_map import HeightSource
from cafe_cli.scenes.scene import Patch
from tests.support.rasters import grid, noise, read

pytest_plugins = ["tests.support.fixtures"]

WHERE = grid(90, 70)
NDSM = HeightSettings(kind="ndsm", fill=0)


def test_heights():
    metres = np.array([[0, 0.12, 0.13, 7.9, -3, 63.5, 200, np.nan, 5]], np.float32)
    valid = np.array([[1, 1, 1, 1, 1, 1, 1, 0, 0]], bool)
    assert encode_heights(metres, valid).tolist() == [[0, 0, 1, 32, 0, 254, 254, 255, 255]]


def test_black_is_no_void():
    image = np.array([[[0, 0, 9]], [[0, 0, 0]]], np.uint8)
    valid = np.array([[True, False, True]])
    assert encode_image(image, valid).tolist() == [[[1, 0, 9]], [[1, 0, 0]]]


def test_beyond_the_image_all_bands_are_zero():
    nothing = np.zeros((1, 1), bool)
    heights = np.zeros((1, 1, 1), np.float32)
    patch = Patch(np.full((3, 1, 1), 7, np.uint8), nothing, heights, nothing)
    assert encode(patch, heights=True).ravel().tolist() == [0, 0, 0, 0]
    assert encode(patch, heights=False).shape == (3, 1, 1)


@pytest.fixture
def files(write):
    metres = np.fromfunction(lambda row, col: row * 0.5 + col * 0.1, (70, 90), dtype=np.float32)
    metres[5:9, 5:9] = -9999
    image = noise(3, WHERE).clip(1)
    image[:, 60:, :10] = 0
    return HeightSource(
        (write("dsm.tif", metres, WHERE, nodata=-9999),),
        optical=(write("ortho.tif", image, WHERE, nodata=0, photometric="RGB"),),
    )


def test_the_raster(files, tmp_path):
    out = tmp_path / "made" / "bands.tif"
    found = write_heights(files, out, NDSM)
    metres, image = read(files.elevation[0])[0], read(files.optical[0])
    made = read(out)
    assert (made[:3] == image).all()
    void, beyond = metres == -9999, (image == 0).all(axis=0)
    assert (made[3][void] == 255).all()
    assert (made[:, beyond] == 0).all()
    rest = ~void & ~beyond
    assert np.abs(made[3][rest] * 0.25 - metres[rest]).max() <= 0.125
    assert found.highest == metres.max()
    with rasterio.open(out) as dataset:
        assert dataset.descriptions == ("red", "green", "blue", "height")
        assert dataset.colorinterp[3] == ColorInterp.undefined  # not alpha
        assert dataset.nodata is None
        assert dataset.dtypes == ("uint8",) * 4
        assert (dataset.crs, dataset.transform) == (WHERE.crs, WHERE.transform)
    settings = tomllib.loads((tmp_path / "made" / "bands.tif.toml").read_text())
    assert settings["height"]["kind"] == "ndsm"
    with pytest.raises(OutputError, match="pass --overwrite"):
        write_heights(files, out, NDSM)


def test_high_ground_is_told(files, write, tmp_path, caplog):
    tall = write("tall.tif", np.full((70, 90), 80, np.float32), WHERE)
    write_heights(HeightSource((tall,), optical=files.optical), tmp_path / "b.tif", NDSM)
    assert "above 63.5 m do not fit into 8 bits" in caplog.text
    assert set(np.unique(read(tmp_path / "b.tif")[3])) == {0, 254}


@pytest.mark.parametrize("dtype", ["uint16", "int16", "float32"])
def test_images_of_more_bits(files, write, tmp_path, dtype):
    other = write("other.tif", noise(3, WHERE).astype(dtype), WHERE)
    source = HeightSource(files.elevation, optical=(other,))
    with pytest.raises(ConfigError, match=f"other.tif is {dtype}, and --with-image writes 8 bits"):
        write_heights(source, tmp_path / "b.tif", NDSM)
    (found,) = dry_run(source, tmp_path / "b.tif", NDSM).findings
    assert "writes 8 bits" in found.message


def test_absolute_heights(files, tmp_path):
    with pytest.raises(ConfigError, match="absolute heights do not fit"):
        write_heights(files, tmp_path / "b.tif", HeightSettings(ground="none"))


def test_dry_run(files, tmp_path):
    facts = dry_run(files, tmp_path / "b.tif", NDSM).facts
    assert facts["bands"] == ["red", "green", "blue", "height"]
    assert facts["estimate"] == {"disk_at_most": 4 * 70 * 90}
    assert not (tmp_path / "b.tif").exists()


def test_the_command(files, invoke, tmp_path):
    elevation, optical = files.elevation[0], files.optical[0]
    words = ["--elevation", elevation, "--height-kind", "ndsm", "-o", tmp_path / "b.tif"]
    code, captured = invoke("heights", *words, "--with-image")
    assert code == 2
    assert "give --optical" in captured.err
    code, _ = invoke("heights", *words, "--with-image", "--optical", optical)
    assert code == 0
    assert read(tmp_path / "b.tif").shape == (4, 70, 90)
