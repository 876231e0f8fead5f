"""Which rasters belong together: scenes by patterns of file names."""

import glob
import os
import re
from dataclasses import dataclass

from cafe_cli.config import SceneSettings
from cafe_cli.errors import ConfigError, InputError

_PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)(?::0(\d+))?\}")


@dataclass(frozen=True)
class SceneFiles:
    """The rasters of one scene: any name GDAL opens."""

    id: str
    optical: str
    elevation: str | None = None
    labels: str | None = None


def find_scenes(settings: SceneSettings, root: str = ".") -> list[SceneFiles]:
    """List the scenes that the patterns of a config name, in the order of their ids.

    Raises
    ------
    InputError
        No file fits the pattern, a scene named in `only` or `exclude` is not there, or a scene
        lacks its elevation or label file.
    ConfigError
        A pattern repeats a placeholder that `optical` does not have.
    """
    matches = _match(settings.optical, root)
    if not matches:
        raise InputError(f"no file fits scenes.optical = {_under(root, settings.optical)}")
    known = {"_".join(m.values()) or _stem(path): (path, m) for path, m in matches.items()}
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
    if len(known) < len(matches):
        raise InputError(f"several files that fit scenes.optical = {settings.optical} have one id")
    return [_partners(name, *known[name], settings, root) for name in wanted]


def _partners(
    name: str, optical: str, match: dict[str, str], settings: SceneSettings, root: str
) -> SceneFiles:
    partners: list[str | None] = []
    for key in ("elevation", "labels"):
        pattern: str | None = getattr(settings, key)
        path = pattern and _under(root, _fill(pattern, match))
        if path and "://" not in path and not path.startswith("/vsi") and not os.path.exists(path):
            raise InputError(
                f"scene {name} has no {key}: {path} does not exist; "
                f"correct scenes.{key} or leave the scene out with scenes.exclude"
            )
        partners.append(path)
    return SceneFiles(name, optical, *partners)


def _match(pattern: str, root: str) -> dict[str, dict[str, str]]:
    """Return the files that fit a pattern, with what each placeholder stands for."""
    if not _PLACEHOLDER.search(pattern):
        return {_under(root, pattern): {}}
    expression, seen, end = "", set[str](), 0
    for found in _PLACEHOLDER.finditer(pattern):
        expression += re.escape(pattern[end : found.start()])
        name = found[1]
        expression += f"(?P={name})" if name in seen else f"(?P<{name}>[^/]+?)"
        seen.add(name)
        end = found.end()
    fits = re.compile(expression + re.escape(pattern[end:]))
    candidates = sorted(glob.glob(_PLACEHOLDER.sub("*", glob.escape(pattern)), root_dir=root))
    found_by = {path: fits.fullmatch(path) for path in candidates}
    return {_under(root, path): m.groupdict() for path, m in found_by.items() if m}


def _fill(pattern: str, match: dict[str, str]) -> str:
    def value(found: re.Match[str]) -> str:
        if found[1] not in match:
            raise ConfigError(f"{pattern}: {{{found[1]}}} does not occur in scenes.optical")
        return match[found[1]].zfill(int(found[2] or 0))

    return _PLACEHOLDER.sub(value, pattern)


def _under(root: str, path: str) -> str:
    remote = path.startswith("/vsi") or "://" in path
    return path if remote else os.path.join(root, path)


def _stem(path: str) -> str:
    return os.path.splitext(os.path.basename(path))[0]
