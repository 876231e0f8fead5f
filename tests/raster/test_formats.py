"""What a raster may lead to: files, servers, services, code."""

import logging
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import rasterio
import rasterio.shutil

from cafe_cli.errors import InputError
from cafe_cli.raster import formats
from cafe_cli.raster.input_files import InputFiles
from cafe_cli.raster.reader import open_raster, read_window
from cafe_cli.raster.window import Window
from tests.support.rasters import grid, noise, package

VRT = """<VRTDataset rasterXSize="8" rasterYSize="6"><SRS>EPSG:32632</SRS>
<GeoTransform>300000, 0.5, 0, 5200000, 0, -0.5</GeoTransform>
<Metadata><MDI key="source">https://example.org/a.tif, PG:dbname=a</MDI></Metadata>
<VRTRasterBand dataType="Byte" band="1">
<SimpleSource>{}<SourceBand>1</SourceBand></SimpleSource>
</VRTRasterBand></VRTDataset>"""
WMS = (
    '<GDAL_WMS><Service name="TMS"><ServerUrl>{}/${{z}}/${{x}}/${{y}}.png</ServerUrl></Service>'
    "<DataWindow><UpperLeftX>0</UpperLeftX><UpperLeftY>0</UpperLeftY><LowerRightX>9</LowerRightX>"
    "<LowerRightY>-9</LowerRightY><TileLevel>1</TileLevel></DataWindow><Projection>EPSG:3857"
    "</Projection><BlockSizeX>256</BlockSizeX><BlockSizeY>256</BlockSizeY></GDAL_WMS>"
)


NO_DATA = "holds no data: it says where to fetch it, or what to run"


def source(name, attributes='relativeToVRT="0"'):
    return f"<SourceFilename {attributes}>{name}</SourceFilename>"


@pytest.fixture
def asked():
    """Return the address of a server, and the paths that it was asked for."""
    paths = []

    class Handler(BaseHTTPRequestHandler):
        def answer(self):
            paths.append(self.path)
            self.send_error(404)

        do_GET = do_HEAD = do_POST = answer  # noqa: N815 (names of http.server)

        def log_message(self, *words):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}", paths
    server.shutdown()
    server.server_close()


def opens(path):
    with open_raster(str(path)) as dataset:
        return dataset.driver


# Files that lead to a server under names that do not say so.

DISGUISED = {
    "vsicurl": VRT.format(source("/vsicurl/{url}/a.tif")),
    "url": VRT.format(source("{url}/a.tif")),
    "vrt://": VRT.format(source("vrt://{url}/a.tif?bands=1")),
    "netCDF": VRT.format(source('NETCDF:"/vsicurl/{url}/a.nc":z')),
    "in an archive": VRT.format(source("/vsizip//vsicurl/{url}/a.zip/a.tif")),
    "streamed": VRT.format(source("/vsicurl_streaming/{url}/a.tif")),
    "bucket": VRT.format(source("/vsis3/bucket/a.tif")),
    "escaped": VRT.format(source("/vsi&#99;url/{url}/a.tif")),
    "CDATA": VRT.format(source("<![CDATA[/vsicurl/{url}/a.tif]]>")),
    "attribute": VRT.replace("Source>{}", 'Source SourceFilename="/vsicurl/{url}/a">'),
    "other case": VRT.format("<sourcefilename>/VSICURL/{url}/a.tif</sourcefilename>"),
    "warped": '<VRTDataset rasterXSize="8" rasterYSize="6" subClass="VRTWarpedDataset">'
    "<GDALWarpOptions><SourceDataset>/vsicurl/{url}/a.tif</SourceDataset></GDALWarpOptions>"
    "</VRTDataset>",
    "geolocation": VRT.format("").replace(
        "<Metadata>", '<Metadata domain="GEOLOCATION"><MDI key="X_DATASET">/vsicurl/{url}/x</MDI>'
    ),
}  # fmt: skip


@pytest.mark.parametrize("suffix", [".tif", "", ".vrt.tif", ".txt"])
@pytest.mark.parametrize("kind", DISGUISED)
def test_a_name_that_does_not_say_that_it_leads_to_a_server(kind, suffix, tmp_path, asked):
    path = tmp_path / f"ortho{suffix}"
    path.write_text(DISGUISED[kind].replace("{url}", asked[0]))
    with pytest.raises(InputError, match=r"would read from a server, .*to end in \.vrt"):
        opens(path)
    InputFiles.behind([str(path)])
    assert asked[1] == []


def test_one_that_hides_behind_another(tmp_path, asked):
    (tmp_path / "inner.vrt").write_text(VRT.format(source(f"/vsicurl/{asked[0]}/a.tif")))
    (tmp_path / "middle").write_text(VRT.format(source("inner.vrt", 'relativeToVRT="1"')))
    path = tmp_path / "outer.tif"
    path.write_text(VRT.format(source(tmp_path / "middle")))
    with pytest.raises(InputError, match="would read from a server, 127"):
        opens(path)
    for name in (f"vrt://{path}?bands=1", f"vrt://{path}"):
        with pytest.raises(InputError, match="would read from a server, 127"):
            opens(name)
    assert asked[1] == []


