import errno
import ntpath
import os
import sys
from pathlib import Path

import pytest

from cafe_cli.errors import ConfigError, OutputError
from cafe_cli.system import atomic_write
from cafe_cli.system.atomic_write import (
    check_output,
    check_outputs,
    is_file_name,
    make_empty_folder,
    remove,
    replace_atomically,
    write_text,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def fill(folder: Path, text: str) -> None:
    folder.mkdir()
    (folder / "inside.txt").write_text(text)


def test_a_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "map.v1.tif"
    with replace_atomically(path) as beside:
        beside.write_text("new")
        assert not path.exists()
        assert (beside.parent, beside.suffix) == (tmp_path, ".tif")
    assert path.read_text() == "new"
    assert names(tmp_path) == ["map.v1.tif"]


def break_off(path: Path, error: BaseException, folder=False) -> None:
    with replace_atomically(path) as beside:
        fill(beside, "half") if folder else beside.write_text("half")
        raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_what_goes_wrong_leaves_the_old_content(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error):
        break_off(path, error())
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_an_output_that_exists_is_replaced_only_when_asked(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    refused = pytest.raises(OutputError, match=r"a\.txt exists; pass --overwrite")
    with refused, replace_atomically(path, False):
        pytest.fail("nothing may be written")
    assert path.read_text() == "old"
    with replace_atomically(path, True) as beside:
        beside.write_text("new")
    assert path.read_text() == "new"


@pytest.mark.parametrize("name", ["none/a.txt", "none/more/a.txt", "there/none/a.txt"])
def test_folders_are_made(tmp_path, name):
    (tmp_path / "there").mkdir()
    check_output(tmp_path / name, overwrite=False)
    assert os.listdir(tmp_path) == ["there"]
    with pytest.raises(KeyError), replace_atomically(tmp_path / name):
        raise KeyError
    assert os.listdir(tmp_path) == ["there"]
    assert os.listdir(tmp_path / "there") == []
    write_text(tmp_path / name, "new")
    assert (tmp_path / name).read_text() == "new"


def test_a_failed_output_leaves_the_folder_of_another(tmp_path):
    def fail():
        with replace_atomically(tmp_path / "new/more/a.txt"):
            (tmp_path / "new/b.txt").touch()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert os.listdir(tmp_path / "new") == ["b.txt"]


@pytest.mark.parametrize("name", ["file/a.txt", "file/more/a.txt", "link/a.txt"])
def test_a_file_is_no_folder(tmp_path, name):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("file")
    with pytest.raises(OutputError, match=r"(file|link) is a file, so .*a\.txt cannot be in it"):
        check_output(tmp_path / name, overwrite=True)


@pytest.mark.parametrize("name", ["s3://bucket/a.tif", "/vsimem/a.tif", "https://host.org/a.tif"])
def test_outputs_are_local(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match="outputs are written to a local disk"):
        check_output(Path(name), overwrite=True)
    assert os.listdir(tmp_path) == []


def test_an_output_is_neither_an_input_nor_another_output(tmp_path):
    source, one, two = (tmp_path / name for name in ("in.tif", "one.tif", "two.tif"))
    source.touch()
    check_outputs([one, two], [str(source)], overwrite=False)
    (tmp_path / "link.tif").symlink_to(source)
    for path in (source, tmp_path / "link.tif", tmp_path / "." / "in.tif"):
        with pytest.raises(ConfigError, match=r"\.tif is an input too; choose another name"):
            check_outputs([one, path], [str(source)], overwrite=True)
    with pytest.raises(ConfigError, match=r"one\.tif is an output too; choose another name"):
        check_outputs([one, two, one], [str(source)], overwrite=True)


def test_every_output_is_checked(tmp_path):
    (tmp_path / "two.tif").touch()
    outputs = [tmp_path / "one.tif", tmp_path / "two.tif"]
    with pytest.raises(OutputError, match=r"two\.tif exists; pass --overwrite"):
        check_outputs(outputs, [], overwrite=False)
    check_outputs(outputs, [], overwrite=True)


def test_a_name_without_a_folder_lies_in_the_current_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_text(Path("a.txt"), "text")
    assert names(tmp_path) == ["a.txt"]


def test_a_folder_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "set"
    with replace_atomically(path, False) as beside:
        fill(beside, "one")
        assert not path.exists()
    with replace_atomically(path, True) as beside:
        fill(beside, "two")
        assert (path / "inside.txt").read_text() == "one"
    assert (path / "inside.txt").read_text() == "two"
    assert names(tmp_path) == ["set"]


def test_a_failure_leaves_the_old_folder(tmp_path):
    path = tmp_path / "set"
    fill(path, "old")
    with pytest.raises(RuntimeError):
        break_off(path, RuntimeError(), folder=True)
    assert (path / "inside.txt").read_text() == "old"
    assert names(tmp_path) == ["set"]


def fail_to_replace(monkeypatch) -> None:
    """Refuse every new output its name."""

    def refuse(self, target):
        raise OSError(errno.EACCES, "denied")

    monkeypatch.setattr(Path, "replace", refuse)


def test_the_old_folder_comes_back_when_the_new_one_cannot_take_its_name(tmp_path, monkeypatch):
    path = tmp_path / "set"
    fill(path, "old")
    fail_to_replace(monkeypatch)
    with pytest.raises(OutputError, match="Permission denied"), replace_atomically(path) as beside:
        fill(beside, "new")
    assert (path / "inside.txt").read_text() == "old"
    assert names(tmp_path) == ["set"]


def test_a_new_output_that_cannot_take_its_name_leaves_nothing(tmp_path, monkeypatch):
    fail_to_replace(monkeypatch)
    with (
        pytest.raises(OutputError, match="Permission denied"),
        replace_atomically(tmp_path / "a.txt") as beside,
    ):
        beside.write_text("new")
    assert names(tmp_path) == []


def test_an_older_output_does_not_come_back_instead_of_the_old_one(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("old")
    (tmp_path / ".a.old.txt").write_text("left by a killed process")
    fail_to_replace(monkeypatch)
    with (
        pytest.raises(OutputError, match="Permission denied"),
        replace_atomically(tmp_path / "a.txt") as beside,
    ):
        beside.write_text("new")
    assert (tmp_path / "a.txt").read_text() == "old"


def test_a_folder_replaces_a_file_but_no_file_a_folder(tmp_path):
    path = tmp_path / "out"
    path.write_text("file")
    with replace_atomically(path) as beside:
        fill(beside, "folder")
    assert (path / "inside.txt").read_text() == "folder"
    with pytest.raises(OutputError, match="is a folder"), replace_atomically(path) as beside:
        beside.write_text("file")
    assert (path / "inside.txt").read_text() == "folder"
    assert names(tmp_path) == ["out"]


def test_what_a_killed_process_left_is_replaced(tmp_path):
    (tmp_path / ".a.partial.txt").write_text("half")
    fill(tmp_path / ".set.partial", "half")
    fill(tmp_path / ".set.old", "older")
    fill(tmp_path / "set", "old")
    with replace_atomically(tmp_path / "a.txt") as beside:
        assert beside.name == ".a.partial.txt"
        assert not beside.exists()
        beside.write_text("whole")
    with replace_atomically(tmp_path / "set") as beside:
        fill(beside, "whole")
    assert names(tmp_path) == ["a.txt", "set"]


@pytest.mark.parametrize(
    "code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EFBIG]
)
def test_a_full_disk_is_an_output_error(tmp_path, code):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(OutputError, match=r"cannot write .*a\.txt"):
        break_off(path, OSError(code, "no"))
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_other_system_errors_pass(tmp_path):
    with pytest.raises(ConnectionError):
        break_off(tmp_path / "a.txt", ConnectionError(errno.ECONNRESET, "reset"))


def test_a_link_to_a_folder_is_removed_but_not_the_folder(tmp_path):
    fill(tmp_path / "real", "kept")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with replace_atomically(tmp_path / "link") as beside:
        fill(beside, "new")
    assert (tmp_path / "real" / "inside.txt").read_text() == "kept"
    assert (tmp_path / "link" / "inside.txt").read_text() == "new"
    assert not (tmp_path / "link").is_symlink()


def test_removing_what_is_not_there_is_fine(tmp_path):
    remove(tmp_path / "none")
    fill(tmp_path / "set", "x")
    atomic_write.remove(tmp_path / "set")
    assert names(tmp_path) == []


def test_an_emptied_folder_stays_a_link(tmp_path):
    fill(tmp_path / "there", "old")
    (tmp_path / "there/more").mkdir()
    (tmp_path / "link").symlink_to("there")
    for name in ("link", "new/folder"):
        make_empty_folder(tmp_path / name)
        assert names(tmp_path / name) == []
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("kind", ["file", "folder", "folder without syncfs"])
def test_an_output_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch, kind):
    calls = []
    path = tmp_path / "out"

    def seen(call):
        calls.append((call, path.exists()))
        return True

    monkeypatch.setattr(atomic_write, "flush", lambda path: seen(path.name))
    if kind == "folder":
        monkeypatch.setattr(atomic_write, "_sync_file_system", lambda path: seen("file system"))
    else:
        monkeypatch.setattr(atomic_write, "_sync_file_system", lambda path: False)
    with replace_atomically(path) as beside:
        beside.write_text("new") if kind == "file" else fill(beside, "new")
    before = [name for name, named in calls if not named]
    assert (
        before
        == {
            "file": [".out.partial"],
            "folder": ["file system"],
            "folder without syncfs": ["inside.txt", ".out.partial"],
        }[kind]
    )
    assert calls[len(before) :] == [(tmp_path.name, True)]


@pytest.mark.usefixtures("to_the_disk")
def test_the_disk_is_waited_for(tmp_path):
    with replace_atomically(tmp_path / "file") as beside:
        beside.write_text("new")
    with replace_atomically(tmp_path / "folder") as beside:
        fill(beside, "new")
    assert atomic_write._sync_file_system(tmp_path) == (sys.platform == "linux")
    assert (tmp_path / "file").read_text() == "new"
    assert names(tmp_path / "folder") == ["inside.txt"]


def test_a_device_is_no_output(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "null").symlink_to("/dev/null")
    for path in (tmp_path / "pipe", tmp_path / "null", Path("/dev/null")):
        with pytest.raises(OutputError, match="is a device or a pipe and cannot be replaced"):
            check_output(path, overwrite=True)


def test_a_drive_of_windows_is_part_of_a_file_name(monkeypatch):
    monkeypatch.setattr(os.path, "splitdrive", ntpath.splitdrive)
    for name in (r"C:\maps\a.tif", "d:/a.tif", "c:a.tif", r"\\server\maps\a.tif", "maps/a.tif"):
        assert is_file_name(name)
    for name in ('NETCDF:"C:/a.nc":height', "GTIFF_DIR:1:a.tif", "s3://maps/a.tif"):
        assert not is_file_name(name)
