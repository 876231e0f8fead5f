"""Find the files of scenes by name patterns."""

import glob
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cafe_cli.config.schema import SceneSettings
from cafe_cli.config.types import Files
from cafe_cli.errors import ConfigError, InputError
from cafe_cli.redaction import base_name
from cafe_cli.system.atomic_write import is_file_name, is_remote
from cafe_cli.system.untrusted import read_text

_LARGEST_LIST = 64_000_000  # bytes, half a million names
_PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)(?::0(\d+))?\}")
_INSIDE = re.compile(r'([A-Za-z]\w+:(?:\d+:)?"?)((?:\{[^}]*\}|[^":{])+)("?(?::.*)?)')
"""GDAL's name of a raster inside a file, such as ``GPKG:file.gpkg:table``."""


@dataclass(frozen=True)
class SceneFiles:
    """The files of one scene, by any names that GDAL opens.

    Several files of one kind are read as one raster; `labels` may be vector files. `corrections`
    are laid over `labels`, each file over those before it; rasters and vector files may be mixed.
    """

    id: str
    optical: tuple[str, ...]
    elevation: tuple[str, ...] = ()
    dtm: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    corrections: tuple[str, ...] = ()

    @property
    def paths(self) -> list[str]:
        """All files."""
        return [*self.optical, *self.elevation, *self.dtm, *self.labels, *self.corrections]

    @property
    def name(self) -> str:
        """Name of the optical raster in messages."""
        more = len(self.optical) - 1
        return self.optical[0] + (f" and {more} more" if more else "")


def find_scenes(settings: SceneSettings, root: str = ".") -> list[SceneFiles]:
    """List the scenes whose files match the patterns of a config, sorted by id.

    Raises
    ------
    InputError
        No file matches, a scene named in `only` or `exclude` does not exist, two scenes have one
        id, or a scene lacks its elevation, terrain or label file.
    ConfigError
        A pattern has a placeholder that `optical` does not have, or remote files would have to be
        listed.
    """
    if settings.dtm is not None and settings.elevation is None:
        raise ConfigError(
            "scenes.dtm needs a surface model, from which it is subtracted: set scenes.elevation "
            "(--elevation) too"
        )
    if settings.corrections is not None and settings.labels is None:
        raise ConfigError(
            "scenes.corrections need older labels to correct: set scenes.labels (--labels) too"
        )
    known = match_scenes(settings.optical, root, settings.only or ())
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
    scenes = [_scene(name, *known[name], settings, root) for name in wanted]
    if settings.corrections is not None and not any(scene.corrections for scene in scenes):
        named = ", ".join(_join(root, pattern) for pattern in _as_tuple(settings.corrections))
        raise InputError(
            f"no file matches scenes.corrections = {named}; correct it (--corrections) or leave "
            "it out"
        )
    return scenes


def match_scenes(
    files: Files, root: str = ".", only: Sequence[str] = (), setting: str = "scenes.optical"
) -> dict[str, tuple[dict[str, str], list[str]]]:
    """Return the values of the placeholders and the files of each scene, by its id.

    Parameters
    ----------
    files : str or tuple of str
        Patterns.
    root : str
        Folder that they are relative to.
    only : sequence of str
        Ids of remote scenes, whose files cannot be listed.
    setting : str
        What names the patterns, in errors.

    Raises
    ------
    InputError
        No file matches, or two scenes have one id.
    """
    patterns = _as_tuple(files)
    known: dict[str, tuple[dict[str, str], list[str]]] = {}
    for pattern in patterns:
        for path, match in _match_files(pattern, root, only).items():
            name = "_".join(match.values()) or _scene_name(patterns[0])
            placeholders, paths = known.setdefault(name, (match, []))
            if placeholders != match:
                raise InputError(
                    f"{paths[0]} and {path} have the same id, {name!r}, by {setting} = "
                    f"{', '.join(patterns)}; rename one of them"
                )
            paths.append(path)
    if not known:
        raise InputError(
            f"no file matches {setting} = {', '.join(_join(root, p) for p in patterns)}"
        )
    return known


def placeholders_of(pattern: str) -> list[str]:
    """Return the names of the placeholders of a pattern, each once."""
    return list(dict.fromkeys(found[1] for found in _PLACEHOLDER.finditer(pattern)))


def _scene(
    name: str, match: dict[str, str], optical: list[str], settings: SceneSettings, root: str
) -> SceneFiles:
    partners: dict[str, tuple[str, ...]] = {}
    for key in ("elevation", "dtm", "labels"):
        patterns: Files | None = getattr(settings, key)
        filled = [fill_pattern(pattern, match) for pattern in _as_tuple(patterns)]
        partners[key] = tuple(p for pattern in filled for p in expand(pattern, root))
        if lost := [pattern for pattern in filled if not expand(pattern, root)]:
            missing = ", ".join(_join(root, pattern) for pattern in lost)
            raise InputError(
                f"scene {name} has no {key}: {missing} does not exist; "
                f"correct scenes.{key} (--{key}) or leave the scene out (scenes.exclude)"
            )
    newer = [fill_pattern(pattern, match) for pattern in _as_tuple(settings.corrections)]
    corrections = tuple(path for pattern in newer for path in expand(pattern, root))
    return SceneFiles(name, tuple(optical), **partners, corrections=corrections)


def find_placeholder(names: Sequence[str]) -> str | None:
    """Return the first name with a placeholder such as ``{id}`` that is not itself a file."""
    found = (n for n in names if _PLACEHOLDER.search(n) and not os.path.exists(n))
    return next(found, None)


def _as_tuple(files: Files | None) -> tuple[str, ...]:
    return (files,) if isinstance(files, str) else files or ()


