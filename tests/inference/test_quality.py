"""Each pixel says whether it had a height, and whether its values are foreign to every model."""

import numpy as np
import pytest
import rasterio

from cafe_cli.inference.job import PredictInput
from cafe_cli.inference.quality import QUALITY, quality_codes
from cafe_cli.model import model_file
from cafe_cli.model.distribution import Percentiles, PixelDistribution
from cafe_cli.scenes.scene import Patch
from tests.support.engines import card_of, predict, tiny_model, town, write


def span(low, high):
    """Percentiles of evenly spread values."""
    shares = {"p0_1": 0, "p1": 0.01, "p25": 0.25, "p50": 0.5, "p75": 0.75, "p99": 0.99, "p99_9": 1}
    return Percentiles(**{name: low + share * (high - low) for name, share in shares.items()})


def knowing(low=50, high=150, heights=(0.0, 20.0)):
    known = span(*heights) if heights else None
    return PixelDistribution(bands=(span(low, high),), heights=known, voids=0)


def patch(values, metres, valid=True, dtype="uint8"):
    shape = (1, len(values))
    return Patch(
        np.array(values, dtype)[None, None], np.ones(shape, bool),
        np.array(metres, "float32")[None, None], np.broadcast_to(valid, shape),
    )  # fmt: skip


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_bands_beyond_a_tenth_of_the_span_are_foreign(dtype):
    got = quality_codes(patch([39, 40, 100, 160, 161], [3] * 5, dtype=dtype), [knowing()])
    assert got.dtype == np.uint8
    assert got.tolist() == [[2, 0, 0, 0, 2]]


@pytest.mark.parametrize(
    ("heights", "metres", "want"),
    [
        ((0, 20), [-2.1, -2, 22, 22.1], [2, 0, 0, 2]),
        ((0, 1), [-1.1, -1, 2, 2.1], [2, 0, 0, 2]),  # a metre at least
        (None, [-99, 0, 9, 99], [0, 0, 0, 0]),  # a model that sees no heights
    ],
)
def test_heights_beyond_the_margin_are_foreign(heights, metres, want):
    assert quality_codes(patch([100] * 4, metres), [knowing(heights=heights)]).tolist() == [want]


def test_missing_heights_are_not_foreign_but_their_colours_may_be():
    got = quality_codes(patch([100, 200], [99, 0], valid=False), [knowing()])
    assert got.tolist() == [[1, 3]]


def test_ground_that_one_model_knows_is_not_foreign():
    seen = patch([100, 200, 250], [3] * 3)
    assert quality_codes(seen, [knowing(), knowing(100, 210)]).tolist() == [[0, 0, 2]]


def test_models_that_do_not_know_their_training_flag_nothing():
    assert quality_codes(patch([0, 255], [3, 99]), []).tolist() == [[0, 0]]


def test_every_code_has_a_name():
    assert [c.id for c in QUALITY] == [0, 1, 2, 3]


def test_the_map_of_a_scene_flags_what_its_model_does_not_know(tmp_path):
    image, metres, _ = town(80, 96)
    image = np.minimum(image, 200)
    network = tiny_model()
    low, high = int(image.min()), int(image.max())
    known = PixelDistribution(bands=(span(low, high),) * 3, heights=None, voids=0)
    model_file.save(tmp_path / "m.safetensors", network, card_of(network, training_pixels=known))
    image[1, 10:20, 30:50] = 255
    source = PredictInput(
        (write(tmp_path / "ortho.tif", image),), (write(tmp_path / "dsm.tif", metres),)
    )
    predict(tmp_path / "m.safetensors", source, tmp_path / "map.tif", quality=tmp_path / "q.tif")
    foreign = np.zeros((80, 96), bool)
    foreign[10:20, 30:50] = True
    with rasterio.open(tmp_path / "q.tif") as quality:
        assert np.array_equal(quality.read(1) & 2 > 0, foreign)
