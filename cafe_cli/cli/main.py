"""The entry point: the group of commands, and the exit code of every error.

Commands import their engines only when they run, so that ``cafe --help`` does not load torch or
GDAL.
"""

import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click

from cafe_cli import __version__
from cafe_cli.cli.areas import areas
from cafe_cli.cli.check import check
from cafe_cli.cli.completion import completion
from cafe_cli.cli.config import config
from cafe_cli.cli.demo import demo
from cafe_cli.cli.evaluate import evaluate
from cafe_cli.cli.export import export
from cafe_cli.cli.heights import heights
from cafe_cli.cli.help import CafeGroup, option
from cafe_cli.cli.info import info
from cafe_cli.cli.map_report import report
from cafe_cli.cli.mosaic import mosaic
from cafe_cli.cli.predict import predict
from cafe_cli.cli.sample import sample
from cafe_cli.cli.streams import survive_closed_streams
from cafe_cli.cli.suggest import suggest
from cafe_cli.cli.tile import tile
from cafe_cli.cli.train import train
from cafe_cli.cli.vectorize import vectorize
from cafe_cli.errors import CafeError, out_of_memory
from cafe_cli.system.interrupts import EndedBySignalError, end_on_signals
from cafe_cli.system.untrusted import check_name

# How long idle threads of OpenMP spin before they sleep: 1000 rounds are about a microsecond. By
# default they keep spinning, and a training step takes many times as long if another process
# needs the same cores. OpenMP reads the variable when torch is loaded.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
_OUT_OF_MEMORY = (
    "out of memory; lower the batch size or the window (train.crop in training, tile.size)"
)
_ENDED: dict[int, str] = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated"}
if hasattr(signal, "SIGHUP"):
    _ENDED[signal.SIGHUP] = "hung up: the terminal was closed"
_reporting = threading.Lock()
_reported = threading.Event()


def main() -> None:
    """Run ``cafe``; every expected failure is one line on stderr and an exit code."""
    with survive_closed_streams():
        sys.exit(_run())


def _run() -> int:
    try:
        for word in sys.argv[1:]:
            check_name(word)
        with end_on_signals(_report_end), _without_unreadable_messages():
            code: int = cli.main(prog_name="cafe", standalone_mode=False)
    except EndedBySignalError as error:
        code = _end(error.number)
    except (click.Abort, KeyboardInterrupt):
        code = _end(signal.SIGINT)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code = error.exit_code
    except click.ClickException as error:
        code = _fail(_one_line(error), error.exit_code)
    except CafeError as error:
        code = _fail(str(error), error.exit_code)
    except OSError as error:
        code = _fail(f"{error.strerror or error}: {error.filename or ''}".rstrip(": "), 1)
    except (RuntimeError, MemoryError, ModuleNotFoundError) as error:
        if not (message := _explain(error)):
            raise
        code = _fail(message, 1)
    return code


def _explain(error: Exception) -> str:
    """Return the message for an error of a library; empty for an error of this program."""
    if isinstance(error, ModuleNotFoundError) and not str(error.name).startswith("cafe_cli"):
        package = str(error.name).partition(".")[0].replace("_", "-")
        return (
            f"{package} is not installed: pip install {package}; docs/install.md says what works "
            "without it"
        )
    return _OUT_OF_MEMORY if out_of_memory(error) else ""


def _end(number: int) -> int:
    """Say that a signal has ended the command, and return the exit code."""
    with _reporting:
        if not _reported.is_set():
            _fail(_ENDED[number], 128 + number)
            _reported.set()
    return 128 + number


def _report_end(number: int) -> None:
    """Say, unless it was said, that a signal has ended the process.

    Other threads may hold the locks of the console.
    """
    terminal = "\r\x1b[K\x1b[?25h" if sys.stderr.isatty() else ""  # no bar, but the cursor
    text = f"{terminal}Error: {_ENDED[number]}, without waiting for what did not answer\n"
    with _reporting:
        if not _reported.is_set():
            os.write(2, text.encode())
            _reported.set()


@contextmanager
def _without_unreadable_messages() -> Iterator[None]:
    """Say nothing of GDAL's messages that are not UTF-8, since they quote a damaged file.

    rasterio cannot log them from within GDAL, and Cython prints the exception, then the traceback,
    by the two hooks of Python. The error that follows from what GDAL met is raised all the same.
    """
    before = sys.excepthook, sys.unraisablehook

    def print_exception(kind: type[BaseException], value: BaseException, trace: Any) -> None:
        if not issubclass(kind, UnicodeError):
            before[0](kind, value, trace)

    def print_traceback(failed: "sys.UnraisableHookArgs") -> None:
        of_gdal = any(name in str(failed.object) for name in ("rasterio", "pyogrio"))
        if not (issubclass(failed.exc_type, UnicodeError) and of_gdal):
            before[1](failed)

    sys.excepthook, sys.unraisablehook = print_exception, print_traceback
    try:
        yield
    finally:
        sys.excepthook, sys.unraisablehook = before


def _one_line(error: click.ClickException) -> str:
    """Return a usage error of click on one line: the message and where to find help."""
    message = error.format_message().rstrip(".").replace("\n\t", " ")  # of a list of choices
    context = getattr(error, "ctx", None)
    return f"{message}; see {context.command_path} --help" if context else message


def _fail(message: str, code: int) -> int:
    """Print an error, with -v after its traceback, and return the exit code."""
    from cafe_cli.cli.console import print_line, show_error

    if logging.getLogger("cafe").isEnabledFor(logging.DEBUG):
        for line in traceback.format_exc().splitlines():
            print_line("", line)
    show_error(message)
    return code


class _Commands(CafeGroup):
    """The commands; Ctrl-C ends them as other signals do."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command. click would print a blank line at Ctrl-C, also into files and pipes."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            if sys.stderr.isatty():
                click.echo(err=True)  # the terminal shows ^C
            raise EndedBySignalError(signal.SIGINT) from error


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, prog_name="cafe", help="Print the version and exit.")
@option("-v", "--verbose", count=True, show_default=False,
        help="Print more: all details, and tracebacks of errors.")  # fmt: skip
@option("-q", "--quiet", count=True, show_default=False, help="Print errors only.")
def cli(verbose: int, quiet: int) -> None:
    """Make land-cover maps from orthophotos and surface models.

    cafe COMMAND --help shows the options of a command, with examples.
    """
    from cafe_cli.cli.console import set_up_log

    set_up_log(verbose - quiet)


cli.add_section("Make a map", check, tile, train, predict, mosaic)
cli.add_section("Assess and use a map", evaluate, sample, suggest, areas, vectorize, report)
cli.add_section("Data, models and settings", info, heights, export, config)
cli.add_section("Getting started", demo, completion)
