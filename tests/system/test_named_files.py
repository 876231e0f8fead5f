import os
from pathlib import Path

import pytest

from cafe_cli.system.named_files import files_behind

VRT = '<VRTDataset><SourceFilename relativeToVRT="{}">{}</SourceFilename></VRTDataset>'


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    (tmp_path / "in").mkdir()
    for name in ("a.tif", "in/b.tif", "in/c d.tif", "a&b.zip"):
        (tmp_path / name).write_bytes(b"II*\0")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def found(*names: str) -> set[str]:
    return {os.path.relpath(os.path.realpath(path)) for path in files_behind(names)}


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("a.tif", "a.tif"),
        ("./in/../a.tif", "a.tif"),
        ("{}/a.tif", "a.tif"),
        ("GTIFF_DIR:1:a.tif", "a.tif"),
        ("GTIFF_DIR:off:1234:{}/in/b.tif", "in/b.tif"),
        ("/vsisubfile/0_99,a.tif", "a.tif"),
        ("/vsisubfile/8_99,{}/in/b.tif", "in/b.tif"),
        ("/vsizip/a&b.zip/x/y.tif", "a&b.zip"),
        ("/vsizip//{}/a&b.zip/y.tif", "a&b.zip"),
        ("/vsizip/{{{}/a&b.zip}}/y.tif", "a&b.zip"),
        ("/vsigzip//vsisubfile/1_2,a.tif", "a.tif"),
        ("zip://a&b.zip!x.tif", "a&b.zip"),
        ("file://{}/a.tif", "a.tif"),
        ("vrt://a.tif?bands=1,1&ovr=0", "a.tif"),
        ('NETCDF:"in/c d.tif":height', "in/c d.tif"),
        ("HDF5:in/b.tif://data/height", "in/b.tif"),
        ("DERIVED_SUBDATASET:LOGAMPLITUDE:a.tif", "a.tif"),
        (VRT.format(0, "a.tif"), "a.tif"),
    ],
)
def test_names_that_hold_a_path(here, name, file):
    assert found(name.replace("{{", "{").replace("}}", "}").replace("{}", str(here))) == {file}


@pytest.mark.parametrize("name", ["none.tif", "https://host/a.tif", "", "/vsicurl/http://x/none"])
def test_names_without_a_local_file(here, name):
    assert found(name.replace("a.tif", "z.tif")) == set()


@pytest.mark.parametrize(
    "source", ["b.tif", "GTIFF_DIR:1:b.tif", "/vsisubfile/0_4,{}/in/b.tif", "{}/in/b.tif"]
)
def test_what_a_vrt_names(here, source):
    (here / "in" / "one.vrt").write_text(VRT.format(1, source.format(here)))
    (here / "two.vrt").write_text(VRT.format(1, "in/one.vrt"))
    assert found("two.vrt") == {"two.vrt", "in/one.vrt", "in/b.tif"}


def test_a_virtual_vector_file(here):
    xml = "<OGRVRTDataSource><SrcDataSource>in/b.tif</SrcDataSource></OGRVRTDataSource>"
    (here / "v.vrt").write_text(xml)
    assert found("v.vrt") == {"v.vrt", "in/b.tif"}


def test_vrts_that_name_each_other_end(here):
    (here / "one.vrt").write_text(VRT.format(1, "two.vrt"))
    (here / "two.vrt").write_text(VRT.format(1, "one.vrt"))
    assert found("one.vrt") == {"one.vrt", "two.vrt"}


def test_a_name_with_escapes(here):
    (here / "one.vrt").write_text(VRT.format(1, "a&amp;b.zip"))
    assert found("one.vrt") == {"one.vrt", "a&b.zip"}
