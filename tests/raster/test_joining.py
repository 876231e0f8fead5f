"""Sheets of one scene: what is read of them has to fit, no more."""

import numpy as np
import pytest
from rasterio.enums import Resampling

from cafe_cli.errors import BandError, InputError
from cafe_cli.raster.joining import common_dtype
from cafe_cli.raster.mosaic_view import MosaicView, inspect_rasters, union_grid
from cafe_cli.raster.window import Window
from tests.support.rasters import grid, noise

WHOLE = grid(width=20, height=10)
LEFT, RIGHT = WHOLE.at(Window(0, 0, 10, 10)), WHOLE.at(Window(10, 0, 10, 10))


def sheets(write, one, other):
    """Write two sheets side by side; each is (values, options)."""
    return [
        write(name, values, where, **options)
        for name, where, (values, options) in (("a.tif", LEFT, one), ("b.tif", RIGHT, other))
    ]


def image(count, dtype="uint8", **options):
    return noise(count, LEFT, dtype), options


def heights(dtype="float32", **options):
    return np.full((1, 10, 10), 7, dtype), options


def joined(members):
    where = union_grid(members)
    view = MosaicView(members, where, Resampling.nearest)
    values, _ = view.read(where.extent)
    view.close()
    return values


@pytest.mark.parametrize("alpha_first", [True, False])
def test_an_alpha_band_is_set_aside_before_bands_are_counted(write, alpha_first):
    opaque, options = image(4, alpha=4)
    opaque[3] = 255
    one, other = image(3), (opaque, options)
    members = inspect_rasters(sheets(write, *((other, one) if alpha_first else (one, other))))
    assert [m.bands for m in members] == [(1, 2, 3)] * 2
    halves = [opaque[:3], one[0]] if alpha_first else [one[0], opaque[:3]]
    assert (joined(members) == np.concatenate(halves, axis=2)).all()


def test_only_the_named_bands_are_compared(write):
    paths = sheets(write, image(5), image(3))
    assert len(inspect_rasters(paths, bands=(1, 2, 3))) == 2
    with pytest.raises(BandError, match=r"b\.tif has 3 bands, there is no band 4"):
        inspect_rasters(paths, bands=(4,))


@pytest.mark.parametrize(
    ("stream", "one", "other", "dtype"),
    [
        ("image", "float32", "float64", "float64"),
        ("heights", "float64", "float32", "float64"),
        ("heights", "int16", "float32", "float32"),
        ("heights", "uint16", "int32", "int32"),
        ("labels", "uint8", "int16", "int16"),
        ("labels", "uint16", "uint8", "uint16"),
    ],
)
def test_data_types_in_which_a_number_means_the_same_promote(write, stream, one, other, dtype):
    members = inspect_rasters(sheets(write, heights(one), heights(other)), stream=stream)
    assert common_dtype(members) == dtype
    values = joined(members)
    assert values.dtype == dtype
    assert (values == 7).all()


@pytest.mark.parametrize(
    ("stream", "one", "other"),
    [
        ("image", "uint8", "uint16"),
        ("image", "uint16", "float32"),
        ("image", "uint16", "int16"),
        ("heights", "uint8", "float32"),
        ("labels", "uint8", "float32"),
    ],
)
def test_data_types_in_which_a_number_means_something_else_do_not(write, stream, one, other):
    message = rf"b\.tif is {other}, .*a\.tif is {one}: they cannot be joined; .*gdal_translate"
    with pytest.raises(InputError, match=message):
        inspect_rasters(sheets(write, heights(one), heights(other)), stream=stream)


@pytest.mark.parametrize("counts", [(3, 4), (4, 3), (1, 3)])
def test_numbers_of_bands_have_to_agree(write, counts):
    one, other = (image(n) for n in counts)
    with pytest.raises(BandError, match=rf"has {counts[1]} bands, .* has {counts[0]}: .*--bands"):
        inspect_rasters(sheets(write, one, other))


@pytest.mark.parametrize("units", [("m", ""), ("", "ft"), ("", "metre")])
def test_a_missing_unit_is_that_of_the_other_sheet(write, units):
    one, other = (heights(**({"units": unit} if unit else {})) for unit in units)
    members = inspect_rasters(sheets(write, one, other), stream="heights")
    named = units[0] or units[1]
    assert [m.unit for m in members] == [named] * 2
    (finding,) = [f for m in members for f in m.findings]
    assert finding.level == "warning"
    assert finding.message.endswith(f", {named}")


def test_two_names_of_a_unit_are_one(write):
    members = inspect_rasters(
        sheets(write, heights(units="m"), heights(units="Metre")), stream="heights"
    )
    assert not any(m.findings for m in members)


@pytest.mark.parametrize("other", ["ft", "US survey foot", "cm"])
def test_units_have_to_agree(write, other):
    paths = sheets(write, heights(units="m"), heights(units=other))
    with pytest.raises(InputError, match=rf"b\.tif is in {other}, .*a\.tif in m: they cannot"):
        inspect_rasters(paths, stream="heights")


def test_units_of_an_image_do_not_matter(write):
    assert len(inspect_rasters(sheets(write, image(3, units="DN"), image(3)))) == 2
