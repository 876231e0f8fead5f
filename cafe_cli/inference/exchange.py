"""How finished strips get from the workers of a cluster to the process that assembles the map."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cafe_cli.cluster.checks import await_file
from cafe_cli.errors import CafeError, ConfigError, OutputError
from cafe_cli.system.atomic_write import is_remote, remove, translate_os_errors


class Exchange(Protocol):
    """A place that workers write files to; a value that can be pickled."""

    @property
    def folder(self) -> Path | None:
        """The folder that all machines have to see, if it is one."""
        ...

    @contextmanager
    def writing(self) -> Iterator[Path]:
        """Yield a folder on the worker; the files in it have arrived when the context ends."""
        ...

    def take(self, name: str, size: int, target: Path) -> None:
        """Move a file of that many bytes from there to a local path.

        Raises
        ------
        OutputError
            The file does not arrive.
        """
        ...

    def clear(self) -> None:
        """Remove what is left there."""
        ...


@dataclass(frozen=True)
class FolderExchange:
    """A folder that all machines see, and that is there.

    Workers do not make it: one that is slow would bring it back when the map is done.

    Attributes
    ----------
    folder : Path
    is_temporary : bool
        Whether it is removed in the end; that of the strips of a map goes with them.
    """

    folder: Path
    is_temporary: bool = False

    @contextmanager
    def writing(self) -> Iterator[Path]:
        """Yield the folder itself: files get their name when they are complete."""
        yield self.folder

    def take(self, name: str, size: int, target: Path) -> None:
        """Rename the file, once it is visible here."""
        path = self.folder / name
        await_file(path, size)
        with translate_os_errors(target):
            try:
                os.replace(path, target)
            except OSError:  # another file system
                shutil.move(path, target)

    def clear(self) -> None:
        """Remove a temporary folder."""
        if self.is_temporary:
            remove(self.folder)


@dataclass(frozen=True)
class BucketExchange:
    """A prefix of an object store: ``s3://bucket/prefix``, ``gs://``, ``az://``.

    Credentials and endpoint are those of the environment (``AWS_ACCESS_KEY_ID``,
    ``AWS_ENDPOINT_URL`` and so on, as obstore reads them). What a slow worker uploads after the end
    stays; a rule that expires objects of the prefix removes it.

    Attributes
    ----------
    url : str
    """

    url: str

    @property
    def folder(self) -> None:
        """Nothing that machines have to share."""

    @contextmanager
    def writing(self) -> Iterator[Path]:
        """Yield a temporary folder, and upload what was written to it."""
        with tempfile.TemporaryDirectory(prefix="cafe-strips-") as folder:
            yield Path(folder)
            store = self._open()
            for path in sorted(Path(folder).iterdir()):
                with _named(self.url):
                    store.put(path.name, path)

    def take(self, name: str, size: int, target: Path) -> None:
        """Download the object and delete it."""
        store = self._open()
        with _named(self.url):
            content = store.get(name).bytes()
        with translate_os_errors(target):
            target.write_bytes(content)
        with _named(self.url):
            store.delete(name)

    def clear(self) -> None:
        """Delete all objects with the prefix."""
        store = self._open()
        with _named(self.url):
            for listed in store.list():
                store.delete([entry["path"] for entry in listed])

    def _open(self) -> Any:
        try:
            from obstore.store import from_url
        except ImportError as error:
            raise CafeError(
                f"{self.url} needs obstore, which is not installed: pip install '.[dask]'"
            ) from error
        with _named(self.url):
            # Plain http is what test servers and MinIO speak.
            plain = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
            return from_url(self.url, client_options={"allow_http": plain})


def exchange_at(scratch: str | None, strips: Path, run: str) -> Exchange:
    """Return the way of the strips of a map; make a folder in the scratch folder.

    Parameters
    ----------
    scratch : str, optional
        Folder or URL for the strips of workers; beside the map if None.
    strips : Path
        Folder of the strips of the map.
    run : str
        Name of this run, which no other has.

    Raises
    ------
    ConfigError
        See `check_scratch`.
    OutputError
        The folder cannot be made.
    """
    if scratch is None:
        return FolderExchange(strips)
    check_scratch(scratch)
    if is_remote(scratch):
        return BucketExchange(f"{scratch.rstrip('/')}/{run}")
    folder = Path(scratch).absolute() / run
    with translate_os_errors(folder):
        folder.mkdir(parents=True)
    return FolderExchange(folder, is_temporary=True)


def check_scratch(scratch: str | None) -> None:
    """Refuse a name of GDAL as a scratch folder.

    Raises
    ------
    ConfigError
    """
    if scratch and scratch.startswith("/vsi"):
        raise ConfigError(f"--scratch {scratch}: write s3://bucket/prefix, or name a folder")


@contextmanager
def _named(url: str) -> Iterator[None]:
    """Turn errors of an object store into one that names it."""
    try:
        yield
    except Exception as error:
        from obstore.exceptions import BaseError

        if not isinstance(error, BaseError | OSError | ValueError):
            raise
        reason = " ".join(str(error).split())[:200]
        raise OutputError(f"cannot use {url} for strips: {reason}") from error
