import io
import os
from pathlib import Path

import numpy as np
import pytest
from matplotlib import image as reader
from matplotlib.figure import Figure
from matplotlib.patches import Patch as Swatch

from cafe_cli.classes import ClassTable, LandClass
from cafe_cli.errors import OutputError
from cafe_cli.plotting import add_legend, draw_scene, encode, error_map, shade, side_by_side, to_rgb
from tests.support.engines import TABLE, town


def check(path: Path, width: int, height: int) -> np.ndarray:
    """Return the pixels of a picture of about the right size that shows something."""
    pixels = reader.imread(path)[..., :3]
    assert abs(pixels.shape[1] / width - 1) < 0.05
    assert abs(pixels.shape[0] / height - 1) < 0.1
    assert pixels.std() > 0.02
    return pixels


def inked(pixels: np.ndarray, color: str) -> int:
    """Count the pixels of a colour, give or take the smoothing of edges."""
    target = np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    return int((np.abs(pixels - target).max(axis=-1) < 0.08).sum())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("bands", "dtype"), [(1, "uint8"), (3, "uint8"), (1, "uint16"), (2, "uint16"), (4, "uint16")]
)
def test_scenes(tmp_path, bands, dtype):
    image, metres, labels = town(60, 90, bands=bands, dtype=dtype)
    maps = {"truth": labels[0], "prediction": np.roll(labels[0], 7)}
    draw_scene(image, metres[0], maps, TABLE, tmp_path / "scene.png")
    pixels = check(tmp_path / "scene.png", 4 * 462, 3.8 * 110)
    panels = np.split(pixels[:, : pixels.shape[1] // 4 * 4], 4, axis=1)
    assert all(panel.std() > 0.05 for panel in panels)
    for c in TABLE:
        assert inked(panels[2], c.color) > 500


def test_scene_without_heights(tmp_path):
    image, metres, labels = town(60, 90)
    draw_scene(
        image, np.full_like(metres[0], np.nan), {"map": labels[0]}, TABLE, tmp_path / "s.png"
    )
    check(tmp_path / "s.png", 3 * 462, 3.8 * 110)


def test_scene_without_labels(tmp_path):
    image, metres, labels = town(60, 90)
    nothing = np.full_like(labels[0], 255)
    draw_scene(image, metres[0], {"map": nothing}, TABLE, tmp_path / "s.png")
    pixels = check(tmp_path / "s.png", 3 * 462, 3.8 * 110)
    middle = pixels[120:250, -380:-80]
    assert (middle > 0.99).all()


@pytest.mark.parametrize("shape", [(1, 300), (300, 1), (2, 500), (1000, 10)], ids=str)
def test_strips(tmp_path, shape):
    image, metres, labels = town(*shape)
    draw_scene(image, metres[0], {"map": labels[0]}, TABLE, tmp_path / "s.png")
    pixels = reader.imread(tmp_path / "s.png")
    assert max(pixels.shape) < 3000
    assert min(pixels.shape[:2]) > 100


def test_many_classes_fit_the_legend(tmp_path):
    many = ClassTable(tuple(LandClass(i, f"a class of land cover {i}") for i in range(20)))
    image, metres, labels = town(60, 90)
    draw_scene(image, metres[0], {"map": labels[0]}, many, tmp_path / "s.png")
    pixels = reader.imread(tmp_path / "s.png")[..., :3]
    assert (pixels[:, :3] > 0.99).all()
    assert (pixels[:, -3:] > 0.99).all()


def test_stretch():
    image = np.linspace(1000, 3000, 10_000).reshape(1, 100, 100).astype(np.uint16)
    rgb = to_rgb(image)
    assert (rgb.shape, rgb.dtype) == ((100, 100, 3), np.uint8)
    assert (rgb[0, 0].tolist(), rgb[-1, -1].tolist()) == ([0, 0, 0], [255, 255, 255])
    assert (to_rgb(np.full((3, 5, 5), 7, np.uint16)) == 0).all()
    plain = np.arange(75, dtype=np.uint8).reshape(3, 5, 5)
    assert np.array_equal(to_rgb(plain), np.moveaxis(plain, 0, -1))


def test_shade():
    height = np.zeros((50, 50), np.float32)
    height[20:30, 20:30] = 9
    height[40:, 40:] = np.nan
    shaded = shade(height)
    assert (shaded[40:, 40:] == 1).all()
    assert np.abs(shaded[25, 25, :3] - shaded[5, 5, :3]).max() > 0.3


def test_a_picture_is_complete_or_not_there(tmp_path):
    image, metres, labels = town(40, 60)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=r"file is a file, so .* cannot be in it"):
        draw_scene(image, metres[0], {"map": labels[0]}, TABLE, tmp_path / "file" / "scene.png")
    for maps in ({}, {"map": labels[0]}):
        draw_scene(image, metres[0], maps, TABLE, tmp_path / "scene.png")
    assert sorted(os.listdir(tmp_path)) == ["file", "scene.png"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["$\\frac{$", "_hidden", "$x$ & <y>", "100 % {a}"])
def test_names_are_shown_as_they_are(tmp_path, name):
    """matplotlib would read mathematics, and leave out what begins with an underscore."""
    image, metres, labels = town(40, 60)
    table = ClassTable((LandClass(0, name), *TABLE.classes[1:]))
    draw_scene(image, metres[0], {name: labels[0]}, table, tmp_path / "scene.png")
    check(tmp_path / "scene.png", 3 * 462, 3.8 * 110)
    axes = Figure().subplots()
    add_legend(axes, [Swatch(), Swatch()], [name, "tree"])
    texts = axes.get_legend().get_texts()
    assert [text.get_text() for text in texts] == [name, "tree"]
    assert not any(text.get_parse_math() for text in texts)


def test_errors():
    truth, predicted = np.array([[0, 1, 255, 255]]), np.array([[0, 2, 1, 255]])
    right, wrong, *unknown = error_map(truth.astype(np.uint8), predicted.astype(np.uint8))[0]
    assert right.min() > 240
    assert wrong[0] > 200
    assert wrong[1:].max() < 40
    assert all(len(set(pixel)) == 1 and 150 < pixel[0] < 200 for pixel in unknown)


def test_side_by_side():
    black, grey = np.zeros((5, 7, 3), np.uint8), np.full((5, 3, 3), 100, np.uint8)
    row = side_by_side([black, grey, black])
    assert row.shape == (5, 7 + 3 + 7 + 2 * 4, 3)
    assert row[0, :, 0].tolist() == [0] * 7 + [255] * 4 + [100] * 3 + [255] * 4 + [0] * 7
    assert np.array_equal(side_by_side([black]), black)


@pytest.mark.parametrize(("kind", "off"), [("png", 0), ("jpeg", 12)])
def test_encoded_pictures_come_back(kind, off):
    rows, columns = np.mgrid[:32, :48]
    picture = np.stack([rows * 4, columns * 4, rows * 0 + 90], axis=-1).astype(np.uint8)
    found = np.asarray(reader.imread(io.BytesIO(encode(picture, kind)), format=kind))
    found = found[..., :3] * (255 if found.dtype.kind == "f" else 1)
    assert np.abs(found - picture.astype(float)).max() <= off
