"""Outputs that belong together: claimed by one process, and replaced all or not at all."""

import json
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from cafe_cli.errors import OutputError
from cafe_cli.system.atomic_write import (
    check_output,
    flush,
    made_folder,
    remove,
    rename_over,
    sync,
    temporary_path,
    translate_os_errors,
    translate_refusals,
)
from cafe_cli.system.interrupts import undo_when_ended
from cafe_cli.system.locks import lock_outputs

log = logging.getLogger("cafe")


class _Steps(NamedTuple):
    """What replaces a group: files or folders to rename (from, to), and files to remove."""

    renames: list[tuple[Path, Path]]
    removals: list[Path]


@contextmanager
def claim_outputs(paths: Sequence[Path], overwrite: bool = True) -> Iterator[None]:
    """Lock outputs, and finish what a process left that was killed while it replaced a group.

    Raises
    ------
    OutputError
        Another process writes one of them; or, now that they are locked, one exists after all and
        `overwrite` is not set.
    """
    finish_replacing(paths)
    with lock_outputs(paths):
        for path in paths:
            check_output(path, overwrite)
        yield


def finish_replacing(paths: Sequence[Path]) -> None:
    """Finish what a process left that was killed while it replaced a group, and log that.

    Raises
    ------
    OutputError
        Another process writes one of the group, or a file cannot be written.
    """
    for path in paths:
        if (steps := _read_journal(path)) is None:
            continue
        with lock_outputs([path.absolute(), *(target for _, target in steps.renames)]):
            if (steps := _read_journal(path)) is not None:  # no other process was faster
                _replace(path, steps)
                log.warning("completed what a killed run had started: the replacement of %s", path)


@contextmanager
def replace_together(paths: Sequence[Path], overwrite: bool = True) -> Iterator[dict[Path, Path]]:
    """Yield a temporary path for each path, and rename all of them on success.

    A path whose temporary was not written is removed. If the process is killed between two renames,
    `claim_outputs` of the first path does the rest. An exception leaves all as it was.

    Parameters
    ----------
    paths : sequence of Path
        Files, of which the first is the one that `claim_outputs` will be called with. Missing
        folders are made.
    overwrite : bool

    Raises
    ------
    OutputError
        An output exists, or the disk is full or not writable.
    """
    for path in paths:
        check_output(path, overwrite)
    new = {path: temporary_path(path, "partial") for path in paths}
    with ExitStack() as stack:
        stack.enter_context(translate_refusals(paths[0]))
        for path in paths:
            stack.enter_context(made_folder(path.absolute().parent))
        _remove_all(new.values())
        try:
            with undo_when_ended(partial(_remove_all, new.values())):
                yield new
            steps = _Steps(
                [(new[path], path.absolute()) for path in paths if new[path].exists()],
                [path.absolute() for path in paths if not new[path].exists()],
            )
            for temporary, _ in steps.renames:
                sync(temporary)
            _write_journal(paths[0], steps)
            _replace(paths[0], steps)
        finally:
            if not _journal_path(paths[0]).exists():  # else they are needed to finish
                _remove_all(new.values())


def replace_folders(renames: Sequence[tuple[Path, Path]], removals: Sequence[Path] = ()) -> None:
    """Remove files, and rename complete folders (from, to), all or not at all.

    If the process is killed between two renames, `claim_outputs` of the first target does the rest.

    Raises
    ------
    OutputError
        The disk is full or not writable.
    """
    first = renames[0][1]
    with translate_refusals(first):
        for folder, _ in renames:
            sync(folder)
        moves = [(folder.absolute(), path.absolute()) for folder, path in renames]
        steps = _Steps(moves, [path.absolute() for path in removals])
        _write_journal(first, steps)
        _replace(first, steps)


def _remove_all(paths: Iterable[Path]) -> None:
    for path in paths:
        remove(path)


def _journal_path(path: Path) -> Path:
    return path.absolute().with_name(f".{path.name}.replacing")


def _write_journal(first: Path, steps: _Steps) -> None:
    journal = _journal_path(first)

    def relative(path: Path) -> str:
        return os.path.relpath(path, journal.parent)

    text = json.dumps(
        {
            "renames": [[relative(temporary), relative(path)] for temporary, path in steps.renames],
            "removals": [relative(path) for path in steps.removals],
        }
    )
    draft = journal.with_name(f"{journal.name}.partial")
    try:
        draft.write_text(text, encoding="utf-8")
        sync(draft)
        draft.replace(journal)
    finally:
        remove(draft)
    flush(journal.parent)


def _read_journal(first: Path) -> _Steps | None:
    """Return the steps of an interrupted replacement; None if there was none."""
    journal = _journal_path(first)
    try:
        found: Mapping[str, Any] = json.loads(journal.read_text(encoding="utf-8"))
        folder = journal.parent
        return _Steps(
            [(folder / temporary, folder / path) for temporary, path in found["renames"]],
            [folder / path for path in found["removals"]],
        )
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise OutputError(f"cannot read {journal}: {error}; remove it") from error


def _replace(first: Path, steps: _Steps) -> None:
    """Do the steps, some of which may be done already, and remove the journal."""
    with translate_os_errors(first):
        for path in steps.removals:
            path.unlink(missing_ok=True)
        for temporary, path in steps.renames:
            if temporary.exists():
                rename_over(temporary, path)
            remove(temporary_path(path, "old"))
        for folder in {path.parent for _, path in steps.renames}:
            flush(folder)
        _journal_path(first).unlink()
        flush(_journal_path(first).parent)
