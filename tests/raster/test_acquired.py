"""When images were taken."""

import json
from datetime import UTC, datetime

import numpy as np
import pytest
import rasterio

from cafe_cli.errors import ConfigError
from cafe_cli.raster.acquired import find_acquired, parse_acquired, read_acquired
from cafe_cli.raster.reader import open_raster
from tests.support.rasters import grid, noise

pytest_plugins = ["tests.support.fixtures"]


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "start", "end"),
    [
        ("2024", utc(2024, 1, 1), utc(2024, 12, 31, 23, 59, 59)),
        ("2024-02", utc(2024, 2, 1), utc(2024, 2, 29, 23, 59, 59)),
        ("2023-12", utc(2023, 12, 1), utc(2023, 12, 31, 23, 59, 59)),
        ("2024-06-01", utc(2024, 6, 1), utc(2024, 6, 1, 23, 59, 59)),
        ("20240601", utc(2024, 6, 1), utc(2024, 6, 1, 23, 59, 59)),
        ("2024-06-01T10:30:00Z", utc(2024, 6, 1, 10, 30), utc(2024, 6, 1, 10, 30)),
        ("2024-06-01 10:30", utc(2024, 6, 1, 10, 30), utc(2024, 6, 1, 10, 30)),
        ("2024-06-01T00:30:00+02:00", utc(2024, 5, 31, 22, 30), utc(2024, 5, 31, 22, 30)),
        ("2024-05/2024-07", utc(2024, 5, 1), utc(2024, 7, 31, 23, 59, 59)),
        ("2021/2021", utc(2021, 1, 1), utc(2021, 12, 31, 23, 59, 59)),
    ],
)
def test_dates_times_and_intervals(text, start, end):
    assert parse_acquired(text) == (start, end)


@pytest.mark.parametrize(
    "text",
    ["", "now", "24", "2024-13", "2024-02-30", "01.06.2024", "2024/", "/2024", "2024/2025/2026",
     "9999", "0000", "2024-06-01T25:00:00Z"],
)  # fmt: skip
def test_what_is_no_date(text):
    with pytest.raises(ConfigError, match=r"^--datetime .* is not a date: write 2024, 2024-06, "):
        parse_acquired(text)


def test_an_interval_that_ends_before_it_begins():
    with pytest.raises(ConfigError, match="'2024/2023' ends before it begins"):
        parse_acquired("2024/2023")


def tagged(write, name, namespace=None, **tags):
    path = write(name, noise(3, grid()), grid())
    with rasterio.open(path, "r+") as dataset:
        dataset.update_tags(ns=namespace, **tags)
    return path


@pytest.mark.parametrize(
    ("namespace", "tags", "expected"),
    [
        (None, {"TIFFTAG_DATETIME": "2021:07:03 11:12:13"}, utc(2021, 7, 3, 11, 12, 13)),
        (None, {"TIFFTAG_DATETIME": "2021-07-03T11:12:13Z"}, utc(2021, 7, 3, 11, 12, 13)),
        (None, {"TIFFTAG_DATETIME": "2021:07:03 11:12:13+02:00"}, utc(2021, 7, 3, 9, 12, 13)),
        (
            None,
            {"EXIF_DateTimeOriginal": "2020:01:02 03:04:05", "TIFFTAG_DATETIME": "2021:07:03"},
            utc(2020, 1, 2, 3, 4, 5),
        ),
        ("IMAGERY", {"ACQUISITIONDATETIME": "2019-05-06 07:08:09"}, utc(2019, 5, 6, 7, 8, 9)),
        (None, {"TIFFTAG_DATETIME": "2021:07:03"}, utc(2021, 7, 3)),
        (None, {"TIFFTAG_DATETIME": "0000:00:00 00:00:00"}, None),
        (None, {"TIFFTAG_DATETIME": "yesterday"}, None),
        (None, {}, None),
    ],
    ids=str,
)
def test_tags_that_say_it(write, namespace, tags, expected):
    with open_raster(tagged(write, "a.tif", namespace, **tags)) as dataset:
        found = read_acquired(dataset)
    assert (found and found.start) == expected


def test_several_inputs_are_a_span(write):
    when = "2021:07:0{} 10:00:00"
    paths = [tagged(write, f"{n}.tif", TIFFTAG_DATETIME=when.format(n)) for n in (3, 1, 2)]
    assert find_acquired(None, paths) == (utc(2021, 7, 1, 10), utc(2021, 7, 3, 10))
    assert find_acquired("2020", paths).start == utc(2020, 1, 1)
    silent = write("silent.tif", np.zeros((1, 6, 8), np.uint8), grid())
    with pytest.raises(ConfigError, match=r"silent\.tif has no acquisition time.* pass --datetime"):
        find_acquired(None, [*paths, silent])


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ({"datetime": "2018-01-02T03:04:05Z"}, utc(2018, 1, 2, 3, 4, 5)),
        (
            {
                "datetime": None,
                "start_datetime": "2018-01-01T00:00:00Z",
                "end_datetime": "2018-12-31T23:59:59Z",
            },
            utc(2018, 1, 1),
        ),
        ({"datetime": 5}, utc(2021, 7, 3)),
        ({}, utc(2021, 7, 3)),
        (None, utc(2021, 7, 3)),
    ],
)
def test_the_item_beside_a_map(write, properties, expected):
    path = tagged(write, "a.tif", TIFFTAG_DATETIME="2021:07:03 00:00:00")
    with open(path.replace(".tif", ".stac.json"), "w", encoding="utf-8") as file:
        json.dump({"properties": properties}, file)
    assert find_acquired(None, [path]).start == expected