def expand(name: str, root: str = ".") -> list[str]:
    """Return the files that a name stands for: a file, a folder of TIFFs, a glob or ``@list``.

    `name` and the names in a list are relative to `root`. URLs and GDAL's ``/vsi...`` names are
    returned unchanged. The list is empty if nothing matches.

    Raises
    ------
    InputError
        A list cannot be read.
    """
    if name.startswith("@"):
        return [_join(root, line) for line in _read_list(_join(root, name[1:]))]
    path = _join(root, name)
    if is_remote(path):
        return [path]
    if os.path.isdir(path) and not os.path.splitext(path)[1]:  # not a .gdb
        return sorted(_join(path, name) for name in os.listdir(path) if _is_tiff(name))
    if os.path.exists(path) or not is_file_name(path):
        return [path]
    return [_join(root, p) for p in _glob(name, root, recursive=True)]


def _glob(pattern: str, root: str, recursive: bool = False) -> list[str]:
    """Return what matches a pattern in a folder, sorted, with slashes on Windows, too."""
    found = glob.glob(pattern, root_dir=root, recursive=recursive)
    return sorted(path.replace(os.sep, "/") for path in found)


def _is_tiff(name: str) -> bool:
    """Whether a file of a folder is an input; hidden files are leftovers of a killed run."""
    return name.lower().endswith((".tif", ".tiff")) and not name.startswith(".")


def _read_list(path: str) -> list[str]:
    try:
        lines = read_text(path, _LARGEST_LIST).splitlines()
    except OSError as error:
        raise InputError(f"cannot read the list {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a list of file names, one per line") from error
    if any("\0" in line for line in lines):
        raise InputError(f"{path} is not a list of file names, one per line: it holds binary data")
    return [line.strip() for line in lines if line.strip()]


def _match_files(pattern: str, root: str, only: Sequence[str]) -> dict[str, dict[str, str]]:
    """Return the files that match a pattern, with the values of the placeholders."""
    if not _PLACEHOLDER.search(pattern):
        # A file that does not exist is reported when it is opened.
        named = [] if glob.has_magic(pattern) else [_join(root, pattern)]
        return {path: {} for path in expand(pattern, root) or named}
    if is_remote(pattern):
        return _match_remote(pattern, only)
    before, pattern, after = _split(pattern)
    pattern = pattern.replace(os.sep, "/")  # of Windows
    regex, seen, end = "", set[str](), 0
    for found in _PLACEHOLDER.finditer(pattern):
        regex += _to_regex(pattern[end : found.start()])
        name = found[1]
        regex += f"(?P={name})" if name in seen else f"(?P<{name}>[^/]+?)"
        seen.add(name)
        end = found.end()
    expression = re.compile(regex + _to_regex(pattern[end:]))
    candidates = _glob(_PLACEHOLDER.sub("*", pattern.replace("[", "[[]")), root)
    matches = {path: expression.fullmatch(path) for path in candidates}
    return {before + _join(root, path) + after: m.groupdict() for path, m in matches.items() if m}


def _match_remote(pattern: str, only: Sequence[str]) -> dict[str, dict[str, str]]:
    """Fill the only placeholder of a remote pattern with the scenes named in ``scenes.only``."""
    names = {found[1] for found in _PLACEHOLDER.finditer(pattern)}
    if len(names) > 1 or not only:
        raise ConfigError(
            f"files cannot be listed at {pattern}: name the scenes with scenes.only and use one "
            "placeholder, or give a list of names"
        )
    matches: list[dict[str, str]] = [dict.fromkeys(names, value) for value in only]
    return {fill_pattern(pattern, match): match for match in matches}


def _to_regex(text: str) -> str:
    """Return a regular expression for a text with the wildcards ``*`` and ``?``."""
    return re.escape(text).replace(r"\*", "[^/]*").replace(r"\?", "[^/]")


def fill_pattern(pattern: str, match: dict[str, str]) -> str:
    """Replace the placeholders of a pattern by their values, zero-padded to their width."""

    def value(found: re.Match[str]) -> str:
        if found[1] not in match:
            raise ConfigError(f"{pattern}: {{{found[1]}}} does not occur in scenes.optical")
        return match[found[1]].zfill(int(found[2] or 0))

    return _PLACEHOLDER.sub(value, pattern)


def _join(root: str, path: str) -> str:
    if is_remote(path) or root in (".", ""):
        return path
    before, file, after = _split(path)
    return before + os.path.join(root, file) + after


def _split(name: str) -> tuple[str, str, str]:
    """Return the parts of a name: what stands before the file, the file, what stands after."""
    found = None if is_file_name(name) or is_remote(name) else _INSIDE.fullmatch(name)
    return (found[1], found[2], found[3]) if found else ("", name, "")


def _scene_name(pattern: str) -> str:
    """Name a scene after its file, or after the folder where a wildcard or a list names files."""
    before, file, inside = _split(pattern)
    folder, name = os.path.split(file.removeprefix("@").rstrip("/"))
    stem = os.path.splitext(base_name(pattern) if is_remote(pattern) else name)[0]
    if before:
        return re.sub(r"\W+", "_", f"{stem} {before.partition(':')[2]}{inside}").strip("_")
    return (os.path.basename(folder) or "scene") if set("*?[") & set(stem) else stem


def expand_inputs(names: Sequence[str]) -> list[str]:
    """Expand files, folders, globs and @lists of the command line (see `expand`).

    Raises
    ------
    InputError
        A glob, folder or list yields no file.
    """
    files: list[str] = []
    for name in names:
        found = expand(name)
        if not found and (name.startswith("@") or Path(name).is_dir() or set("*?[") & set(name)):
            raise InputError(f"{name} matches no file")
        files += found or [name]
    return files
