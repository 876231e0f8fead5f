"""An odd scene of a tile set is named with numbers; scenes of other ground are not odd."""

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp

from cafe_cli.checks.check import check
from cafe_cli.config.load import parse_config
from cafe_cli.errors import InputError
from cafe_cli.tilesets.plan import plan
from tests.support.rasters import TABLE, grid
from tests.support.rasters import write as write_to

BLUE_GREEN_RED = (ColorInterp.blue, ColorInterp.green, ColorInterp.red)


def image(seed=0, factor=1.0, dtype="uint8", colors=(120, 100, 80)):
    random = np.random.default_rng(seed)
    light = np.exp(random.normal(0, 0.3, (1, 96, 96)))
    values = np.reshape(colors, (3, 1, 1)) * light + random.normal(0, 3, (3, 96, 96))
    return (values.clip(8, 255) * factor).astype(dtype)


def metres(seed=0, ground=0.0, factor=1.0):
    random = np.random.default_rng(seed)
    high = np.kron(random.choice([0, 0, 9], (12, 12)), np.ones((8, 8)))
    return ((high + random.normal(0, 0.03, high.shape)) * factor + ground).astype("float32")


class Scenes:
    """Writes scenes into a folder, and checks the tile set of them."""

    def __init__(self, folder):
        self.folder = folder

    def add(self, name, values, heights=None, pixel=0.5, colors=None, names=None):
        where = grid(96, 96, pixel, left=300_000 + 1000 * ord(name))
        path = self.folder / f"{name}_ortho.tif"
        write_to(path, values, where, photometric="rgb")
        with rasterio.open(path, "r+") as dataset:
            if colors:
                dataset.colorinterp = colors
            if names:
                dataset.descriptions = names
        labels = np.random.default_rng(1).integers(0, 3, (where.height, where.width))
        write_to(self.folder / f"{name}_labels.tif", labels.astype("uint8"), where)
        if heights is not None:
            write_to(self.folder / f"{name}_dsm.tif", heights, where)
        return self

    def config(self, height=None, **scenes):
        files = {"optical": "{id}_ortho.tif", "labels": "{id}_labels.tif"}
        if height:
            files["elevation"] = "{id}_dsm.tif"
        values = {
            "root": str(self.folder), "scenes": {**files, **scenes}, "height": height or {},
            "classes": [{"id": c.id, "name": c.name, "color": c.color} for c in TABLE],
            "tile": {"size": 32, "overlap": 0}, "split": {"buffer": 0},
        }  # fmt: skip
        return parse_config(values, "test")

    def refuses(self, says, **settings):
        with pytest.raises(InputError, match=says):
            plan(self.config(**settings))
        report = check(self.config(**settings))
        assert not report.ok
        (error,) = [f for f in report.findings if f.level == "error"]
        plan(self.config(**settings, ignore_mismatch=True))
        return error

    def warns(self, caplog, **settings):
        caplog.clear()
        plan(self.config(**settings))
        return [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]


@pytest.fixture
def scenes(tmp_path):
    return Scenes(tmp_path)


@pytest.mark.parametrize(
    ("dtype", "usual", "odd", "says"),
    [
        ("uint16", 8, 257, r"\(16 bit\), there .* \(11 bit\)"),
        ("uint16", 1, 16, r"\(12 bit"),
        ("float32", 1, 1 / 255, r"\(0 to 1\), there .* \(8 bit\)"),
        ("uint16", 257, 39, r"reflectance x 10,000"),
    ],
)
def test_other_values(scenes, dtype, usual, odd, says):
    for name, factor in (("a", usual), ("b", usual), ("c", odd)):
        scenes.add(name, image(ord(name), factor, dtype))
    error = scenes.refuses(rf"c_ortho.tif does not fit .*[ab]_ortho.tif: values .*{says}")
    assert error.where.endswith("c_ortho.tif")


def test_the_first_scene_may_be_the_odd_one(scenes):
    for name, factor in (("a", 257), ("b", 8), ("c", 8)):
        scenes.add(name, image(ord(name), factor, "uint16"))
    scenes.refuses(r"a_ortho.tif does not fit")


@pytest.mark.parametrize(
    "how", [{"colors": BLUE_GREEN_RED}, {"names": ("B", "G", "R")}, {"names": ("Blue", "x", "Red")}]
)
def test_another_order_of_bands(scenes, how):
    scenes.add("a", image(1)).add("b", image(2)[::-1], **how)
    scenes.refuses(r"bands in the order .*gdal_translate -b 3 -b 2 -b 1")


@pytest.mark.parametrize("ground", [120, 35, 2000])
def test_absolute_heights_among_heights_above_ground(scenes, ground):
    scenes.add("a", image(1), metres(1)).add("b", image(2), metres(2, ground))
    error = scenes.refuses(r"b_ortho.tif does not fit .*heights", height={"kind": "ndsm"})
    assert f"{ground - 0.1:.1f}" in error.message


def test_heights_above_ground_among_absolute_ones(scenes, caplog):
    scenes.add("a", image(1), metres(1)).add("b", image(2), metres(2, 120))
    scenes.refuses(r"a_ortho.tif does not fit", height={"ground": "none"})
    (said,) = scenes.warns(caplog, height={"ground": "estimate"})
    assert "may not fit" in said
    assert "heights above ground" in said


def test_decimetres_among_metres(scenes, caplog):
    scenes.add("a", image(1), metres(1)).add("b", image(2), metres(2, factor=10))
    (said,) = scenes.warns(caplog, height={"kind": "ndsm"})
    assert "b_ortho.tif may not fit" in said
    assert "unit" in said


def test_another_gsd_is_a_warning(scenes, caplog):
    scenes.add("a", image(1)).add("b", image(2), pixel=0.2)
    (said,) = scenes.warns(caplog)
    assert "has a GSD of 0.2 m" in said


def test_other_ground_is_silent(scenes, caplog):
    scenes.add("a", image(1), metres(1, 120))
    scenes.add("b", image(2, colors=(50, 70, 45)), metres(2, 300))
    scenes.add("c", image(3, colors=(200, 190, 180)), metres(3, 5))
    assert scenes.warns(caplog, height={"ground": "estimate"}) == []
    report = check(scenes.config(height={"ground": "estimate"}))
    assert not [f for f in report.findings if "not fit" in f.message]
