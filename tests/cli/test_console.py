"""Warnings of Python are lines of the log."""

import logging
import warnings

import pyogrio.raw
import pytest

from cafe_cli.cli.console import set_up_log

UNCLOSED = (
    '{"type": "FeatureCollection", "features": [{"type": "Feature", "properties": {"v": 1}, '
    '"geometry": {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1]]]}}]}'
)


@pytest.fixture
def log_at():
    """Set up the log with a verbosity; everything is as before after the test."""
    log, library = logging.getLogger("cafe"), logging.getLogger("pyogrio")
    before = log.handlers, log.level, library.handlers
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        yield set_up_log
    log.handlers, level, library.handlers = before
    log.setLevel(level)
    logging.getLogger("cafe.libraries").setLevel(logging.NOTSET)


def test_a_warning_about_data_is_one_line(log_at, tmp_path, capsys):
    log_at(0)
    (tmp_path / "a.geojson").write_text(UNCLOSED)
    pyogrio.raw.read(tmp_path / "a.geojson")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("Warning: Non closed ring detected")


@pytest.mark.parametrize(
    ("category", "verbosity", "lines"),
    [
        (RuntimeWarning, 0, 1),
        (UserWarning, 0, 1),
        (UserWarning, -1, 0),
        (DeprecationWarning, 0, 0),
        (FutureWarning, 0, 0),
        (FutureWarning, 1, 1),
    ],
)
def test_warnings_are_said_at_the_right_level(log_at, capsys, category, verbosity, lines):
    log_at(verbosity)
    warnings.warn_explicit("odd\nand more", category, "/lib/rasterio/io.py", 1)
    text = capsys.readouterr().err
    assert text.splitlines() == (["Warning: odd"] if lines and not verbosity else ["odd"] * lines)


def test_warnings_about_the_code_of_other_libraries_are_for_those_who_ask(log_at, capsys):
    log_at(0)
    warnings.warn_explicit("slow path", UserWarning, "/lib/torch/nn.py", 1)
    assert not capsys.readouterr().err


def test_a_warning_is_shown_where_those_of_cafe_are_turned_off(log_at, capsys):
    log_at(0)
    logging.getLogger("cafe").setLevel(logging.ERROR)
    warnings.warn_explicit("odd", RuntimeWarning, "/lib/pyogrio/raw.py", 1)
    assert capsys.readouterr().err == "Warning: odd\n"
