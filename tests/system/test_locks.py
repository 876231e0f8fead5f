import errno
import logging
import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from cafe_cli.errors import OutputError
from cafe_cli.system import locks
from cafe_cli.system.locks import lock_folder, lock_outputs

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no file locks")

HOLD = """
import sys
from pathlib import Path
from cafe_cli.system import locks

with getattr(locks, sys.argv[1])(eval(sys.argv[2])):
    print("locked", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held(function: str, paths: str):
    """Let another process hold a lock; yields the process."""
    root = str(Path(__file__).parents[2])
    command = [sys.executable, "-c", HOLD, function, paths]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": root},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        yield process
        assert process.stdin is not None
        process.stdin.close()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", ["map.tif", "set", "new/folder/areas.json", "Straße 1.tif"])
def test_an_output_is_locked_for_other_processes(tmp_path, name):
    path = tmp_path / name
    with held("lock_outputs", f"[Path({str(path)!r})]") as process:
        owner = f"(pid {process.pid} on {socket.gethostname()})"
        says = f"another process {owner} is writing {path}; wait for it, or name another output"
        with pytest.raises(OutputError) as caught, lock_outputs([path]):
            pass
        assert str(caught.value) == says
    with lock_outputs([path]):
        assert path.parent.is_dir()
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


@pytest.mark.parametrize("shared", [0, 1, 2])
def test_one_common_output_is_enough(tmp_path, shared):
    theirs = [tmp_path / f"{n}.tif" for n in range(3)]
    ours = [tmp_path / "a.tif", theirs[shared], tmp_path / "b.tif"]
    with held("lock_outputs", f"[Path(p) for p in {[*map(str, theirs)]!r}]"):
        with pytest.raises(OutputError, match=rf"is writing .*{shared}\.tif"), lock_outputs(ours):
            pass
        with lock_outputs([ours[0], ours[2]]):
            pass
        assert names(tmp_path) == [".0.tif.lock", ".1.tif.lock", ".2.tif.lock"]
    assert names(tmp_path) == []


def test_a_link_to_a_folder_hides_no_output(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with (
        held("lock_outputs", f"[Path({str(tmp_path / 'link' / 'a.tif')!r})]"),
        pytest.raises(OutputError, match="is writing"),
        lock_outputs([tmp_path / "real" / "a.tif"]),
    ):
        pass


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_lock_of_a_killed_process_is_free(tmp_path, number):
    with held("lock_outputs", f"[Path({str(tmp_path / 'a.tif')!r})]") as process:
        process.send_signal(number)
        process.wait()
        assert names(tmp_path) == [".a.tif.lock"]
        with lock_outputs([tmp_path / "a.tif"]):
            text = (tmp_path / ".a.tif.lock").read_text()
            assert text == f"pid {os.getpid()} on {socket.gethostname()}"
    assert names(tmp_path) == []


def test_a_lock_without_a_name_is_respected(tmp_path):
    """Between creating and writing the file, a lock names nobody."""
    with held("lock_outputs", f"[Path({str(tmp_path / 'a.tif')!r})]"):
        (tmp_path / ".a.tif.lock").write_text("")
        with (
            pytest.raises(OutputError, match=r"^another process is writing .*a\.tif; wait"),
            lock_outputs([tmp_path / "a.tif"]),
        ):
            pass


def test_a_folder_is_locked_from_within(tmp_path):
    run = tmp_path / "run"
    with held("lock_folder", f"Path({str(run)!r})"):
        assert names(run) == [".lock"]
        with pytest.raises(OutputError, match=r"is writing .*run; wait"), lock_folder(run):
            pass
    with pytest.raises(KeyError), lock_folder(tmp_path / "new"):
        raise KeyError
    assert names(run) == []
    assert names(tmp_path) == ["run"]


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_disk_without_locks_is_told(tmp_path, monkeypatch, caplog, code):
    def refuse(descriptor, how):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with caplog.at_level(logging.WARNING, "cafe"), lock_outputs([tmp_path / "a.tif"]):
        pass
    assert re.search(r"a\.tif is on a disk without file locks: do not start a second", caplog.text)
    assert names(tmp_path) == []


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.EACCES])
def test_servers_say_in_two_ways_that_a_lock_is_held(tmp_path, monkeypatch, code):
    def refuse(descriptor, how):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(locks.fcntl, "flock", refuse)
    with pytest.raises(OutputError, match="is writing"), lock_outputs([tmp_path / "a.tif"]):
        pass


def test_where_no_lock_can_be_made(tmp_path):
    (tmp_path / ".a.tif.lock").mkdir()
    with (
        pytest.raises(OutputError, match=r"cannot write .*a\.tif: "),
        lock_outputs([tmp_path / "a.tif"]),
    ):
        pass


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="there is no such folder")
@pytest.mark.parametrize("folder", ["/proc", "/proc/self", "/proc/self/task"])
def test_a_folder_that_takes_no_files(folder):
    path = Path(folder, "map.tif")
    with pytest.raises(OutputError, match=f"cannot write {path}: "), lock_outputs([path]):
        pass


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["write", "truncate"])
def test_a_lock_that_cannot_be_written_is_removed(tmp_path, monkeypatch, call, number):
    def fail(*arguments):
        raise OSError(number, os.strerror(number))

    descriptors = len(os.listdir("/dev/fd"))
    with monkeypatch.context() as broken:
        broken.setattr(locks.os, call, fail)
        with (
            pytest.raises(OutputError, match=f"a.tif: {os.strerror(number)}"),
            lock_outputs([tmp_path / "a.tif"]),
        ):
            pass
    assert list(tmp_path.iterdir()) == []
    assert len(os.listdir("/dev/fd")) == descriptors
    with lock_outputs([tmp_path / "a.tif"]):
        pass
