"""Classes and borders whose pixels are not scored."""

from collections.abc import Sequence
from dataclasses import replace

from cafe_cli.classes import ClassTable
from cafe_cli.errors import ConfigError
from cafe_cli.scenes.label_values import find_class, list_classes
from cafe_cli.text import did_you_mean


def leave_out(classes: ClassTable, names: Sequence[str]) -> tuple[ClassTable, frozenset[int]]:
    """Return the classes, of which some are in no mean, and the ids of these.

    Raises
    ------
    ConfigError
        A name is no class, or none is left.
    """
    ids = frozenset(_find(name, classes) for name in names)
    if len(ids) == len(classes):
        raise ConfigError("--ignore-class names every class: leave one to be scored")
    kept = tuple(replace(c, scored=False) if c.id in ids else c for c in classes)
    return ClassTable(kept), ids


def _find(name: str, classes: ClassTable) -> int:
    found = find_class(name, classes)
    if found is None:
        hint = did_you_mean(name, classes.names) or list_classes(classes)
        raise ConfigError(f"--ignore-class names {name!r}, which is not a class; {hint}")
    return found
