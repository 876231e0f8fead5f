"""The local files behind a name that GDAL understands: inside archives, subdatasets and VRTs."""

import html
import os
import re
from collections.abc import Iterable, Iterator

_DELIMITERS = re.compile(r"[:,;\"'?&=!{}|]|/(?=vsi\w+/)")
_ENDS = re.compile(r"[:,;\"'?&=!{}|/\\]")
_TEXTS = re.compile(r">([^<>\n]+)<")
_VIRTUAL = (b"<VRTDataset", b"<OGRVRT", b"<GDALTileIndex", b"<GDAL_WMS")
_CDATA = re.compile(r"<!\[CDATA\[(.*?)\]\]>", re.DOTALL)
_NO_SOURCE = re.compile(
    r"<(SRS|Description|GCPProjection|UnitType|Category)\b[^<>]*>[^<]*</\1>"
    r"|<MDI\b(?![^<>]*_DATASET)[^<>]*>[^<]*</MDI>",
    re.IGNORECASE,
)
_VALUES = re.compile(r"=\s*(?:\"([^\"]*)\"|'([^']*)')")
_NUMBER = re.compile(r"[-+.\deE ]*")
_HEAD = 4096  # bytes in which a virtual file says what it is


def files_behind(names: Iterable[str]) -> set[str]:
    """Return the local files that names refer to, also through virtual rasters and vectors.

    A name may be a path, or hold one: ``/vsisubfile/0_99,a.tif``, ``/vsizip/a.zip/b.tif``,
    ``GTIFF_DIR:2:a.tif``, ``NETCDF:"a.nc":height``, ``vrt://a.tif?bands=1``, or the text of a VRT.
    Files that a VRT names are looked into, too.
    """
    found = set[str]()
    waiting = [(name, "") for name in names]
    while waiting:
        name, folder = waiting.pop()
        for path in set(_existing(name, folder)) - found:
            found.add(path)
            waiting += [(inner, os.path.dirname(path)) for inner in _named_in_file(path)]
        if name.lstrip().startswith("<"):
            waiting += [(inner, folder) for inner in _texts(name)]
    return found


def named_sources(path: str) -> set[str]:
    """Return what a virtual raster or vector file may name as a source; none of other files.

    Paths of local files are relative to the working folder, as `path` is. All texts and attributes
    count but tags, descriptions and a CRS, since GDAL takes either for a source.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD)
            if not any(mark in head for mark in _VIRTUAL):
                return set()
            # GDAL reads a text to its first null byte, and an archive has one at its start.
            text = (head + file.read()).partition(b"\0")[0].decode("utf-8", "replace")
    except OSError:
        return set()
    text = _NO_SOURCE.sub("", _CDATA.sub(lambda found: html.escape(found[1]), text))
    quoted = {
        part for pair in _VALUES.findall(text) for part in pair if not _NUMBER.fullmatch(part)
    }
    names = {html.unescape(name).strip() for name in {*_TEXTS.findall(text), *quoted}}
    folder = os.path.dirname(path)
    return {_beside(name, folder) for name in names if name}


def _beside(name: str, folder: str) -> str:
    """Return the path of a file relative to a folder, or the name if there is none."""
    path = os.path.join(folder, name)
    return path if len(name) < _HEAD and os.path.isfile(path) else name


def _existing(name: str, folder: str) -> Iterator[str]:
    """Yield the parts of a name that are files, relative to the working folder or to `folder`."""
    if len(name) > _HEAD:
        return
    starts = [0, *(found.end() for found in _DELIMITERS.finditer(name))]
    # /vsizip/folder/a.zip has the path after its prefix; /vsizip//folder/a.zip, an absolute one.
    starts += [found.end() for found in re.finditer(r"/vsi\w+/|://", name)]
    ends = [*(found.start() for found in _ENDS.finditer(name)), len(name)]
    for start in set(starts):
        for end in ends:
            part = name[start:end]
            for path in {part, os.path.join(folder, part)}:
                if part and os.path.isfile(path):
                    yield path


def _named_in_file(path: str) -> set[str]:
    """Return the texts of a virtual raster or vector file, some of which are names of files."""
    try:
        with open(path, "rb") as file:
            head = file.read(_HEAD)
            if not any(mark in head for mark in _VIRTUAL):
                return set()
            return _texts((head + file.read()).decode("utf-8", "replace"))
    except OSError:
        return set()


def _texts(xml: str) -> set[str]:
    return {html.unescape(text).strip() for text in _TEXTS.findall(xml)}
