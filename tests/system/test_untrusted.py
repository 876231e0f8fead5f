"""Files and texts that nothing can read meet one line, at once."""

import os

import pytest

from cafe_cli.errors import InputError
from cafe_cli.system.untrusted import check_file, check_name, parse_json, parse_toml, read_text


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("a\0b.tif", "'a\\\\x00b.tif' is not a file name: it holds a null byte"),
        ("b\udce9d.tif", "is not UTF-8 \\(it holds the byte \\\\xe9\\): rename it"),
        ("\udcff", "it holds the byte \\\\xff"),
        ("x/\ud800/y", "it holds the byte \\\\ud800"),
    ],
)
def test_names_that_cannot_be_passed_on(name, says):
    with pytest.raises(InputError, match=says):
        check_name(name)


@pytest.mark.parametrize("name", ["a b.tif", "Köln.tif", "日本.tif", "a\nb.tif", "'\".tif", ""])
def test_odd_names_are_names(name):
    check_name(name)


@pytest.mark.parametrize("name", ["pipe", "/dev/zero", "/dev/tty"])
def test_what_is_no_file_is_not_waited_for(tmp_path, name):
    path = os.path.join(tmp_path, name)
    if name == "pipe":
        os.mkfifo(path)
    with pytest.raises(InputError, match="is a pipe, a socket or a device: copy its content"):
        check_file(path)
    with pytest.raises(InputError, match="is a pipe, a socket or a device"):
        read_text(path, 10)


def test_files_and_folders_are_fine(tmp_path):
    (tmp_path / "a").write_bytes(b"\xef\xbb\xbfb\r\n")
    for path in (tmp_path, tmp_path / "a", tmp_path / "none"):
        check_file(str(path))
    assert read_text(tmp_path / "a", 10) == "b\r\n"
    assert read_text("/dev/null", 10) == ""


def test_what_a_shell_has_opened_is_read():
    reading, writing = os.pipe()
    os.write(writing, b"x = 1")
    os.close(writing)
    assert read_text(f"/dev/fd/{reading}", 10) == "x = 1"
    os.close(reading)


def test_texts_are_bounded(tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 1001)
    assert len(read_text(tmp_path / "a", 1001)) == 1001
    with pytest.raises(InputError, match=r"a is larger than 1 kB: it cannot be the right file"):
        read_text(tmp_path / "a", 1000)


DEEP = 100_000


@pytest.mark.parametrize(
    "text", ["[" * DEEP, '{"a":' * DEEP, "[" * DEEP + "]" * DEEP, "", "{", "9" * 5000, b"\xff"]
)
def test_json_that_is_none(text):
    with pytest.raises(ValueError):  # noqa: PT011 (the words are Python's)
        parse_json(text)


@pytest.mark.parametrize(
    "text",
    ["x = " + "[" * DEEP, "x = " + "{a=" * DEEP, "x." * DEEP + "y = 1", "[" + "x." * DEEP + "y]",
     '"x" . ' * DEEP + "y = 1", "=", "x = " + "9" * 5000],
)  # fmt: skip
def test_toml_that_is_none(text):
    with pytest.raises(ValueError):  # noqa: PT011
        parse_toml(text)


def test_toml_with_many_dots_in_values():
    names = [f"folder.{number}/a.b.c.tif" for number in range(300)]
    assert parse_toml(f"x = {names}")["x"] == names
    assert parse_toml('a.b.c = """\n' + "." * 500 + '\n"""')["a"]["b"]["c"].startswith("..")
