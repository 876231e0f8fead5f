import subprocess
import sys
from contextlib import contextmanager

import pytest

from cafe_cli.system import open_files
from cafe_cli.system.open_files import Pool, most_open

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no such limits")


@pytest.mark.parametrize(
    ("limit", "expected"), [(8, 1), (64, 4), (256, 16), (1024, 64), (10**6, 64), (-1, 64)]
)
def test_a_low_limit_of_open_files(monkeypatch, limit, expected):
    monkeypatch.setattr(open_files.resource, "getrlimit", lambda kind: (limit, limit))
    assert most_open() == expected


@pytest.mark.parametrize("limit", [48, 256, 4096])
def test_a_pool_keeps_to_it(monkeypatch, limit):
    monkeypatch.setattr(open_files.resource, "getrlimit", lambda kind: (limit, limit))
    opened, most = set(), []

    @contextmanager
    def opening(name):
        opened.add(name)
        most.append(len(opened))
        yield name
        opened.remove(name)

    pool = Pool()
    names = [f"{n}.tif" for n in range(200)]
    assert [pool.get(name, lambda name=name: opening(name)) for name in names] == names
    assert max(most) == most_open()
    pool.close()
    assert opened == set()


@pytest.mark.parametrize(
    ("soft", "hard", "expected"), [(100, 300, 300), (300, 300, 300), (50, 50, 50)]
)
def test_limit_of_open_files_is_raised_as_far_as_the_system_allows(soft, hard, expected):
    code = (
        "import resource; from cafe_cli.system.open_files import allow_more\n"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}))\n"
        "print(allow_more(), *resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(expected), str(expected), str(hard)]


def test_limit_that_cannot_be_raised_stays(monkeypatch):
    def refuse(*_):
        raise ValueError("not allowed")

    infinite = open_files.resource.RLIM_INFINITY
    monkeypatch.setattr(open_files.resource, "getrlimit", lambda _: (100, infinite))
    monkeypatch.setattr(open_files.resource, "setrlimit", refuse)
    assert open_files.allow_more() == 100
    monkeypatch.setattr(open_files.resource, "getrlimit", lambda _: (infinite,) * 2)
    assert open_files.allow_more() == 65_536
