"""Atomic writing: an output appears under its name only when it is complete and on the disk."""

import ctypes
import errno
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from cafe_cli.errors import ConfigError, OutputError
from cafe_cli.system.interrupts import undo_when_ended
from cafe_cli.system.named_files import files_behind

_SCHEME = re.compile(r"[A-Za-z][\w+.-]*://")
_LITTER = {".DS_Store", "Thumbs.db", "desktop.ini"}
LOCK = ".lock"
"""Name of the lock in a folder."""

_REMOTE = re.compile(r"[A-Za-z][\w+.-]+:[/\\]")  # Path makes s3:/ of s3://; c:/ is a drive


def is_remote(name: str) -> bool:
    """Whether a name is a URL or one of GDAL's virtual files."""
    return name.startswith("/vsi") or _SCHEME.match(name) is not None


def is_file_name(name: str) -> bool:
    """Whether a name can only mean a local file, not a URL or a name that GDAL interprets."""
    path = os.path.splitdrive(name)[1]  # without the C: of Windows
    return not is_remote(name) and ":" not in path.split("/")[0]


def check_output(path: Path, overwrite: bool) -> None:
    """Refuse an output that exists (without `overwrite`) or whose folder cannot be made.

    Raises
    ------
    OutputError
        The output exists, is a device or a pipe, a folder of its path is a file, or it is no path
        on the local disk.
    """
    if str(path).startswith("/vsi") or _REMOTE.match(str(path)):
        raise OutputError(f"{path}: outputs are written to a local disk; copy it there afterwards")
    if path.is_symlink() and not path.exists():
        raise OutputError(f"{path} is a link to nothing; remove it, or name another output")
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OutputError(f"{path} is a device or a pipe and cannot be replaced; name a file")
    if path.exists() and not overwrite:
        raise OutputError(f"{path} exists; pass --overwrite to replace it")
    if not (folder := existing_folder(path)).is_dir():
        raise OutputError(f"{folder} is a file, so {path} cannot be in it; name another output")


def existing_folder(path: Path) -> Path:
    """Return the innermost folder of a path that exists, in which the others would be made."""
    return next(folder for folder in path.absolute().parents if folder.exists())


def check_outputs(
    outputs: Sequence[Path],
    inputs: Sequence[str],
    overwrite: bool,
    side_files: Mapping[Path, Path] | None = None,
) -> None:
    """Refuse outputs that exist, that are also an input, or that are the same file.

    Parameters
    ----------
    outputs : sequence of Path
        Files or folders.
    inputs : sequence of str
        Names as GDAL understands them. Links, archives and virtual files are looked through.
    overwrite : bool
        Whether outputs may exist.
    side_files : mapping, optional
        More files that are written or removed, with the output that each belongs to.

    Raises
    ------
    ConfigError
        An output is an input, or two outputs are one file.
    OutputError
        See `check_output`; or a side file is a folder.
    """
    taken = {_identity(name): "an input" for name in _all_inputs(outputs, inputs, side_files)}
    for path in outputs:
        if (key := _identity(path)) in taken:
            raise ConfigError(f"{path} is {taken[key]} too; choose another name to write to")
        taken[key] = "an output"
        if path.is_dir():
            _refuse_inputs_within(path, inputs)
    for path, owner in (side_files or {}).items():
        if (key := _identity(path)) in taken:
            raise ConfigError(
                f"{path} is {taken[key]}, and is written beside another output, {owner}; choose "
                "another name"
            )
    for path in outputs:
        check_output(path, overwrite)
    for path, owner in (side_files or {}).items():
        if path.is_dir():
            raise OutputError(f"{path} is a folder, but would be written beside {owner}; remove it")
        if path.exists() and not overwrite:
            raise OutputError(
                f"{path} exists, and would be replaced with {owner}; move it away, or pass "
                "--overwrite"
            )
        check_output(path, overwrite)


def _all_inputs(
    outputs: Sequence[Path], inputs: Sequence[str], side_files: Mapping[Path, Path] | None
) -> set[str]:
    """Return the inputs and, if an output could be one of them, the files behind their names."""
    if any(path.is_file() for path in (*outputs, *(side_files or ()))):
        return {*inputs, *files_behind(inputs)}
    return {*inputs}


def _identity(path: Path | str) -> object:
    """Return what two names of one file have in common, be they links."""
    with suppress(OSError, ValueError):
        found = os.stat(path)
        return found.st_dev, found.st_ino
    return os.path.realpath(path)


def _refuse_inputs_within(folder: Path, inputs: Sequence[str]) -> None:
    real = Path(os.path.realpath(folder))
    for path in files_behind(inputs):
        if real in Path(os.path.realpath(path)).parents:
            raise ConfigError(f"{folder} holds the input {path}; choose another folder to write to")


