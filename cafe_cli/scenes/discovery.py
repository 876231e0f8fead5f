"""Which rasters belong together: scenes by patterns of file names."""

import glob
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cafe_cli.config.schema import Files, SceneSettings
from cafe_cli.errors import ConfigError, InputError
from cafe_cli.system.atomic_write import is_remote

_PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)(?::0(\d+))?\}")


@dataclass(frozen=True)
class SceneFiles:
    """The rasters of one scene: any names GDAL opens; several are joined into one raster.

    `labels` may be vectors.
    """

    id: str
    optical: tuple[str, ...]
    elevation: tuple[str, ...] = ()
    dtm: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The optical raster in a message."""
        more = len(self.optical) - 1
        return self.optical[0] + (f" and {more} more" if more else "")


def find_scenes(settings: SceneSettings, root: str = ".") -> list[SceneFiles]:
    """List the scenes that the patterns of a config name, in the order of their ids.

    Raises
    ------
    InputError
        No file fits the pattern, a scene named in `only` or `exclude` is not there, two scenes have
        one id, or a scene lacks its elevation, terrain or label file.
    ConfigError
        A pattern repeats a placeholder that `optical` does not have, or remote files would have
        to be listed.
    """
    if settings.dtm is not None and settings.elevation is None:
        raise ConfigError(
            "scenes.dtm is the ground to take heights above: name the surface model too, with "
            "scenes.elevation (--elevation)"
        )
    patterns = _names(settings.optical)
    known: dict[str, tuple[dict[str, str], list[str]]] = {}
    for pattern in patterns:
        for path, match in _match(pattern, root, settings.only or ()).items():
            name = "_".join(match.values()) or _stem(patterns[0])
            placeholders, paths = known.setdefault(name, (match, []))
            if placeholders != match:
                raise InputError(
                    f"{paths[0]} and {path} have one id, {name!r}, by scenes.optical = "
                    f"{', '.join(patterns)}; rename one of them"
                )
            paths.append(path)
    if not known:
        raise InputError(
            f"no file fits scenes.optical = {', '.join(_under(root, p) for p in patterns)}"
        )
    for name in (*(settings.only or ()), *settings.exclude):
        if name not in known:
            raise InputError(f"there is no scene {name!r}; found: {', '.join(sorted(known))}")
    wanted = [
        name
        for name in sorted(known)
        if name not in settings.exclude and (settings.only is None or name in settings.only)
    ]
    if not wanted:
        raise InputError("scenes.only and scenes.exclude leave no scene")
    return [_scene(name, *known[name], settings, root) for name in wanted]


def _scene(
    name: str, match: dict[str, str], optical: list[str], settings: SceneSettings, root: str
) -> SceneFiles:
    partners: dict[str, tuple[str, ...]] = {}
    for key in ("elevation", "dtm", "labels"):
        patterns: Files | None = getattr(settings, key)
        filled = [_fill(pattern, match) for pattern in _names(patterns)]
        partners[key] = tuple(p for pattern in filled for p in expand(pattern, root))
        if lost := [pattern for pattern in filled if not expand(pattern, root)]:
            missing = ", ".join(_under(root, pattern) for pattern in lost)
            raise InputError(
                f"scene {name} has no {key}: {missing} does not exist; "
                f"correct scenes.{key} or leave the scene out with scenes.exclude"
            )
    return SceneFiles(name, tuple(optical), **partners)


def _names(files: Files | None) -> tuple[str, ...]:
    return (files,) if isinstance(files, str) else files or ()


def expand(name: str, root: str = ".") -> list[str]:
    """Return the files that a name stands for: a file, a folder of TIFFs, a glob or ``@list``.

    The names in a list are relative to `root`, as `name` is. Names GDAL understands that are no
    file (URLs, ``/vsi...``) stand for themselves. Where nothing fits, nothing is returned.

    Raises
    ------
    InputError
        A list that cannot be read.
    """
    if name.startswith("@"):
        return [_under(root, line) for line in _lines(_under(root, name[1:]))]
    path = _under(root, name)
    if is_remote(path):
        return [path]
    if os.path.isdir(path) and not os.path.splitext(path)[1]:  # with one, it may be a .gdb
        return sorted(_under(path, name) for name in os.listdir(path) if _is_tiff(name))
    if os.path.exists(path):
        return [path]
    return [_under(root, p) for p in sorted(glob.glob(name, root_dir=root, recursive=True))]


def _is_tiff(name: str) -> bool:
    """Whether a file of a folder is an input; hidden ones are what a killed run left behind."""
    return name.lower().endswith((".tif", ".tiff")) and not name.startswith(".")


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8-sig") as file:
            lines = file.read().splitlines()
    except OSError as error:
        raise InputError(f"cannot read the list {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is no list of file names, one per line") from error
    return [line.strip() for line in lines if line.strip()]


def _match(pattern: str, root: str, only: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the files that fit a pattern, with what each placeholder stands for."""
    if not _PLACEHOLDER.search(pattern):
        # Whoever opens a file that is not there says so.
        named = [] if glob.has_magic(pattern) else [_under(root, pattern)]
        return {path: {} for path in expand(pattern, root) or named}
    if is_remote(pattern):
        return _match_remote(pattern, only)
    expression, seen, end = "", set[str](), 0
    for found in _PLACEHOLDER.finditer(pattern):
        expression += _wild(pattern[end : found.start()])
        name = found[1]
        expression += f"(?P={name})" if name in seen else f"(?P<{name}>[^/]+?)"
        seen.add(name)
        end = found.end()
    fits = re.compile(expression + _wild(pattern[end:]))
    candidates = sorted(
        glob.glob(_PLACEHOLDER.sub("*", pattern.replace("[", "[[]")), root_dir=root)
    )
    found_by = {path: fits.fullmatch(path) for path in candidates}
    return {_under(root, path): m.groupdict() for path, m in found_by.items() if m}


