import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import rasterio.shutil

from cafe_cli.errors import InputError
from cafe_cli.raster.input_files import InputFiles, missing_sources
from tests.support.rasters import grid, noise

VRT = """<VRTDataset rasterXSize="8" rasterYSize="6"><VRTRasterBand dataType="Byte" band="1">
<SimpleSource><SourceFilename relativeToVRT="1">{}</SourceFilename><SourceBand>1</SourceBand>
</SimpleSource></VRTRasterBand></VRTDataset>"""
LAYERS = """<OGRVRTDataSource><OGRVRTLayer name="a"><SrcDataSource relativeToVRT="1">{}
</SrcDataSource></OGRVRTLayer></OGRVRTDataSource>"""


@pytest.fixture
def folder(write, tmp_path, monkeypatch):
    """A folder of rasters and virtual rasters, the current one."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.tif", "b.tif", "c.tif"):
        write(name, noise(1, grid()), grid())
    Path("plain.vrt").write_text(VRT.format("a.tif"))
    Path("nested.vrt").write_text(VRT.format("plain.vrt"))
    Path("odd.suffix").write_text(VRT.format("nested.vrt"))
    Path("labels.geojson").write_text("{}")
    Path("labels.vrt").write_text(LAYERS.format("labels.geojson"))
    Path("town.shp").write_bytes(b"x")
    Path("town.dbf").write_bytes(b"x")
    Path("town.gdb").mkdir()
    Path("town.gdb/a1.gdbtable").write_bytes(b"x")
    rasterio.shutil.copy("a.tif", "a.img", driver="HFA")
    rasterio.shutil.copy("a.tif", "a.bil", driver="EHdr")
    with zipfile.ZipFile("z.zip", "w") as archive:
        archive.write("a.tif")
    return tmp_path


def wait_for_the_clock():
    """Wait until files get another time than before."""
    Path("clock").touch()
    first = os.stat("clock").st_ctime_ns
    while os.stat("clock").st_ctime_ns == first:
        Path("clock").touch()


BEHIND = [
    ("a.tif", "a.tif"),
    ("plain.vrt", "a.tif"),
    ("nested.vrt", "a.tif"),
    ("nested.vrt", "plain.vrt"),
    ("odd.suffix", "a.tif"),
    ("vrt://a.tif?bands=1", "a.tif"),
    ("z.zip", "z.zip"),
    ("/vsizip/z.zip/a.tif", "z.zip"),
    ("GTIFF_DIR:1:a.tif", "a.tif"),
    ("a.img", "a.img"),
    ("a.bil", "a.hdr"),
    ("labels.vrt", "labels.geojson"),
    ("town.shp", "town.dbf"),
    ("town.gdb", "town.gdb/a1.gdbtable"),
]


@pytest.mark.parametrize(("name", "file"), BEHIND)
def test_a_change_of_any_file_behind_a_name_is_told(name, file, folder):
    files = InputFiles.behind([name])
    files.check_unchanged()
    with open(file, "ab") as opened:
        opened.write(b"more")
    with pytest.raises(InputError, match=f"{file} was changed while it was read"):
        files.check_unchanged()


@pytest.mark.parametrize("change", ["replaced", "in place, time set back", "gone", "touched"])
@pytest.mark.parametrize("name", ["a.tif", "nested.vrt"])
def test_every_manner_of_change_is_told(name, change, folder):
    os.utime("a.tif", ns=(10**18, 10**18))
    files = InputFiles.behind([name])
    wait_for_the_clock()
    if change == "replaced":
        os.utime("b.tif", ns=(10**18, 10**18))
        os.replace("b.tif", "a.tif")
    elif change == "in place, time set back":
        Path("a.tif").write_bytes(Path("b.tif").read_bytes())
        os.utime("a.tif", ns=(10**18, 10**18))
    elif change == "gone":
        os.remove("a.tif")
    else:
        os.utime("a.tif")
    with pytest.raises(InputError, match=r"a.tif was changed while it was read"):
        files.check_unchanged()


@pytest.mark.parametrize("side", ["a.tif.ovr", "a.tif.msk", "a.tfw", "a.prj"])
@pytest.mark.parametrize("name", ["a.tif", "nested.vrt"])
def test_a_new_side_file_is_told(name, side, folder):
    files = InputFiles.behind([name])
    Path(side).write_bytes(b"x")
    with pytest.raises(InputError, match=f"{side} was changed"):
        files.check_unchanged()


STATISTICS = (
    '<PAMDataset>\n<PAMRasterBand band="1">\n<Histograms><HistItem/></Histograms>\n<Metadata>\n'
    '<MDI key="STATISTICS_MEAN">3</MDI>\n</Metadata>\n</PAMRasterBand>\n</PAMDataset>'
)


def test_what_does_not_change_pixels_is_no_change(folder):
    files = InputFiles.behind(["a.tif", "plain.vrt", "town.gdb"])
    os.chmod("a.tif", 0o600)
    os.link("a.tif", "backup.tif")
    Path("a.tif.aux.xml").write_text(STATISTICS)
    Path("town.gdb/x.lock").write_bytes(b"x")
    Path("c.tif").write_bytes(b"another file")
    files.check_unchanged()
    nodata = STATISTICS.replace("<Metadata>", "<NoDataValue>0</NoDataValue><Metadata>")
    Path("a.tif.aux.xml").write_text(nodata)
    with pytest.raises(InputError, match=r"a.tif.aux.xml was changed"):
        files.check_unchanged()


@pytest.mark.parametrize("name", ["s3://bucket/a.tif", "/vsigs/bucket/a.tif", "PG:dbname=town"])
def test_of_stores_and_databases_it_cannot_be_known(name):
    assert InputFiles.behind([name]).unknown == (name,)


def test_files_that_do_not_exist_have_no_stamp(tmp_path):
    files = InputFiles.behind([str(tmp_path / "none.tif")])
    assert not files.stamps
    assert not files.unknown


def test_thousands_of_sources_are_found_once(write, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write("a.tif", np.zeros((1, 6, 8), np.uint8), grid())
    part = "<SimpleSource><SourceFilename>a.tif</SourceFilename></SimpleSource>"
    Path("many.vrt").write_text(
        VRT.format("a.tif").replace("</VRTRasterBand>", part * 3000 + "</VRTRasterBand>")
    )
    assert set(InputFiles.behind(["many.vrt"] * 3).stamps) == {"many.vrt", "a.tif"}


@pytest.mark.parametrize("name", [b"\x8b.tif", b"/\xff/a.tif", b"k\xf6ln.tif"])
def test_a_virtual_raster_whose_sources_have_names_that_are_not_utf8(name, tmp_path):
    path = tmp_path / "a.vrt"
    path.write_bytes(VRT.format("NAME").encode().replace(b"NAME", name))
    assert set(InputFiles.behind([str(path)]).stamps) == {str(path)}


def test_sources_that_do_not_exist_are_told(folder, caplog):
    Path("gone.vrt").write_text(
        VRT.format("a.tif")
        + VRT.format("lost/b.tif")
        + VRT.format("&amp;c.tif").replace('"1"', '"0"')
    )
    assert missing_sources("gone.vrt") == ["lost/b.tif", "&c.tif"]
    InputFiles.behind(["gone.vrt"])
    assert "lost/b.tif and 1 more of its sources do not exist" in caplog.text


@pytest.mark.parametrize("name", ["a.tif", "nested.vrt", "labels.vrt", "no.vrt", "z.zip"])
def test_sources_that_exist_are_not(name, folder):
    assert missing_sources(name) == []


@pytest.mark.parametrize(
    "name", ["/vsicurl/http://x/a.tif", "GTIFF_DIR:1:b.tif", "&lt;VRTDataset/&gt;", "s3://b/c.tif"]
)
def test_sources_that_are_no_names_of_files_may_exist(name, tmp_path):
    path = tmp_path / "a.vrt"
    path.write_text(VRT.format(name))
    assert missing_sources(str(path)) == []


def test_a_source_whose_name_is_not_utf8_exists(tmp_path):
    (tmp_path / os.fsdecode(b"k\xf6ln.tif")).touch()
    path = tmp_path / "a.vrt"
    path.write_bytes(VRT.format("k?ln.tif").encode().replace(b"?", b"\xf6"))
    assert missing_sources(str(path)) == []
