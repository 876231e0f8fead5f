"""The files behind the names of inputs, and whether they have changed.

A name may stand for many files: the sources of a virtual raster (VRT), overviews, masks and other
side files, an archive, the files of a folder, or a file on a server.
"""

import logging
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import PurePath
from typing import TypeAlias
from urllib.parse import unquote
from xml.sax.saxutils import unescape  # nosec B406  # parses nothing

from rasterio._path import _parse_path, _vsi_path

from cafe_cli.errors import InputError
from cafe_cli.raster.formats import open_dataset
from cafe_cli.raster.geodesy import GDAL_ERRORS
from cafe_cli.raster.reader import keep_environment
from cafe_cli.redaction import redact
from cafe_cli.system.atomic_write import is_file_name, is_remote
from cafe_cli.system.http import stamp_url
from cafe_cli.text import printable

log = logging.getLogger("cafe")

Stamp: TypeAlias = tuple[int, int] | str
"""Size in bytes and time of the last change in ns, or for other things a text."""

_WAL = "-wal"  # changes of an SQLite file that are not in it yet
_RASTER_SIDES = (".aux.xml", ".ovr", ".msk", _WAL)
_STEM_SIDES = (
    ".aux", ".hdr", ".prj", ".wld", ".tfw", ".tifw", ".tiffw", ".jgw", ".jpgw", ".pgw", ".pngw",
    ".j2w", ".dbf", ".shx", ".cpg", ".dat", ".map", ".id", ".ind", ".mid", ".gfs", ".xsd", ".csvt",
)  # fmt: skip
_LONGEST = 10_000_000  # bytes of a virtual data source
_VIRTUAL = (b"<VRTDataset", b"<OGRVRTDataSource")
_OGR_SOURCE = re.compile(rb"<SrcDataSource([^>]*)>\s*([^<]+?)\s*</SrcDataSource>", re.IGNORECASE)
_SOURCE = re.compile(  # but for a source that is itself the text of a virtual raster
    rb"<Source(?:Filename|Dataset)\b([^>]*)>\s*(?!&lt;)([^<]+?)\s*</", re.IGNORECASE
)
_STATISTICS = re.compile(
    r'<MDI key="STATISTICS_[^"]*">[^<]*</MDI>|<Histograms>.*?</Histograms>|</?Metadata[^>]*>|\s+',
    re.DOTALL,
)
_EMPTY_SIDE = re.compile(
    r"<PAMDataset/?>|</PAMDataset>|<PAMRasterBandband=\"\d+\"/?>|</PAMRasterBand>"
)
_LAYERS_OF_GDAL = re.compile(
    r"/vsi(?:zip|tar|gzip|7z|rar|cached|sparse|crypt|curl|curl_streaming)/"
)
_URL = re.compile(r"https?://[^\s{}]+")
_ARCHIVED = re.compile(r"(\.(?:zip|tar|tgz|tar\.gz|gz|7z|rar|kmz|shz))/.*", re.IGNORECASE)


@dataclass(frozen=True)
class InputFiles:
    """The files behind the names of inputs, as they were at the start of a run.

    Attributes
    ----------
    stamps : dict
        By file or URL. A side file that is absent has no stamp.
    unknown : tuple of str
        Names of which it cannot be known whether they change: on servers that send neither ETag
        nor Last-Modified, in object stores and databases.
    by_name : dict
        Files and URLs behind each name, without side files; those behind two names count for the
        first.
    """

    stamps: Mapping[str, Stamp]
    unknown: tuple[str, ...]
    by_name: Mapping[str, tuple[str, ...]]
    _absent: tuple[str, ...]
    _in_place: Mapping[str, tuple[int, ...]]

    @classmethod
    def behind(cls, names: Iterable[str]) -> "InputFiles":
        """Find the files behind names, and look at them; no name is opened that cannot be."""
        found: dict[str, bool] = {}
        by_name: dict[str, tuple[str, ...]] = {}
        for name in dict.fromkeys(names):
            before = len(found)
            _collect(name, found)
            by_name[name] = tuple(islice(reversed(found), len(found) - before))
        sides = [side for name, has in found.items() if has for side in _sides_of(name)]
        stamps = restamp([*found, *sides])
        unknown = tuple(n for n in found if not is_file_name(n) and n not in stamps)
        absent = tuple(name for name in sides if name not in stamps)
        return cls(stamps, unknown, by_name, absent, _in_place(stamps))

    def sizes(self, name: str) -> dict[str, int | None]:
        """Return the bytes of the files behind a name; None where nobody says them."""
        return {file: _size_in(self.stamps.get(file)) for file in self.by_name.get(name, ())}

    def described(self) -> dict[str, str]:
        """Return the stamps as texts, by what a message may call each file."""
        found: dict[str, str] = {}
        for name, stamp in self.stamps.items():
            key = f"input {redact(name)}"
            while key in found:  # names that differ in what is not shown
                key += " "
            found[key] = stamp if isinstance(stamp, str) else _describe_stamp(*stamp)
        return found

    def check_unchanged(self) -> None:
        """Check at the end of a run that the files are still what was read.

        Raises
        ------
        InputError
            A file has changed, is gone, or has a new side file.
        """
        now = restamp([*self.stamps, *self._absent])
        lost = [name for name in self.stamps if is_remote(name) and name not in now]
        if lost:
            log.warning("cannot tell whether %s changed in the meantime", lost[0])
        for name in (*self.stamps, *self._absent):
            if name not in lost and now.get(name) != self.stamps.get(name):
                raise _changed(name)
        for name, was in _in_place(self.stamps).items():
            if _differs_in_place(self._in_place[name], was):
                raise _changed(name)


