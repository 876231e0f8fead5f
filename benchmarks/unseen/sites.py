"""The sites of a folder, and which of them train."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cafe_cli.errors import InputError
from cafe_cli.scenes.discovery import SceneFiles

OPTICAL, ELEVATION, LABELS = "ortho.tif", "dsm.tif", "labels.tif"


@dataclass(frozen=True)
class Site:
    """One place: a scene, or several plots that are scored together.

    Attributes
    ----------
    name : str
    plots : tuple of SceneFiles
        Image, surface model and labels of each plot; one for a site that is not divided.
    """

    name: str
    plots: tuple[SceneFiles, ...]


def find_sites(folder: Path) -> list[Site]:
    """List the sites of a folder, sorted by name.

    Raises
    ------
    InputError
        There is none, or a site lacks its surface model or its labels.
    """
    places = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    sites = [Site(place.name, plots) for place in places if (plots := _plots(place))]
    if not sites:
        raise InputError(f"{folder} holds no site: no folder in it has {OPTICAL}")
    return sites


def _plots(place: Path) -> tuple[SceneFiles, ...]:
    if (place / OPTICAL).exists():
        return (_plot(place, place.name),)
    parts = sorted(path.parent for path in place.glob(f"*/{OPTICAL}"))
    return tuple(_plot(part, f"{place.name}_{part.name}") for part in parts)


def _plot(folder: Path, name: str) -> SceneFiles:
    for file in (ELEVATION, LABELS):
        if not (folder / file).exists():
            raise InputError(f"{folder} has {OPTICAL} but not {file}: add it, or move the folder")
    optical, elevation, labels = (str(folder / file) for file in (OPTICAL, ELEVATION, LABELS))
    return SceneFiles(name, (optical,), elevation=(elevation,), labels=(labels,))


def divide(sites: Sequence[Site], train: str) -> tuple[list[Site], list[Site]]:
    """Divide sites into those that train and those that are scored.

    Parameters
    ----------
    sites : sequence of Site
    train : str
        Names joined by commas, ``all``, or ``all-but-SITE``.

    Raises
    ------
    InputError
        A name is that of no site, or no site is left to train.
    """
    out = train.removeprefix("all-but-")
    names = [] if train == "all" else out.split(",")
    known = [site.name for site in sites]
    if unknown := [name for name in names if name not in known]:
        raise InputError(f"--train names {unknown[0]!r}, the sites are {', '.join(known)}")
    inverted = train == "all" or out != train
    training = [site for site in sites if (site.name in names) != inverted]
    if not training:
        raise InputError(f"--train {train} leaves no site to train on")
    return training, [site for site in sites if site not in training]