def test_one_that_says_so_is_read_and_told(tmp_path, asked, caplog):
    path = tmp_path / "ortho.vrt"
    path.write_text(VRT.format(source(f"/vsicurl/{asked[0]}/a.tif?token=abc")))
    with (
        caplog.at_level(logging.INFO, "cafe"),
        pytest.raises(InputError),
        open_raster(str(path)) as dataset,
    ):
        read_window(dataset, Window(0, 0, 8, 6), [1])
    assert f"{path} reads from 127.0.0.1" in caplog.messages
    assert "abc" not in caplog.text
    assert asked[1]


def test_virtual_rasters_of_local_files_need_no_suffix(write, tmp_path, caplog):
    write("a.tif", noise(1, grid()), grid())
    (tmp_path / "b.tif").write_text(VRT.format(source("a.tif", 'relativeToVRT="1"')))
    with caplog.at_level(logging.INFO, "cafe"):
        assert opens(tmp_path / "b.tif") == "VRT"
    assert caplog.messages == []


# Services and databases, which only the user may name.


@pytest.mark.parametrize(
    "name",
    ["WMS:{url}", "WMTS:{url}", "WCS:{url}", "PG:host=127.0.0.1", "EEDAI:x", "STACIT:{url}",
     "&lt;GDAL_WMS&gt;&lt;/GDAL_WMS&gt;", "OGCAPI:{url}", "/vsistdin/", "PLMosaic:x", "wms:{url}"],
)  # fmt: skip
def test_no_virtual_raster_names_a_service(name, tmp_path, asked):
    path = tmp_path / "a.vrt"
    path.write_text(VRT.format(source(name.replace("{url}", asked[0]))))
    with pytest.raises(InputError, match="names a service or a database"):
        opens(path)
    assert asked[1] == []


@pytest.mark.parametrize("suffix", [".tif", "", ".vrt", ".txt", ".png"])
@pytest.mark.parametrize(
    "text",
    [WMS, "\ufeff" + WMS, '<?xml version="1.0"?>\n' + WMS, "\n" + WMS,
     "<WCS_GDAL><ServiceURL>{}</ServiceURL></WCS_GDAL>",
     "<MRF_META><CachedSource><Source>/vsicurl/{}/a.tif</Source></CachedSource></MRF_META>",
     "<GDALTileIndexDataset><IndexDataset>{}</IndexDataset></GDALTileIndexDataset>",
     '{{"type": "gdal_streamed_alg", "command_line": "gdal raster read {}"}}'],
)  # fmt: skip
def test_files_that_describe_what_to_fetch_or_run(text, suffix, tmp_path, asked):
    path = tmp_path / f"ortho{suffix}"
    path.write_text(text.format(asked[0]))
    with pytest.raises(InputError, match=NO_DATA):
        opens(path)
    (tmp_path / "a.vrt").write_text(VRT.format(source(path)))
    with pytest.raises(InputError, match=NO_DATA):
        opens(tmp_path / "a.vrt")
    assert asked[1] == []


def test_a_service_that_the_user_names(tmp_path, asked):
    path = tmp_path / "service.xml"
    path.write_text(WMS.format(asked[0]))
    assert opens(path) == "WMS"
    assert opens(WMS.format(asked[0])) == "WMS"


def test_drivers_that_read_no_file(write):
    path = write("a.tif", noise(1, grid()), grid())
    for name in (f"DERIVED_SUBDATASET:LOGAMPLITUDE:{path}", "MEM:::DATAPOINTER=1,PIXELS=9,LINES=9"):
        with pytest.raises(InputError, match="cannot open"):
            opens(name)


def test_virtual_rasters_in_archives_say_what_they_are(write, tmp_path):
    path = write("a.tif", noise(1, grid()), grid())
    text = VRT.format(source(path))
    with zipfile.ZipFile(tmp_path / "z.zip", "w") as archive:
        archive.writestr("b.vrt", text)
        archive.writestr("b.tif", text)
    assert opens(f"/vsizip/{tmp_path}/z.zip/b.vrt") == "VRT"
    with pytest.raises(InputError, match="cannot open"):
        opens(f"/vsizip/{tmp_path}/z.zip/b.tif")


@pytest.mark.parametrize(
    ("driver", "suffix"),
    [("PNG", "png"), ("JPEG", "jpg"), ("GIF", "gif"), ("BMP", "bmp"), ("WEBP", "webp"),
     ("JP2OpenJPEG", "jp2"), ("HFA", "img"), ("ENVI", "dat"), ("EHdr", "bil"), ("AAIGrid", "asc"),
     ("PCIDSK", "pix"), ("RST", "rst"), ("SAGA", "sdat"), ("RRASTER", "grd"), ("ERS", "ers"),
     ("netCDF", "nc"), ("XYZ", "xyz"), ("COG", "tif"), ("NITF", "ntf"),
     ("GSBG", "grd"), ("Zarr", "zarr"), ("PNM", "pgm")],
)  # fmt: skip
def test_formats_that_are_read(driver, suffix, write, tmp_path):
    where = grid(64, 64)
    count = 3 if driver in ("WEBP", "JPEG") else 1
    dtype = "float32" if driver in ("GSBG", "AAIGrid") else "uint8"
    path = write("a.tif", noise(count, where).astype(dtype), where)
    copy = tmp_path / f"b.{suffix}"
    rasterio.shutil.copy(path, copy, driver=driver)
    assert opens(copy) in formats.FORMATS


def test_rasters_in_a_geopackage(tmp_path):
    assert opens(package(tmp_path / "a.gpkg", ["ortho"], grid())) == "GPKG"


def test_names_without_a_file_are_none(tmp_path):
    assert formats.check_sources(str(Path(tmp_path) / "absent")) is None