def restamp(names: Iterable[str]) -> dict[str, Stamp]:
    """Return the stamps of files and URLs; those that are absent or cannot be known have none."""
    names = list(names)
    urls = {name: url for name in names if (url := _url_in(name))}
    found: dict[str, Stamp] = {}
    if urls:
        with ThreadPoolExecutor(min(len(urls), 16)) as pool:
            answers = pool.map(stamp_url, urls.values())
            found = {name: stamp for name, stamp in zip(urls, answers, strict=True) if stamp}
    for name in _present([name for name in names if name not in urls]):
        if (stamp := _stamp_file(name)) is not None:
            found[name] = stamp
    return {name: found[name] for name in names if name in found}


def _describe_stamp(size: int, changed: int) -> str:
    """Describe a file by its size in bytes and the time of its last change in ns."""
    second, rest = divmod(changed, 10**9)
    return f"{size} bytes of {datetime.fromtimestamp(second, UTC):%Y-%m-%d %H:%M:%S}.{rest:09}"


def _size_in(stamp: Stamp | None) -> int | None:
    if isinstance(stamp, tuple):
        return stamp[0]
    found = re.search(r", (\d+) bytes$", stamp or "")
    return int(found[1]) if found else None


def _changed(name: str) -> InputError:
    return InputError(
        f"{name} was changed while it was read, so the output would be a mixture; nothing was "
        "written: run again when it no longer changes"
    )


def _stamp_file(name: str) -> Stamp | None:
    """Return the stamp of a local file; None if it is absent, or counts as if it were."""
    try:
        stat = os.stat(name)
        if name.endswith(".aux.xml"):
            return _stamp_side_file(name)
    except (OSError, ValueError):
        return None
    return None if name.endswith(_WAL) and not stat.st_size else (stat.st_size, stat.st_mtime_ns)


def _stamp_side_file(name: str) -> str | None:
    """Stamp a side file of GDAL by its content, without the statistics that viewers write."""
    with open(name, encoding="utf-8", errors="replace") as file:
        rest = _STATISTICS.sub("", file.read())
    return f"crc {zlib.crc32(rest.encode()):08x}" if _EMPTY_SIDE.sub("", rest) else None


