"""Raster cases: commands in a fork of this process, with their time and memory watched."""

import os
import re
import resource
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import NoReturn

from benchmarks.fuzz.findings import FailedError

SECONDS = 60
MOST_MEMORY = 1_500_000_000  # bytes beyond what this process takes; a healthy case takes 0.2 GB


class Commands:
    """Runs ``cafe check`` and ``cafe predict`` on a case; modules are imported once, before."""

    def __init__(self, folder: Path) -> None:
        import cafe_cli.checks.check
        import cafe_cli.inference.engines.onnx
        import cafe_cli.inference.predict  # noqa: F401
        from cafe_cli.model import model_file
        from tests.support.engines import card_of, tiny_model

        self.folder, self.model = folder, folder / "model.safetensors"
        network = tiny_model()
        model_file.save(self.model, network, card_of(network, gsd=0.5))

    def run(self, data: bytes, random: Random) -> None:
        """Run one command with the case in one role."""
        case = self.folder / ("case.vrt" if data[:4] == b"<VRT" else "case.tif")
        if data.startswith(b"SQLite"):
            case = case.with_suffix(".gpkg")
        case.write_bytes(data)
        image, heights = self.folder / "plain.tif", self.folder / "heights.tif"
        words = random.choice(
            (
                ("check", "--optical", case),
                ("check", "--optical", image, "--elevation", case),
                ("check", "--optical", image, "--labels", case),
                ("predict", "--optical", case, "--elevation", heights),
                ("predict", "--optical", image, "--elevation", case),
            )
        )
        if words[0] == "predict":
            words += ("--model", self.model, "-o", self.folder / "map.tif", "--device", "cpu")
            words += ("--height-kind", "ndsm", "--ignore-mismatch", "--overwrite")
        self._run(list(map(str, words)))

    def _run(self, words: Sequence[str]) -> None:
        said = self.folder / "said.txt"
        sys.stdout.flush()
        child = os.fork()
        if not child:
            _become_cafe(words, said)
        _, status, used = os.wait4(child, 0)
        code = os.waitstatus_to_exitcode(status)
        text = said.read_text(errors="replace")
        command = f"cafe {' '.join(words)}\n{text[-5000:]}"
        if code == -signal.SIGALRM:
            raise FailedError(f"{words[0]}: longer than {SECONDS} s\n{command}")
        if code < 0:
            raise FailedError(f"{words[0]}: ended by {signal.Signals(-code).name}\n{command}")
        if "Traceback" in text or code not in (0, 1, 2, 3):
            last = re.sub(r"0x\w\w|/\S+|\d+", "N", text.strip().rpartition("\n")[2])[:80]
            raise FailedError(f"{words[0]}: code {code}, {last}\n{command}")
        if code and "Error" not in text:
            raise FailedError(f"{words[0]}: code {code} without an error\n{command}")
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        if (grown := (used.ru_maxrss - own) * 1024) > MOST_MEMORY:
            raise FailedError(
                f"{words[0]}: more than {MOST_MEMORY} bytes\n{grown} bytes\n{command}"
            )


def _become_cafe(words: Sequence[str], said: Path) -> NoReturn:
    """Run the command line in this process, a fork, and end it."""
    from cafe_cli.cli import main

    code = 70
    try:
        output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(output, 1)
        os.dup2(output, 2)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(SECONDS)
        sys.argv = ["cafe", "-q", *words]
        main.main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 (printed: it is what is looked for)
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
