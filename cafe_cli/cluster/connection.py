"""Connect to a Dask scheduler, or start workers on this machine."""

import json
import logging
import os
import signal
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from cafe_cli.cluster.job import ClusterOptions
from cafe_cli.errors import CafeError, ConfigError

log = logging.getLogger("cafe")

PATIENCE = 300.0
"""Seconds for which a scheduler that was lost is looked for."""

_PORT = 8786  # of a scheduler, where an address names none
_ANSWER = 6.0  # seconds that a scheduler has to answer
_PAUSE = 0.5  # seconds between attempts to connect
_CLOSING = 10.0  # seconds that local workers have to end; one may be stopped
_KILLED = 0.5  # the same after they were killed
_KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # Windows has one way to end a process
_CHATTY = ("distributed", "tornado", "asyncio", "bokeh")


class Connection:
    """A client of a scheduler, which is opened anew where the scheduler was restarted.

    Parameters
    ----------
    options : ClusterOptions

    Raises
    ------
    ConfigError
        Neither scheduler nor workers are given, or both.
    CafeError
        On entering: Dask is not installed, or no scheduler answers.
    """

    def __init__(self, options: ClusterOptions) -> None:
        if (options.scheduler is None) == (options.workers is None):
            raise ConfigError("give either --scheduler or --workers")
        if options.workers is not None and options.workers < 1:
            raise ConfigError(f"--workers {options.workers} is not above 0")
        self._options = options
        self._held = ExitStack()
        self._cluster: Any = None
        self.client: Any = None

    def __enter__(self) -> "Connection":
        """Connect, or start the workers."""
        try:
            import distributed  # noqa: F401
        except ImportError as error:
            raise CafeError(
                "clusters need Dask, which is not installed: pip install '.[dask]'"
            ) from error
        with ExitStack() as stack:
            stack.enter_context(_quiet())
            if self._options.workers is not None:
                self._cluster = stack.enter_context(_local_cluster(self._options.workers))
            stack.callback(self._close)
            self.client = self._open()
            self._held = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        """Close the client, and end local workers; at once where there was an error."""
        self._held.__exit__(*error)

    @property
    def is_open(self) -> bool:
        """Whether the scheduler was reachable when it was last heard of."""
        return bool(self.client.status == "running")

    @property
    def name(self) -> str:
        """The scheduler, for messages."""
        return self._options.scheduler or "the local scheduler"

    def reopen(self) -> None:
        """Connect again to a scheduler that was lost; what was given to it is gone.

        Raises
        ------
        CafeError
            It does not answer within `PATIENCE` seconds.
        """
        log.warning("%s does not answer; cafe tries again for %d s", self.name, PATIENCE)
        until = time.monotonic() + PATIENCE
        while not self.is_open:
            if self.client.status == "closed":
                with suppress(CafeError):
                    self.client = self._open()
            if time.monotonic() > until:
                raise CafeError(
                    f"{self.name} has not answered for {PATIENCE:.0f} s: start it, and run the "
                    "command again, with --resume if it has that"
                )
            time.sleep(_PAUSE)

    def _open(self) -> Any:
        from distributed import Client

        address: dict[str, Any] = {"address": self._cluster}
        if (scheduler := self._options.scheduler) is not None:
            is_file = os.path.isfile(scheduler)
            address["address"] = _full(_read_address(scheduler) if is_file else scheduler)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of versions that differ: cafe's own are compared
                return Client(**address, timeout=_ANSWER, set_as_default=False)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CafeError(
                f"no Dask scheduler answers at {self.name} within {_ANSWER:.0f} s: start one "
                "(dask scheduler), and name the address that it prints, such as tcp://host:8786"
            ) from error

    def _close(self) -> None:
        if self.client is not None:
            with suppress(Exception):
                self.client.close(timeout=1)


def _read_address(path: str) -> str:
    """Return the address in the file of a scheduler.

    Raises
    ------
    ConfigError
        There is none.
    """
    try:
        return str(json.loads(Path(path).read_text("utf-8"))["address"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"--scheduler {path} is not the file that a scheduler writes (dask scheduler "
            "--scheduler-file FILE): it has no address"
        ) from error


def _full(address: str) -> str:
    """Return an address with its protocol and port.

    Raises
    ------
    ConfigError
        It is none.
    """
    from distributed.comm.addressing import parse_address, parse_host_port
    from distributed.comm.registry import backends

    try:
        protocol, place = parse_address(address)
        if protocol not in ("tcp", "tls"):
            if protocol not in backends:
                raise ValueError(protocol)
            return address
        host, port = parse_host_port(place, _PORT)
        if not host:
            raise ValueError(place)
    except ValueError as error:
        raise ConfigError(
            f"--scheduler {address!r} is neither an address, such as tcp://host:{_PORT}, nor a "
            "scheduler file"
        ) from error
    return f"{protocol}://{host}:{port}"


@contextmanager
def _local_cluster(workers: int) -> Iterator[Any]:
    """Start worker processes, each with one thread that takes tasks."""
    from distributed import LocalCluster

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a port that another dashboard has
        cluster = LocalCluster(
            n_workers=workers, threads_per_worker=1, processes=True,
            dashboard_address="127.0.0.1:8787", silence_logs=logging.CRITICAL,
        )  # fmt: skip
    plural = "s" * (workers > 1)
    log.info("%d worker%s; dashboard: %s", workers, plural, cluster.dashboard_link)
    patience = _CLOSING
    try:
        yield cluster
    except BaseException:  # who presses Ctrl-C does not wait for the end of tasks
        _kill_workers(cluster)
        patience = _KILLED
        raise
    finally:
        with suppress(Exception):
            cluster.close(timeout=patience)


def _kill_workers(cluster: Any) -> None:
    """Kill the processes of local workers, so that none is started again."""
    for nanny in cluster.workers.values():
        nanny.auto_restart = False
        with suppress(OSError, TypeError):  # it has ended already
            os.kill(nanny.pid, _KILL)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Dask's own messages from the terminal, unless with -v."""
    if log.isEnabledFor(logging.DEBUG):
        yield
        return
    loggers = [logging.getLogger(name) for name in _CHATTY]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
