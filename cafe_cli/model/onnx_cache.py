"""ONNX files of models that were exported before, by the hash of the model; free of torch.

They lie in the user's cache folder, or in that of the variable ``CAFE_CACHE``; ``none`` stands for
no cache. A file is named after the model's hash and its own, so that a damaged one is never used.
"""

import hashlib
import logging
import os
from pathlib import Path

from platformdirs import user_cache_path

from cafe_cli import __version__
from cafe_cli.errors import OutputError
from cafe_cli.system.atomic_write import remove, replace_atomically, translate_os_errors

log = logging.getLogger("cafe")

VARIABLE = "CAFE_CACHE"
_KEPT = 16  # files; a network of the default encoder takes 24 MB
_DIGITS = 32  # of a hash in a file name


def cache_folder() -> Path | None:
    """Return the folder of exported models, which may not exist; None without a cache."""
    given = os.environ.get(VARIABLE)
    if given == "none":
        return None
    return (Path(given) if given else user_cache_path("cafe", appauthor=False)) / "onnx"


def find(digest: str) -> Path | None:
    """Return the ONNX file of a model, if there is an undamaged one.

    Parameters
    ----------
    digest : str
        SHA-256 of the model file.
    """
    folder = cache_folder()
    if folder is None:
        return None
    try:
        found = sorted(folder.glob(f"{_prefix(digest)}*.onnx"))
        for path in found:
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            if path.stem.endswith(content[:_DIGITS]):
                os.utime(path)  # the time of the last use
                return path
            log.info("%s is damaged; the model is exported again", path)
            remove(path)
    except OSError as error:
        log.info("the cache of exported models cannot be used: %s", error)
    return None


def store(digest: str, graph: bytes) -> Path | None:
    """Store the ONNX file of a model; None where that is not possible, which a log line says."""
    folder = cache_folder()
    if folder is None:
        return None
    path = folder / f"{_prefix(digest)}{hashlib.sha256(graph).hexdigest()[:_DIGITS]}.onnx"
    try:
        with translate_os_errors(path):
            folder.mkdir(parents=True, exist_ok=True)
            with replace_atomically(path) as temporary:
                temporary.write_bytes(graph)
            _remove_oldest(folder)
    except OutputError as error:
        log.info("the exported model is not kept: %s", error)
        return None
    return path


def _prefix(digest: str) -> str:
    # Another version may export another graph.
    return f"{digest[:_DIGITS]}-{__version__}-"


def _remove_oldest(folder: Path) -> None:
    """Remove the files that were not used for the longest time."""
    files = sorted(folder.glob("*.onnx"), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in files[_KEPT:]:
        remove(path)
