"""The exceptions that ``cafe`` reports as one line, and their exit codes.

::

    CafeError                 exit code 1
    ├── ConfigError           exit code 2: a setting or an option is wrong
    ├── InputError            an input is missing, unreadable or holds the wrong thing
    │   ├── GridError         rasters that cannot be brought onto one grid
    │   ├── BandError         bands that a raster does not have or a model does not expect
    │   └── LabelError        label values without a class, or no labels at all
    ├── OutputError           the output exists, or cannot be written
    ├── ModelFileError        a file that is not a cafe model, or a damaged one
    ├── TrainingError         training cannot start or go on
    ├── PartialFailureError   exit code 3: some inputs failed, the others are done
    └── RunInterruptedError   exit code 128 + signal: Ctrl-C or a signal; what was done is saved

Every message is one line that says what was wrong, with the numbers, and what to do about it. It
names files without passwords and tokens (see `cafe_cli.redaction`).
"""

import signal
import sys

from cafe_cli.redaction import name_outputs, redact


class CafeError(Exception):
    """Base of every error that ``cafe`` reports as one line."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(name_outputs(redact(message)))


class ConfigError(CafeError):
    """A setting or an option is wrong."""

    exit_code = 2


class InputError(CafeError):
    """An input is missing, unreadable or holds the wrong thing."""


class GridError(InputError):
    """Rasters cannot be brought onto one grid: CRS, extent or overlap."""


class BandError(InputError):
    """A raster lacks the requested bands, or has bands that a model does not expect."""


class LabelError(InputError):
    """Labels hold values without a class, or none that can be used."""


class OutputError(CafeError):
    """The output exists already, or cannot be written."""


class ModelFileError(CafeError):
    """The file is not a cafe model, or it is damaged."""


class TrainingError(CafeError):
    """Training cannot start or continue."""


class PartialFailureError(CafeError):
    """Some inputs failed; the outputs of the others are written."""

    exit_code = 3


class RunInterruptedError(CafeError):
    """Ctrl-C or a signal interrupted the command; what was done so far is saved.

    The exit code is 128 and the number of the signal.
    """

    def __init__(self, message: str, number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


def out_of_memory(error: BaseException) -> bool:
    """Tell whether an error means that the memory of a GPU or of the machine is exhausted."""
    # Some errors have no type of their own: those of GPUs say "out of memory", those of torch on a
    # CPU and of ONNX Runtime "allocate memory".
    types: tuple[type[BaseException], ...] = (MemoryError,)
    if torch := sys.modules.get("torch"):
        types = (*types, torch.cuda.OutOfMemoryError)
    text = str(error)
    return isinstance(error, types) or "out of memory" in text or "allocate memory" in text
