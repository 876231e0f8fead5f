"""Which maps belong to which scenes: by patterns, or by the names of orthophotos."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cafe_cli.config.schema import Config
from cafe_cli.errors import ConfigError, InputError
from cafe_cli.redaction import stem
from cafe_cli.scenes.discovery import (
    SceneFiles,
    expand,
    expand_inputs,
    fill_pattern,
    match_scenes,
    placeholders_of,
)
from cafe_cli.system.atomic_write import is_remote
from cafe_cli.text import list_some

log = logging.getLogger("cafe")

_ID = "id"  # placeholder for the id of a scene in the names of maps


@dataclass(frozen=True)
class Pair:
    """The map and the reference of a scene, each as one file or several sheets."""

    scene: str
    maps: tuple[str, ...]
    references: tuple[str, ...]


def pair_files(maps: str, reference: str, partial: bool = False) -> list[Pair]:
    """Pair the maps and the references that two patterns with ``{placeholders}`` name.

    Parameters
    ----------
    maps, reference : str
        Patterns as in ``[scenes]``; the placeholders of `reference` occur in `maps`. A reference
        without placeholders belongs to all maps. In a folder, maps are named like the scenes.
    partial : bool
        Whether there may be maps without reference and references without map.

    Raises
    ------
    ConfigError
        `reference` has a placeholder that `maps` does not have.
    InputError
        No file matches, or a map or a reference is missing; the message counts and names them.
    """
    own = placeholders_of(maps)
    if not own and Path(maps).is_dir():
        own = placeholders_of(reference)
        maps = str(Path(maps, "_".join(f"{{{name}}}" for name in own) + ".tif"))
    if extra := [name for name in placeholders_of(reference) if name not in own]:
        raise ConfigError(
            f"{reference}: {{{extra[0]}}} does not occur in {maps}; name the maps by a pattern, "
            f"such as 'maps/{{{extra[0]}}}.tif'"
        )
    found = match_scenes(maps, setting="the maps")
    pairs, lost, used = [], [], set[str]()
    for scene, (match, paths) in sorted(found.items()):
        wanted = fill_pattern(reference, match)
        if files := expand(wanted):
            pairs.append(Pair(scene, tuple(paths), tuple(files)))
            used |= set(files)
        else:
            lost.append(f"{scene} ({wanted} does not exist)")
    _report_missing(lost, len(found), "maps", "reference", partial)
    if placeholders_of(reference) and not is_remote(reference):
        known = match_scenes(reference, setting="the references")
        idle = [scene for scene, (_, paths) in sorted(known.items()) if used.isdisjoint(paths)]
        _report_missing(idle, len(known), "references", "map", partial)
    return pairs


def maps_of_scenes(
    maps: str, config: Config, scenes: Sequence[SceneFiles]
) -> dict[str, tuple[str, ...]]:
    """Return the maps of the scenes that have one, by scene.

    Parameters
    ----------
    maps : str
        A pattern with the placeholders of ``scenes.optical``, or ``{id}`` for the id of a scene; or
        a folder, glob or @list of maps that are named like orthophotos (as those of ``cafe predict
        --per-file``) or scenes. One file that is named like no scene is the map of all.
    config : Config
        Needs ``[scenes]``.
    scenes : sequence of SceneFiles

    Raises
    ------
    InputError
        A folder, glob or list holds no file, or files of one name fit a scene.
    ConfigError
        The pattern has a placeholder that ``scenes.optical`` does not have.
    """
    if placeholders_of(maps):
        return _fill(maps, config, scenes)
    files = expand_inputs([maps])
    by_stem: dict[str, list[str]] = {}
    for path in files:
        by_stem.setdefault(stem(path), []).append(path)
    found = {scene.id: _named_like(scene, by_stem) for scene in scenes}
    found = {scene: paths for scene, paths in found.items() if paths}
    if not found and files == [maps]:
        return {scene.id: (maps,) for scene in scenes}
    return found


def report_missing_maps(
    scenes: Sequence[str], maps: Mapping[str, object], where: str, *, required: bool
) -> list[str]:
    """Return the scenes with a map; name those without one, in an error or in the log.

    Parameters
    ----------
    scenes : sequence of str
        The scenes to be scored.
    maps : mapping
        Maps by scene.
    where : str
        The maps as the user named them.
    required : bool
        Whether each needs a map. At least one always does.

    Raises
    ------
    InputError
        A map is missing.
    """
    lost = [scene for scene in scenes if scene not in maps]
    if len(lost) == len(scenes):
        raise InputError(
            f"{where}: none of {len(scenes)} scenes has a map there, by the name of its "
            f"orthophoto, by its own name or by location: {list_some(scenes)}; a pattern such as "
            f"'maps/{{{_ID}}}.tif' states how the maps are named"
        )
    _report_missing(lost, len(scenes), "scenes", "map", not required)
    return [scene for scene in scenes if scene in maps]


def _fill(maps: str, config: Config, scenes: Sequence[SceneFiles]) -> dict[str, tuple[str, ...]]:
    settings = config.scenes
    if settings is None:
        raise ConfigError("[scenes] has to name at least optical and labels")
    matches = match_scenes(settings.optical, config.root, settings.only or ())
    found = {}
    for scene in scenes:
        values = {_ID: scene.id, **matches[scene.id][0]}
        if files := expand(fill_pattern(maps, values)):
            found[scene.id] = tuple(files)
    return found


def _named_like(scene: SceneFiles, by_stem: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Return the maps that are named like the orthophotos of a scene, or like the scene."""
    stems = dict.fromkeys([*(stem(path) for path in scene.optical), scene.id])
    fitting = [by_stem[short] for short in stems if short in by_stem]
    if twice := [paths for paths in fitting if len(paths) > 1]:
        raise InputError(f"{' and '.join(twice[0])} both match scene {scene.id}; leave one out")
    return tuple(path for paths in fitting for path in paths)


def _report_missing(
    lost: Sequence[str], total: int, what: str, partner: str, partial: bool
) -> None:
    if not lost:
        return
    message = f"{len(lost)} of {total} {what} have no {partner}: {list_some(lost)}"
    if not partial or len(lost) == total:
        remedy = ", or leave it out with --partial" if len(lost) < total else ""
        raise InputError(f"{message}; add what is missing{remedy}")
    log.info("%s; they are not scored", message)
