"""Runs cases until time is up, or until one of them ends this process."""

import logging
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from random import Random

from benchmarks.fuzz.findings import FailedError, Findings
from benchmarks.fuzz.mutate import mutate_json, mutate_text, mutate_tiff, mutate_toml

SECONDS = 60  # of a case
MUTATORS = {
    "config": mutate_toml, "tileset": mutate_json, "model": mutate_json, "vector": mutate_text,
    "raster": mutate_tiff,
}  # fmt: skip
_LARGEST = 200_000  # bytes of a case


def work(kind: str, out: Path, folder: Path, minutes: float, seed: int) -> None:
    """Run cases of a kind; `folder` is for their files."""
    warnings.simplefilter("ignore")
    logging.getLogger("cafe").setLevel(logging.CRITICAL)
    findings = Findings(out, kind)
    end = time.monotonic() + minutes * 60
    try:
        import atheris
    except ImportError:
        atheris = None
    if atheris is None or kind == "raster":
        _by_chance(kind, folder, findings, end, seed)
        return
    with atheris.instrument_imports(include=["cafe_cli", "tomllib"]):
        run, seeds = _prepare(kind, folder, seed)
    corpus = out / f"{kind}.corpus"
    corpus.mkdir(exist_ok=True)
    for i, data in enumerate(seeds):
        (corpus / f"seed{i}").write_bytes(data)

    def mutate(data: bytes, size: int, number: int) -> bytes:
        random = Random(number)
        if random.random() < 0.2:
            return bytes(atheris.Mutate(data, size))
        return MUTATORS[kind](data, seeds, random)[:size]

    def one(data: bytes) -> None:
        _guarded(run, data, findings)

    words = [f"-max_total_time={int(minutes * 60) + 1}", f"-seed={seed + 1}", "-rss_limit_mb=4000"]
    words += [f"-max_len={_LARGEST}", "-timeout=0", "-print_final_stats=0", "-verbosity=0"]
    atheris.Setup([sys.argv[0], *words, str(corpus)], one, custom_mutator=mutate)
    atheris.Fuzz()


def _by_chance(kind: str, folder: Path, findings: Findings, end: float, seed: int) -> None:
    run, seeds = _prepare(kind, folder, seed)
    random = Random(seed)
    for data in seeds:
        _guarded(run, data, findings)
    while time.monotonic() < end:
        data = random.choice(seeds)
        for _ in range(random.choice((1, 1, 2, 3))):
            data = MUTATORS[kind](data, seeds, random)
        _guarded(run, data[:_LARGEST], findings)
    findings.save()


def _prepare(kind: str, folder: Path, seed: int) -> tuple[Callable[[bytes], None], list[bytes]]:
    """Return what runs a case, and the seeds; imports the package."""
    from benchmarks.fuzz.seeds import SEEDS

    seeds = SEEDS[kind](folder)
    if kind == "raster":
        from benchmarks.fuzz.commands import Commands

        commands, random = Commands(folder), Random(seed)
        return lambda data: commands.run(data, random), seeds
    from benchmarks.fuzz import targets

    return targets.make(kind, folder), seeds


def _guarded(run: Callable[[bytes], None], data: bytes, findings: Findings) -> None:
    """Run a case; what hangs ends this process by a signal, which the caller's process notices."""
    findings.current.write_bytes(data)
    findings.counts["cases"] += 1
    if findings.counts["cases"] % 20 == 0:
        findings.save()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(SECONDS + 30)
    try:
        run(data)
    except FailedError as error:
        findings.add_text(str(error).partition("\n")[0], data, [str(error)])
    except Exception as error:  # noqa: BLE001 (what is looked for)
        findings.add(data, error)
    finally:
        signal.alarm(0)
