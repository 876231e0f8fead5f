"""Wheel and sdist: they are complete, and run outside the clone."""

import email
import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
from packaging.metadata import Metadata

from cafe_cli import __version__

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


def build(source: Path, kind: str, folder: Path) -> Path:
    words = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(folder)]
    subprocess.run(words, cwd=source, check=True, capture_output=True)
    (made,) = folder.iterdir()
    return made


def names_in(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return sorted(archive.namelist())


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    return build(ROOT, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """The folder of an unpacked sdist."""
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(build(ROOT, "sdist", folder / "dist")) as archive:
        # Python 3.11.2 of Debian 12 does not know the filter that 3.12 warns without.
        archive.extraction_filter = getattr(tarfile, "data_filter", lambda member, path: member)
        archive.extractall(folder)
    return folder / f"cafe_cli-{__version__}"


@pytest.fixture(scope="module")
def outside(wheel, tmp_path_factory):
    """Run a command in a folder outside the clone, in an environment with the wheel."""
    folder = tmp_path_factory.mktemp("outside")
    venv = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    places = {"base": str(venv), "platbase": str(venv)}
    packages, scripts = (
        Path(sysconfig.get_path(name, "venv", vars=places)) for name in ("purelib", "scripts")
    )
    # All that cafe needs, but not the editable cafe: a .pth file in there is not read.
    (packages / "needs.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = [sys.executable, "-m", "pip", "--python", str(venv), "install", "-q", "--no-index"]
    subprocess.run([*install, "--no-deps", str(wheel)], check=True)
    clean = {key: text for key, text in os.environ.items() if not key.startswith("PYTHON")}

    def run(program: str, *words: str) -> subprocess.CompletedProcess[str]:
        command = [str(scripts / program), *words]
        return subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True)

    return folder, run


def test_the_wheel_is_complete(wheel):
    names = names_in(wheel)
    package = ROOT / "cafe_cli"
    there = {
        path.relative_to(ROOT).as_posix()
        for path in package.rglob("*")
        if path.is_file() and path.suffix not in (".pyc", ".so")
    }
    assert there <= set(names)
    assert "cafe_cli/py.typed" in names
    added = {name for name in names if ".dist-info/" not in name} - there
    assert {name.split("/")[1] for name in added} == {"_sample"}
    assert wheel.stat().st_size < 3_000_000


def test_the_metadata_are_valid(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("dist-info/METADATA"))
        text = archive.read(name)
    metadata = Metadata.from_email(text, validate=True)
    assert (metadata.name, str(metadata.version)) == ("cafe-cli", __version__)
    assert metadata.license_expression == "Apache-2.0"
    assert metadata.description_content_type == "text/markdown"
    assert {"onnx", "parquet", "stac"} <= set(metadata.provides_extra or ())
    assert email.message_from_bytes(text)["Requires-Python"] == ">=3.11"


def test_the_sdist_builds_the_same_wheel(source, wheel, tmp_path):
    assert names_in(build(source, "wheel", tmp_path / "dist")) == names_in(wheel)


def test_tests_run_from_the_sdist(source):
    files = ["tests/test_contributing.py", "tests/test_sample_data.py", "tests/test_classes.py"]
    clean = {key: text for key, text in os.environ.items() if not key.startswith("PYT")}
    words = [sys.executable, "-m", "pytest", "-n", "0", "-m", "not slow", *files]
    done = subprocess.run(words, cwd=source, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_wheel_runs_outside_the_clone(outside):
    folder, run = outside
    where = run("python", "-c", "import cafe_cli; print(cafe_cli.__file__)")
    assert Path(where.stdout.strip()).is_relative_to(folder)
    assert __version__ in run("cafe", "--version").stdout
    assert "--only-data" in run("cafe", "demo", "--help").stdout
    missing = run("cafe", "demo", "-c", "none.toml")
    assert (missing.returncode, missing.stderr.count("\n")) == (2, 1), missing.stderr


def test_the_demo_runs_outside_the_clone(outside):
    folder, run = outside
    copied = run("cafe", "demo", "--only-data", "-o", "town")
    assert copied.returncode == 0, copied.stderr
    config = folder / "town" / "configs" / "sample.toml"
    text = config.read_text(encoding="utf-8")
    for long, short in (("epochs = 30", "epochs = 1"), ("overlap = 64", "overlap = 0")):
        assert long in text
        text = text.replace(long, short)
    config.write_text(text, encoding="utf-8")

    done = run("cafe", "demo", "-c", "town/configs/sample.toml", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    assert (folder / "demo" / "demo.png").exists()
    told = run("cafe", "info", "demo/town.tif")
    assert (told.returncode, "low vegetation" in told.stdout) == (0, True)
