import errno
import os
import signal
import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest

from cafe_cli.errors import OutputError
from cafe_cli.system import output_group
from cafe_cli.system.output_group import claim_outputs, replace_together

NAMES = ("map.tif", "map.tif.aux.xml", "map.tif.toml", "sure.tif", "sure.tif.aux.xml")
WRITTEN = NAMES[:4]  # the last is removed
REPLACE = """
import os, signal, sys
from pathlib import Path
from cafe_cli.system.output_group import replace_together

names, written, moment = eval(sys.argv[1]), eval(sys.argv[2]), int(sys.argv[3])
met = 0

def hook(call, arguments):
    global met
    if call in ("os.rename", "os.remove", "open"):
        if met == moment:
            os.kill(os.getpid(), signal.SIGKILL)
        met += 1

with replace_together([Path(name) for name in names]) as new:
    sys.addaudithook(hook)
    for name in written:
        new[Path(name)].write_text("new")
"""


def contents(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted(folder.iterdir())}


def replace(folder: Path, moment: int) -> int:
    """Replace the group in a process that is killed at its n-th call that changes a folder."""
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", REPLACE, repr(NAMES), repr(WRITTEN), str(moment)]
    ended = subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": root}, check=False)
    return ended.returncode


OLD, NEW = dict.fromkeys(NAMES, "old"), dict.fromkeys(WRITTEN, "new")


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_killed_at_any_call_all_are_old_or_all_new(tmp_path, monkeypatch):
    seen = set[str]()
    for moment in count():
        folder = tmp_path / str(moment)
        folder.mkdir()
        for name in NAMES:
            (folder / name).write_text("old")
        code = replace(folder, moment)
        assert code in (0, -signal.SIGKILL)
        with claim_outputs([folder / "map.tif", folder / "sure.tif"]):
            now = {n: t for n, t in contents(folder).items() if not n.startswith(".")}
        assert now in (OLD, NEW)
        seen.add("old" if now == OLD else "new")
        # A later run leaves nothing of the killed one.
        assert replace(folder, -1) == 0
        with claim_outputs([folder / "map.tif"]):
            pass
        assert contents(folder) == NEW
        if code == 0:
            break
    assert moment > 20
    assert seen == {"old", "new"}


def test_what_is_finished_is_told(tmp_path, caplog):
    (tmp_path / ".a.tif.replacing").write_text(
        '{"renames": [[".a.partial.tif", "a.tif"], [".b.partial.tif", "b.tif"]], "removals": ["c"]}'
    )
    (tmp_path / ".b.partial.tif").write_text("new")
    (tmp_path / "a.tif").write_text("new")
    (tmp_path / "c").write_text("old")
    with (
        pytest.raises(OutputError, match=r"a\.tif exists"),
        claim_outputs([tmp_path / "a.tif"], overwrite=False),
    ):
        pass
    assert contents(tmp_path) == {"a.tif": "new", "b.tif": "new"}
    assert "completed what a killed run had started: the replacement of" in caplog.text


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"renames": [[1]], "removals": []}', "\0"])
def test_a_damaged_journal_is_an_error(tmp_path, text):
    (tmp_path / ".a.tif.replacing").write_text(text)
    says = pytest.raises(OutputError, match=r"cannot read .*a\.tif\.replacing: .*; remove it")
    with says, claim_outputs([tmp_path / "a.tif"]):
        pass


def write_new(paths, names, error: BaseException | None = None) -> None:
    with replace_together(paths) as new:
        for name in names:
            new[name].write_text("new")
        if error:
            raise error


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_what_goes_wrong_leaves_the_old_group(tmp_path, error):
    paths = [tmp_path / name for name in NAMES]
    for path in paths:
        path.write_text("old")
    with pytest.raises(error):
        write_new(paths, paths[:1], error())
    assert contents(tmp_path) == OLD


def test_a_rename_that_fails_is_done_later(tmp_path, monkeypatch):
    paths = [tmp_path / "a.tif", tmp_path / "b.tif"]
    replace = Path.replace

    def refuse(self, target):
        if Path(target).name == "b.tif":
            raise OSError(5, "Input/output error")
        return replace(self, target)

    monkeypatch.setattr(output_group.Path, "replace", refuse)
    with pytest.raises(OutputError, match="cannot write"):
        write_new(paths, paths)
    monkeypatch.undo()
    with claim_outputs(paths):
        pass
    assert contents(tmp_path) == {"a.tif": "new", "b.tif": "new"}


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_a_journal_that_cannot_be_written_leaves_the_old_group(tmp_path, monkeypatch, number):
    def fail(path):
        if path.name == f".{NAMES[0]}.replacing.partial":
            raise OutputError(f"cannot write {path}: {os.strerror(number)}")

    paths = [tmp_path / name for name in NAMES]
    for path in paths:
        path.write_text("old")
    monkeypatch.setattr(output_group, "sync", fail)
    with pytest.raises(OutputError, match=os.strerror(number)):
        write_new(paths, paths)
    assert contents(tmp_path) == OLD
