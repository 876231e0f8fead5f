"""The pixel size of rasters without georeference."""

import numpy as np
import pytest
from affine import Affine

from cafe_cli.config.schema import HeightSettings
from cafe_cli.errors import GridError
from cafe_cli.raster.grid import Grid
from cafe_cli.scenes.inspection import inspect_scene
from tests.support.rasters import grid, scene_files

OWN_PIXELS = Grid(None, Affine.identity(), 40, 30)
SOUTH_UP = Grid(None, Affine(1, 0, 0, 0, -1, 30), 40, 30)
FROM_ZERO = Grid(None, Affine(1, 0, 0, 0, -1, 0), 40, 30)
WORLD_FILE = Grid(None, Affine(0.25, 0, 5e5, 0, -0.25, 5e6), 40, 30)
IN_DEGREES = Grid(None, Affine(2e-6, 0, 9, 0, -2e-6, 47), 40, 30)
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


@pytest.fixture
def files(write):
    def written(where, heights=True):
        shape = (where.height, where.width)
        image = write("image.tif", np.ones((3, *shape), np.uint8), where)
        surface = write("dsm.tif", np.full(shape, 90, np.float32), where) if heights else None
        return scene_files("s", optical=image, elevation=surface)

    return written


def inspect(files, kind="dsm", **options):
    return inspect_scene(files, HeightSettings(kind=kind), **options)


@pytest.mark.parametrize("where", [OWN_PIXELS, SOUTH_UP, FROM_ZERO])
def test_the_ground_below_pixels_of_unknown_size_is_not_estimated(files, where):
    with pytest.raises(GridError, match=r"cannot be estimated: .* scenes\.pixel_size"):
        inspect(files(where))


@pytest.mark.parametrize("where", [OWN_PIXELS, SOUTH_UP, FROM_ZERO])
def test_elsewhere_an_unknown_size_is_a_warning(files, where):
    for found in (inspect(files(where), "ndsm").findings, inspect(files(where, False)).findings):
        (finding,) = found
        assert finding.level == "warning"
        assert "is assumed to measure 1 m" in finding.message


def test_pixels_of_unknown_size_are_not_resampled(files):
    with pytest.raises(GridError, match="cannot be resampled to a GSD of 2 m"):
        inspect(files(OWN_PIXELS, False), gsd=2)


@pytest.mark.parametrize("where", [OWN_PIXELS, SOUTH_UP, FROM_ZERO])
def test_the_users_pixel_size_counts(files, where):
    scene = inspect(files(where), pixel_size=0.05)
    assert scene.findings == ()
    assert scene.grid.gsd == pytest.approx(0.05)
    assert scene.grid.transform == where.transform
    assert scene.heights.surface[0].grid.gsd == pytest.approx(0.05)
    coarse = inspect(files(where), pixel_size=0.05, gsd=0.1).grid
    assert (coarse.width, coarse.height) == (20, 15)
    assert coarse.gsd == pytest.approx(0.1)


@pytest.mark.parametrize("where", [WORLD_FILE, grid(40, 30, pixel=0.25)])
def test_a_georeference_beats_the_users_pixel_size(files, where):
    scene = inspect(files(where), pixel_size=1)
    assert scene.grid.gsd == 0.25
    (finding,) = scene.findings
    assert "its own pixels of 0.25 m are used" in finding.message
    assert inspect(files(where), pixel_size=0.25).findings == ()
    assert inspect(files(where)).findings == ()


def test_degrees_without_a_crs_are_no_metres(files):
    with pytest.raises(GridError, match="look like degrees; give the CRS"):
        inspect(files(IN_DEGREES))
    assert "look like degrees" in inspect(files(IN_DEGREES, False)).findings[0].message
    assert inspect(files(IN_DEGREES), crs="EPSG:4326").findings == ()