@contextmanager
def replace_atomically(path: Path, overwrite: bool = True) -> Iterator[Path]:
    """Yield a temporary path next to `path` to write to, and rename it to `path` on success.

    Missing folders of the path are made. An exception in the context leaves all as it was. The next
    writer replaces the leftovers of a killed process. Two processes must not write one output at a
    time: commands claim theirs with `cafe_cli.system.output_group.claim_outputs`.

    Raises
    ------
    OutputError
        The output exists, or the disk is full or not writable.
    """
    check_output(path, overwrite)
    temporary = temporary_path(path, "partial")
    with translate_refusals(path), made_folder(temporary.parent):
        remove(temporary)
        try:
            with undo_when_ended(partial(remove, temporary)):
                yield temporary
                sync(temporary)
            rename_over(temporary, path)
            flush(temporary.parent)
        finally:
            remove(temporary)


@contextmanager
def translate_refusals(path: Path) -> Iterator[None]:
    """Turn an OSError of a full or protected disk into an `OutputError` that names `path`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EDQUOT, errno.EFBIG):
            raise OutputError(f"cannot write {path}: {os.strerror(error.errno)}") from error
        raise


@contextmanager
def made_folder(folder: Path) -> Iterator[None]:
    """Make a folder with its parents; an exception in the context removes those that were made."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with undo_when_ended(partial(_remove_empty, missing)):
            yield
    except BaseException:
        _remove_empty(missing)
        raise


def _remove_empty(folders: Sequence[Path]) -> None:
    """Remove folders, the innermost first, up to one that holds something."""
    with suppress(OSError):  # another output may be in it by now
        for folder in folders:
            folder.rmdir()


def file_stamps(paths: Iterable[str]) -> dict[str, tuple[int, int]]:
    """Return size in bytes and modification time in ns of the local files among `paths`."""
    found = {path: os.stat(path) for path in paths if os.path.exists(path)}
    return {path: (stat.st_size, stat.st_mtime_ns) for path, stat in found.items()}


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with replace_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def translate_os_errors(path: Path) -> Iterator[None]:
    """Turn an OSError into an `OutputError` that names `path`."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error


def flush(path: Path) -> None:
    """Flush a file, or the entries of a folder, to the disk (fsync).

    Raises
    ------
    OutputError
        It cannot be written, e.g. because the disk is full.
    """
    if path.is_dir() and sys.platform == "win32":
        return
    with translate_os_errors(path):
        descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sync(path: Path) -> None:
    """Flush a file, or a folder with all that is in it, to the disk.

    A folder of thousands of files is flushed with its whole file system where the C library can do
    that: one call takes less than one for each file.

    Raises
    ------
    OutputError
        It cannot be written.
    """
    if not path.is_dir() or not _sync_file_system(path):
        for folder, _, names in os.walk(path):
            for name in names:
                flush(Path(folder, name))
            flush(Path(folder))
    if not path.is_dir():
        flush(path)


def _sync_file_system(folder: Path) -> bool:
    """Flush the file system of a folder; return whether that is possible and succeeded."""
    if sys.platform != "linux":
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "syncfs"):
        return False
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        return bool(library.syncfs(descriptor) == 0)
    finally:
        os.close(descriptor)


def is_temporary(name: str) -> bool:
    """Whether a name is one of `temporary_path`: a killed process has left it."""
    return re.fullmatch(r"\..+\.(partial|old)(\.\w+)?", name) is not None


def temporary_path(path: Path, kind: str) -> Path:
    """Return a hidden name next to a path; the same for every process."""
    path = path.absolute()
    return path.with_name(f".{path.stem}.{kind}{path.suffix}")


def rename_over(new: Path, path: Path) -> None:
    """Rename `new` to `path`; a folder of that name is moved aside first and removed last."""
    if path.is_dir() and not new.is_dir():
        raise OutputError(f"{path} is a folder; name a file, or remove it first")
    old = temporary_path(path, "old")
    if new.is_dir() and path.exists():
        remove(old)
        path.rename(old)
    try:
        new.replace(path)
    except OSError:
        if old.exists() and not path.exists():
            old.rename(path)
        raise
    remove(old)


def make_empty_folder(folder: Path) -> None:
    """Make a folder, or empty an existing one in place: it may be a link or a mount point.

    A lock in it (`cafe_cli.system.locks.lock_folder`) stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for path in folder.iterdir():
        if path.name != LOCK:
            remove(path)


def find_foreign_file(folder: Path, is_own: Callable[[tuple[str, ...]], bool]) -> Path | None:
    """Return a file in a folder that would be lost with it, or None.

    Parameters
    ----------
    folder : Path
    is_own : callable
        Takes the parts of a file's path in the folder, and tells whether it may be removed. Not
        called for files that file managers leave.
    """
    for place, folders, names in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        for name in sorted([*names, *links]):
            path = Path(place, name).relative_to(folder)
            if name not in _LITTER and not is_own(path.parts):
                return folder / path
    return None


def refuse_others(folder: Path, what: str, is_own: Callable[[tuple[str, ...]], bool]) -> None:
    """Refuse to replace a folder that holds more than `what`, as `find_foreign_file` finds it.

    Raises
    ------
    OutputError
        It holds a file that `is_own` does not know.
    """
    if folder.is_dir() and (foreign := find_foreign_file(folder, is_own)):
        raise OutputError(
            f"{folder} holds {foreign.relative_to(folder)} besides {what}; move it away or name "
            "another folder"
        )


def remove(path: Path) -> None:
    """Remove a file or a folder if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
