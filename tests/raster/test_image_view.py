"""Palettes and undeclared masks: an image is what a viewer would show."""

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from rasterio.enums import ColorInterp, Resampling

from cafe_cli.errors import InputError
from cafe_cli.raster.mosaic_view import MosaicView, inspect_rasters
from cafe_cli.raster.window import Window
from tests.support.rasters import grid, noise

WHOLE = grid(width=40, height=30)
RNG = np.random.default_rng(1)
COLORS = {i: (*map(int, RNG.integers(0, 256, 3)), 255) for i in range(16)}
INDICES = RNG.integers(0, 16, (1, 30, 40)).astype(np.uint8)
EXPECTED = np.array([COLORS[i][:3] for i in range(16)], np.uint8)[INDICES[0]].transpose(2, 0, 1)


def paletted(write, name="a.tif", colors=COLORS, indices=INDICES, **options):
    path = write(name, indices, WHOLE, photometric="palette", **options)
    with rasterio.open(path, "r+") as dataset:
        dataset.write_colormap(1, colors)
    return path


def as_image(paths, where=WHOLE, bands=None):
    members = inspect_rasters([paths] if isinstance(paths, str) else paths, bands=bands)
    view = MosaicView(members, where, Resampling.nearest)
    values, valid = view.read(where.extent)
    view.close()
    return values, valid, members


@pytest.mark.parametrize("suffix", ["tif", "png", "gif", "vrt"])
def test_indices_of_a_palette_become_colours(write, tmp_path, suffix):
    path = paletted(write)
    if suffix != "tif":
        driver = {"png": "PNG", "gif": "GIF", "vrt": "VRT"}[suffix]
        rasterio.shutil.copy(path, copy := str(tmp_path / f"b.{suffix}"), driver=driver)
        path = copy
    values, valid, (member,) = as_image(path)
    assert (values == EXPECTED).all()
    assert valid.all()
    assert (member.bands, member.dtype) == ((1, 2, 3), "uint8")
    (finding,) = member.findings
    assert finding.level == "note"
    assert "colour table" in finding.message


def test_a_sheet_with_a_palette_joins_one_with_colours(write):
    right = WHOLE.at(Window(40, 0, 40, 30))
    values, _, members = as_image(
        [paletted(write), write("b.tif", noise(3, right), right)], WHOLE.at(Window(0, 0, 80, 30))
    )
    assert (values[:, :, :40] == EXPECTED).all()
    assert [m.dtype for m in members] == ["uint8", "uint8"]


def test_a_palette_is_expanded_before_it_is_warped(write):
    shifted = WHOLE.at(Window(0, 0, 39, 29)).rescaled(2)
    colors = {i: (20 * i, 0, 250 - 10 * i, 255) for i in range(2)}
    indices = np.indices((30, 40)).sum(axis=0)[None] % 2
    path = paletted(write, colors=colors, indices=indices.astype(np.uint8))
    view = MosaicView(inspect_rasters([path]), shifted, Resampling.average)
    values, _ = view.read(Window(2, 2, 8, 8))
    view.close()
    assert np.unique(values[0]).tolist() == [10]
    assert np.unique(values[2]).tolist() == [245]


def test_bands_of_a_palette_are_those_of_its_colours(write):
    values, _, _ = as_image(paletted(write), bands=(3, 1))
    assert (values == EXPECTED[[2, 0]]).all()


def test_a_palette_of_greys_has_one_band(write):
    values, _, _ = as_image(paletted(write, colors={i: (i * 9,) * 3 + (255,) for i in range(16)}))
    assert (values == INDICES * 9).all()


