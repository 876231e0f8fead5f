"""What a folder holds, and whether a file is whole."""

import csv
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import rasterio
from safetensors import SafetensorError, safe_open

_TIMES = ("data_wait", "crops_per_second", "seconds")
"""Columns of a history that hold times."""

_TIME = rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
_ANY = "present"


def contents(folder: Path) -> dict[str, str]:
    """Return a checksum for each file of a folder, and the names of folders that are empty."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_file():
            found[_stable(name)] = checksum(path, folder)
        elif not any(path.iterdir()):
            found[f"{name}/"] = _ANY
    return found


def _stable(name: str) -> str:
    """Return a name without time and process, of which TensorBoard makes those of its files."""
    return re.sub(r"tfevents\..*", "tfevents", name)


def checksum(path: Path, folder: Path) -> str:
    """Return a checksum of what depends on inputs and settings only, not on the name of the folder.

    A file that cannot be read as what its name says has a checksum of its bytes.
    """
    if path.name == "report.html" or "tfevents" in path.name:
        return _ANY
    try:
        if path.suffix == ".safetensors":
            return _digest(_model(path))
        if path.name == "history.csv":
            return _digest(json.dumps(_history(path)).encode())
    except (OSError, ValueError, KeyError, SafetensorError):
        pass
    content = path.read_bytes()
    if path.suffix == ".gpkg":
        content = re.sub(_TIME, b"", content)
    return _digest(content.replace(bytes(folder), b"") if path.suffix == ".toml" else content)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _model(path: Path) -> bytes:
    """Return tensors and metadata of a model file as bytes; times are left out."""
    parts = []
    with safe_open(path, "np") as file:
        for name in sorted(file.keys()):
            tensor = file.get_tensor(name)
            parts.append(f"{name} {tensor.dtype} {tensor.shape}".encode() + tensor.tobytes())
        for name, text in sorted((file.metadata() or {}).items()):
            plain = _without_times(json.loads(text))
            parts.append(f"{name} {json.dumps(plain, sort_keys=True)}".encode())
    return b"\n".join(parts)


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_times(v) for k, v in value.items() if k not in _TIMES}
    return [_without_times(v) for v in value] if isinstance(value, list) else value


def _history(path: Path) -> list[dict[str, Any]]:
    with path.open(newline="", encoding="utf-8") as file:
        return [_without_times(row) for row in csv.DictReader(file)]


def differences(expected: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    """Return what is missing, too much or different, in words."""
    missing = [f"{name} is missing" for name in expected if name not in found]
    more = [f"{name} is left over" for name in found if name not in expected]
    unlike = [
        f"{name} differs" for name in expected if name in found and found[name] != expected[name]
    ]
    return [*missing, *more, *unlike]


def is_hidden(name: str) -> bool:
    """Whether a relative name has a part that begins with a dot: it is no final name."""
    return any(part.startswith(".") for part in Path(name).parts)


def opens(path: Path) -> bool:
    """Whether a file can be read to its end as what its name says."""
    try:
        _read(path)
    except (OSError, ValueError, rasterio.errors.RasterioError, SafetensorError):
        return False
    return True


def _read(path: Path) -> None:
    if path.suffix in (".tif", ".png"):
        with rasterio.open(path) as dataset:
            dataset.read()
    elif path.suffix == ".safetensors":
        with safe_open(path, "np") as file:
            for name in file.keys():  # noqa: SIM118
                file.get_tensor(name)
    elif path.suffix == ".json":
        json.loads(path.read_text(encoding="utf-8"))
    elif path.suffix == ".csv":
        rows = list(csv.reader(path.read_text(encoding="utf-8").splitlines(), strict=True))
        if len({len(row) for row in rows}) != 1:
            raise ValueError("rows of different lengths")
    elif path.suffix == ".html" and not path.read_text(encoding="utf-8").endswith("</html>\n"):
        raise ValueError("cut off")
