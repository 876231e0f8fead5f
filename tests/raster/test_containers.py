"""Rasters inside other files are opened if there is one, and listed if there are several."""

import tarfile
import zipfile

import pytest
import rasterio.shutil

from cafe_cli.errors import InputError
from cafe_cli.raster.reader import open_raster
from tests.support.rasters import grid, noise, package

WHOLE = grid(width=12, height=9)
VALUES = noise(1, WHOLE)


def archive(path, names, raster):
    """Pack a raster under several names, and a text beside them."""
    note = path.with_suffix(".txt")
    note.write_text("hello")
    files = [(str(note), "sub/readme.txt"), *((raster, name) for name in names)]
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as packed:
            for file, name in files:
                packed.write(file, name)
    else:
        with tarfile.open(path, "w:gz" if path.suffix == ".tgz" else "w") as packed:
            for file, name in files:
                packed.add(file, name)
    return str(path)


def read(path):
    with open_raster(path) as dataset:
        return dataset.read(1)


def names_in(error):
    return str(error.value).rpartition("as the file: ")[2].split(", ")


@pytest.mark.parametrize("suffix", ["zip", "tar", "tgz"])
def test_the_only_raster_of_an_archive_is_opened(write, tmp_path, suffix):
    path = archive(tmp_path / f"x.{suffix}", ["sub/a.tif"], write("a.tif", VALUES, WHOLE))
    assert (read(path) == VALUES[0]).all()


@pytest.mark.parametrize("suffix", ["zip", "tar", "tgz"])
def test_several_rasters_of_an_archive_are_listed(write, tmp_path, suffix):
    raster = write("a.tif", VALUES, WHOLE)
    path = archive(tmp_path / f"x.{suffix}", ["sub/a.tif", "b.tif"], raster)
    with pytest.raises(InputError, match=r"holds 2 rasters, name one of them") as error:
        read(path)
    for name in names_in(error):
        assert (read(name) == VALUES[0]).all()


def test_an_archive_without_rasters_is_listed(tmp_path):
    path = archive(tmp_path / "x.zip", [], "")
    with pytest.raises(InputError, match=r"x\.zip is an archive without a raster.*readme\.txt"):
        read(path)


def test_a_truncated_archive_is_told(write, tmp_path):
    path = archive(tmp_path / "x.zip", ["a.tif"], write("a.tif", VALUES, WHOLE))
    content = (tmp_path / "x.zip").read_bytes()
    (tmp_path / "x.zip").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"x\.zip as a raster: the archive is truncated"):
        read(path)


def test_the_only_raster_of_a_geopackage_is_opened(tmp_path):
    with open_raster(package(tmp_path / "a.gpkg", ["ortho"], WHOLE)) as dataset:
        assert (dataset.count, dataset.crs) == (4, WHOLE.crs)


def test_the_tables_of_a_geopackage_are_listed(tmp_path):
    path = package(tmp_path / "a.gpkg", ["ortho", "old"], WHOLE)
    with pytest.raises(InputError, match=r"a\.gpkg holds 2 rasters") as error:
        read(path)
    assert names_in(error) == [f"GPKG:{path}:{name}" for name in ("ortho", "old")]
    assert read(names_in(error)[1]).shape == (9, 12)


@pytest.mark.parametrize("suffix", ["nc", "h5"])
def test_the_variables_of_a_scientific_file_are_listed(write, tmp_path, suffix):
    source = write("a.tif", noise(3, WHOLE), WHOLE)
    rasterio.shutil.copy(source, str(tmp_path / "a.nc"), driver="netCDF", FORMAT="NC4")
    path = str((tmp_path / "a.nc").rename(tmp_path / f"b.{suffix}"))
    with pytest.raises(InputError, match=r"holds 3 rasters") as error:
        read(path)
    assert all(name.endswith(f"Band{n}") for n, name in enumerate(names_in(error), start=1))
    assert read(names_in(error)[2]).shape == (9, 12)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.ecw", b"x" * 99, r"no driver for \.ecw files; .*gdal_translate .*a\.ecw OUT\.tif"),
        ("a.sid", b"x" * 99, r"no driver for \.sid files"),
        ("a.xyzt", b"x" * 99, r"no driver for \.xyzt files"),
        ("a.laz", b"LASF" + b"0" * 99, "a point cloud is not a raster"),
        ("a.geojson", b"{}", "it holds vectors"),
        ("a.gpkg", b"x" * 99, "holds no raster; a GeoPackage of vectors"),
        ("a.tif", b"", "the file is empty"),
        ("a.tif", b"x" * 99, "damaged or not what its name says"),
    ],
)
def test_a_file_that_does_not_open_says_why(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"cannot open .*{name} as a raster: .*{message}"):
        read(str(tmp_path / name))
