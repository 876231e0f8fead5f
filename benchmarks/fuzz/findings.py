"""What failed, each kind once, and how many cases were run."""

import hashlib
import json
import traceback
from collections import Counter
from pathlib import Path

PACKAGE = "cafe_cli"


class FailedError(Exception):
    """A case broke a promise without an exception of its own."""


class Findings:
    """The folder of a campaign: the case that runs, failures, and counts."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder, self.kind = folder / "findings", kind
        self.folder.mkdir(parents=True, exist_ok=True)
        self.current = folder / f"{kind}.current"
        self._counts = folder / f"{kind}.json"
        found = json.loads(self._counts.read_text()) if self._counts.exists() else {}
        self.counts: Counter[str] = Counter(found)

    def add(self, data: bytes, error: BaseException) -> None:
        """Keep a case that failed, if none of its kind is kept."""
        frames = [f for f in traceback.extract_tb(error.__traceback__) if PACKAGE in f.filename]
        where = f"{Path(frames[-1].filename).name}:{frames[-1].name}" if frames else str(error)[:60]
        self.add_text(f"{type(error).__name__} {where}", data, traceback.format_exception(error))

    def add_text(self, signature: str, data: bytes, lines: list[str]) -> None:
        self.counts["failed"] += 1
        name = f"{self.kind}-{hashlib.sha256(signature.encode()).hexdigest()[:10]}"
        if not (self.folder / f"{name}.bin").exists():
            self.counts["findings"] += 1
            (self.folder / f"{name}.bin").write_bytes(data)
            (self.folder / f"{name}.txt").write_text(f"{signature}\n\n{''.join(lines)}")
            print(f"{self.kind}: {signature} -> {self.folder / name}.bin", flush=True)
        self.save()

    def save(self) -> None:
        self._counts.write_text(json.dumps(self.counts))
