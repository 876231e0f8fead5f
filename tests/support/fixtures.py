"""Fixtures that the tests of the engines share: ``pytest_plugins = ["tests.support.fixtures"]``."""

import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from cafe_cli.cli import main
from cafe_cli.model import model_file
from tests.support.engines import card_of, cut, decided, tiny_model, write_town

Invoke: TypeAlias = Callable[..., tuple[Any, Any]]


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scenes side by side: `a` makes six training tiles, `b` five for validation."""
    folder = tmp_path_factory.mktemp("scenes")
    write_town(folder, "a", 128, 192, seed=1)
    write_town(folder, "b", 64, 320, seed=2, origin=(0, 1000))
    return folder


@pytest.fixture(scope="session")
def tileset(scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tile set of both scenes."""
    return cut(scenes, tmp_path_factory.mktemp("tiles") / "tiles")


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model file with random weights."""
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    network = tiny_model()
    model_file.save(path, network, card_of(network))
    return path


@pytest.fixture
def make_model(tmp_path: Path) -> Callable[..., Path]:
    """Write a model file with random weights that tells classes apart: ``(card, **network)``."""

    def make(card: dict[str, Any] | None = None, **changes: Any) -> Path:
        network = decided(tiny_model(**changes))
        path = tmp_path / "model.safetensors"
        model_file.save(path, network, card_of(network, **(card or {})))
        return path

    return make


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Invoke]:
    """Return a function that runs a command in this process: exit code, and what was captured."""
    log = logging.getLogger("cafe")
    before = (log.level, log.handlers)

    def call(*words: object) -> tuple[Any, Any]:
        monkeypatch.setattr(sys, "argv", ["cafe", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main.main()
        return caught.value.code or 0, capsys.readouterr()

    yield call
    log.setLevel(before[0])
    log.handlers = before[1]