def _in_place(names: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """Return what shows that a file was written to and its time was set back."""
    found: dict[str, tuple[int, ...]] = {}
    for name in names:
        if not is_remote(name) and not name.endswith(".aux.xml") and os.path.exists(name):
            stat = os.stat(name)
            found[name] = (stat.st_ctime_ns, stat.st_nlink, stat.st_mode, stat.st_uid, stat.st_gid)
    return found


def _differs_in_place(before: tuple[int, ...], now: tuple[int, ...]) -> bool:
    # Rights, owners and hard links change the first number, too.
    return before[0] != now[0] and before[1:] == now[1:]


def _collect(name: str, found: dict[str, bool], named: bool = True) -> None:
    """Add the files behind a name, and those behind them; True for those that have side files.

    `named` says that the user named it.
    """
    if name in found:
        return
    if is_remote(name) and not name.startswith("vrt://"):
        _collect_remote(name, found)
    elif os.path.isdir(name):
        found |= dict.fromkeys(_files_of(name), False)
    else:
        exists = os.path.isfile(name)
        found |= {name: True} if exists else {}
        inside = _sources_of(name) if exists else _opened(name)
        if not exists and not inside and not is_file_name(name):
            found[name] = False  # a database, for example
        for one in inside:
            _collect(one, found, named=False)
        if named and exists and not name.lower().endswith((".tif", ".tiff")):
            found |= {one: True for one in _opened(name) if os.path.isfile(one)}


def _collect_remote(name: str, found: dict[str, bool]) -> None:
    """Add what is behind a URL, or behind one of GDAL's virtual names."""
    local = None if _url_in(name) else _local_part(_vsi_path(_parse_path(name)))
    found[local or name] = local is not None
    if re.search(r"\.vrt\b", name, re.IGNORECASE):
        for one in _opened(name):
            _collect(one, found, named=False)


def _sources_of(path: str) -> list[str]:
    """Return the sources of a virtual raster or a virtual data source; none of other files."""
    try:
        with open(path, "rb") as file:
            start = file.read(4096)
            if _VIRTUAL[1] in start:
                return list(_named(_OGR_SOURCE, start + file.read(_LONGEST), path))
    except OSError:
        return []
    if _VIRTUAL[0] not in start:
        return []
    if missing := missing_sources(path):
        log.warning("%s", describe_missing(path, missing))
    return _opened(path)


def missing_sources(path: str) -> list[str]:
    """Return the local files that a virtual raster names and that do not exist; none of others.

    GDAL opens a source where it is read for the first time, which may be after hours.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(4096)
            text = start + file.read() if _VIRTUAL[0] in start else b""
    except OSError:
        return []
    sources = dict.fromkeys(_named(_SOURCE, text, path))
    names = [name for name in sources if is_file_name(name)]
    present = set(_present(names))
    return [name for name in names if name not in present]


def describe_missing(path: str, missing: Sequence[str]) -> str:
    """Say which sources of a virtual raster do not exist."""
    others = f" and {len(missing) - 1} more of its sources do" if missing[1:] else " does"
    return f"{path} cannot be read in full: {printable(missing[0])}{others} not exist"


def _opened(name: str) -> list[str]:
    """Return the files that GDAL names for a raster; none if it cannot be opened."""
    keep_environment()
    try:
        with open_dataset(name) as dataset:
            return list(dataset.files)
    except (*GDAL_ERRORS, InputError, OSError, UnicodeError):
        return []


def _named(pattern: re.Pattern[bytes], text: bytes, path: str) -> Iterator[str]:
    """Yield the sources in the text of a virtual file, by a pattern of their options and names."""
    for options, name in pattern.findall(text):
        source = unescape(name.decode(errors="surrogateescape"))
        relative = b'relativeToVRT="1"' in options and is_file_name(source)
        yield os.path.join(os.path.dirname(path), source) if relative else source


def _files_of(folder: str) -> Iterator[str]:
    """Return the files in a folder that is one data set, e.g. a file geodatabase."""
    for where, _, names in os.walk(folder):
        for name in sorted(names):
            if not name.endswith(".lock"):
                yield os.path.join(where, name)


def _sides_of(file: str) -> list[str]:
    """Return the names that side files of a file would have."""
    stem = os.path.splitext(file)[0]
    return [file + s for s in _RASTER_SIDES] + [stem + s for s in _STEM_SIDES]


def _present(names: Sequence[str]) -> list[str]:
    """Return the names of files that exist; folders are listed, which is faster for many files."""
    listed: dict[str, frozenset[str]] = {}
    found = []
    for name in names:
        folder, base = os.path.split(name)
        if folder not in listed:
            try:
                listed[folder] = frozenset(os.listdir(folder or "."))
            except OSError:
                listed[folder] = frozenset()
        if base in listed[folder]:
            found.append(name)
    return found


def _url_in(name: str) -> str | None:
    """Return the URL of the file on a server that a name refers to."""
    if name.startswith("/vsi") and (given := re.search(r"[?&]url=([^&]+)", name)):
        name = unquote(given[1])
    found = _URL.search(name)
    return _ARCHIVED.sub(r"\1", found[0]) if found else None


def _local_part(name: str) -> str | None:
    """Return the local file in one of GDAL's names, such as that of a file in an archive."""
    rest = name
    while found := _LAYERS_OF_GDAL.match(rest):
        rest = rest[found.end() :].strip("{")
    rest = re.sub(r"^/vsisubfile/[\d_]+,", "", rest)
    part = PurePath(rest.replace("}", ""))
    for path in (part, *part.parents):
        if os.path.isfile(path):
            return str(path)
    return None