def _match_remote(pattern: str, only: Sequence[str]) -> dict[str, dict[str, str]]:
    """Fill the only placeholder of a remote pattern with the scenes named in ``scenes.only``."""
    names = {found[1] for found in _PLACEHOLDER.finditer(pattern)}
    if len(names) > 1 or not only:
        raise ConfigError(
            f"files cannot be listed at {pattern}: name the scenes with scenes.only and use one "
            "placeholder, or give a list of names"
        )
    matches: list[dict[str, str]] = [dict.fromkeys(names, value) for value in only]
    return {_fill(pattern, match): match for match in matches}


def _wild(text: str) -> str:
    """Return a regular expression for the wildcards ``*`` and ``?``; other characters are plain."""
    return re.escape(text).replace(r"\*", "[^/]*").replace(r"\?", "[^/]")


def _fill(pattern: str, match: dict[str, str]) -> str:
    def value(found: re.Match[str]) -> str:
        if found[1] not in match:
            raise ConfigError(f"{pattern}: {{{found[1]}}} does not occur in scenes.optical")
        return match[found[1]].zfill(int(found[2] or 0))

    return _PLACEHOLDER.sub(value, pattern)


def _under(root: str, path: str) -> str:
    return path if is_remote(path) or root in (".", "") else os.path.join(root, path)


def _stem(pattern: str) -> str:
    """Name a scene after its file, or after the folder where a wildcard or a list names files."""
    folder, name = os.path.split(pattern.removeprefix("@").rstrip("/"))
    stem = os.path.splitext(name)[0]
    return (os.path.basename(folder) or "scene") if set("*?[") & set(stem) else stem


def expand_inputs(names: Sequence[str]) -> list[str]:
    """Turn files, folders, globs and @lists into file names; URLs and GDAL paths pass as they are.

    Raises
    ------
    InputError
        A glob, folder or list without a file.
    """
    from cafe_cli.scenes.discovery import expand

    files: list[str] = []
    for name in names:
        found = expand(name)
        if not found and (name.startswith("@") or Path(name).is_dir() or set("*?[") & set(name)):
            raise InputError(f"{name} names no file")
        files += found or [name]
    return files