@pytest.mark.parametrize("kind", ["nodata", "transparent", "mask"])
def test_voids_of_a_palette_stay_voids(write, tmp_path, kind):
    colors = COLORS | ({3: (0, 0, 0, 0)} if kind == "transparent" else {})
    path = paletted(write, colors=colors, **({"nodata": 3} if kind == "nodata" else {}))
    if kind == "transparent":
        rasterio.shutil.copy(path, copy := str(tmp_path / "b.vrt"), driver="VRT")
        text = (tmp_path / "b.vrt").read_text()
        entry = '<Entry c1="0" c2="0" c3="0" c4="255" />'
        assert entry in text
        (tmp_path / "b.vrt").write_text(text.replace(entry, entry.replace("255", "0"), 1))
        path = copy
    if kind == "mask":
        with rasterio.open(path, "r+") as dataset:
            dataset.write_mask(INDICES[0] != 3)
    _, valid, (member,) = as_image(path)
    assert member.masked
    assert (valid == (INDICES[0] != 3)).all()


def test_labels_with_a_palette_are_ids(write):
    (member,) = inspect_rasters([paletted(write)], stream="labels")
    view = MosaicView([member], WHOLE, Resampling.nearest)
    assert (view.read(WHOLE.extent)[0] == INDICES).all()
    view.close()
    assert not member.findings


def test_heights_with_a_palette_are_doubted(write):
    (member,) = inspect_rasters([paletted(write)], stream="heights")
    assert "picture of heights" in member.findings[0].message


def masked_image(write, name="a.tif", *, dtype="uint8", count=4, last=None, **options):
    values = noise(count, WHOLE, dtype)
    top = np.iinfo(dtype).max
    values[-1] = np.where(np.arange(40) < 30, top, 0) if last is None else last
    path = write(name, values, WHOLE, **options)
    with rasterio.open(path) as dataset:
        assert dataset.colorinterp[count - 1] == ColorInterp.undefined
    return path, values


@pytest.mark.parametrize(("dtype", "count"), [("uint8", 4), ("uint16", 4), ("uint8", 5)])
def test_a_last_band_of_two_values_is_a_mask(write, dtype, count):
    path, given = masked_image(write, dtype=dtype, count=count)
    values, valid, (member,) = as_image(path)
    assert member.bands == tuple(range(1, count))
    assert (values == given[:-1]).all()
    assert (valid == (given[-1] > 0)).all()
    assert member.masked
    assert f"band {count} of only 0" in member.findings[0].message


def test_an_undeclared_mask_is_respected_where_the_image_is_warped(write):
    path, _ = masked_image(write)
    half = WHOLE.rescaled(2)
    view = MosaicView(inspect_rasters([path]), half, Resampling.average)
    values, valid = view.read(half.extent)
    view.close()
    assert values.shape[0] == 3
    assert (valid == (np.arange(20) < 15)).all()


@pytest.mark.parametrize("last", [0, np.arange(40) * 6, np.where(np.arange(40) < 9, 255, 254)])
def test_a_last_band_of_other_values_is_a_part_of_the_image(write, last):
    path, given = masked_image(write, last=last)
    values, valid, (member,) = as_image(path)
    assert member.view is None
    assert (values == given).all()
    assert valid.all()


def test_a_band_that_is_named_is_never_a_mask(write):
    path, given = masked_image(write)
    values, valid, _ = as_image(path, bands=(1, 4))
    assert (values == given[[0, 3]]).all()
    assert valid.all()


def test_a_band_with_a_name_of_its_own_is_no_mask(write):
    path, _ = masked_image(write)
    with rasterio.open(path, "r+") as dataset:
        dataset.set_band_description(4, "nir")
    assert inspect_rasters([path])[0].view is None


def test_an_image_marked_as_paletted_needs_a_colour_table(write, tmp_path):
    write("a.tif", INDICES, WHOLE)
    (tmp_path / "b.vrt").write_text(
        '<VRTDataset rasterXSize="40" rasterYSize="30"><VRTRasterBand dataType="Byte" band="1">'
        "<ColorInterp>Palette</ColorInterp><SimpleSource>"
        '<SourceFilename relativeToVRT="1">a.tif</SourceFilename></SimpleSource></VRTRasterBand>'
        "</VRTDataset>"
    )
    with pytest.raises(InputError, match=r"b\.vrt is marked as paletted.*colorinterp_1 gray"):
        inspect_rasters([str(tmp_path / "b.vrt")])
