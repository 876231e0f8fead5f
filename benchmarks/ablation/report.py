"""Tables and figures of a study, of whatever is finished: OUT/report.md, OUT/TABLE.png.

python -m benchmarks.ablation.report OUT [--table guidance ...]
"""

import argparse
import math
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from benchmarks.ablation import records
from benchmarks.ablation.records import Row, Study
from benchmarks.ablation.variants import TABLES, VARIANTS, Entry, Table
from cafe_cli.errors import CafeError

Place: TypeAlias = tuple[int, int]
"""Fold and seed: what two runs have to share to be a pair."""

PASSES = {
    "d4": "averaged over 8 symmetries",
    "void30": "30 % of the heights missing",
    "void100": "no heights",
}


@dataclass(frozen=True)
class Line:
    """The runs of one row of a table.

    Attributes
    ----------
    title : str
    path : str
        The pass over the validation ground.
    runs : dict of Place to Row
    """

    title: str
    path: str
    runs: Mapping[Place, Row]

    def values(self, key: str = "miou", path: str | None = None) -> dict[Place, float]:
        """Return a score of each run that has it, in percent."""
        found = {}
        for place, row in self.runs.items():
            value = row["scores"].get(path or self.path, {}).get(key)
            if value is not None:
                found[place] = 100.0 * value
        return found

    def class_means(self) -> dict[str, float]:
        """Return the mean IoU of each class over the runs that can say one, in percent."""
        by_class = defaultdict(list)
        for row in self.runs.values():
            for name, iou in row["scores"][self.path]["iou"].items():
                if iou is not None:
                    by_class[name].append(100.0 * iou)
        return {name: statistics.mean(values) for name, values in by_class.items()}

    def pooled(self) -> float:
        """Return the mean IoU, in percent, of all folds' pixels together; mean over the seeds.

        Only seeds with as many folds as any other count.
        """
        by_seed = defaultdict(list)
        for (_, seed), row in self.runs.items():
            by_seed[seed].append(np.array(row["scores"][self.path]["confusion"]))
        most = max(map(len, by_seed.values()))
        whole = [np.sum(matrices, axis=0) for matrices in by_seed.values() if len(matrices) == most]
        return statistics.mean(100.0 * mean_iou(counts) for counts in whole)

    def mean_of(self, key: str) -> float:
        """Return the mean of what runs took."""
        return float(statistics.mean(row[key] for row in self.runs.values()))


def mean_iou(counts: NDArray[np.int64]) -> float:
    """Return the mean IoU of a confusion matrix, over the classes that occur in it."""
    right, union = np.diag(counts), counts.sum(0) + counts.sum(1) - np.diag(counts)
    return float((right[union > 0] / union[union > 0]).mean())


@dataclass(frozen=True)
class Difference:
    """Mean difference of paired runs, its standard error, and the number of pairs."""

    mean: float
    error: float
    pairs: int


def paired(values: Mapping[Place, float], reference: Mapping[Place, float]) -> Difference | None:
    """Compare runs of the same fold and seed; None without any, an error of NaN with one pair."""
    each = [value - reference[place] for place, value in values.items() if place in reference]
    if not each:
        return None
    error = statistics.stdev(each) / math.sqrt(len(each)) if len(each) > 1 else math.nan
    return Difference(statistics.mean(each), error, len(each))


# ------------------------------------------------------------------ what is there


def lines_of(table: Table, rows: Sequence[Row], identities: Mapping[str, str]) -> list[Line]:
    """Return the rows of a table, the reference first; entries of the same runs are one row."""
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in (table.reference, *table.entries):
        groups.setdefault((identities[entry.variant], entry.path), []).append(entry)
    lines = []
    for (identity, path), entries in groups.items():
        runs = {
            (row["fold"], row["seed"]): row
            for row in rows
            if row["identity"] == identity and path in row["scores"]
        }
        lines.append(Line(_title(entries), path, runs))
    return lines


def _title(entries: Sequence[Entry]) -> str:
    first, *others = dict.fromkeys(entry.variant for entry in entries)
    titles = ", ".join(VARIANTS[name].title for name in others)
    path = entries[0].path
    same = f" ({titles})" if titles else ""
    return VARIANTS[first].title + same + (f", {PASSES[path]}" if path in PASSES else "")


def budgets(rows: Iterable[Row]) -> dict[tuple[int, str], list[Row]]:
    """Group runs by what may not be mixed: steps and device."""
    groups = defaultdict(list)
    for row in rows:
        groups[row["steps"], row["device"]].append(row)
    return dict(sorted(groups.items()))


# ------------------------------------------------------------------ words


def markdown(lines: Sequence[Line]) -> Iterator[str]:
    """Write a table of the lines that have runs; the first line is the reference."""
    reference, first = lines[0].values(), lines[0]
    lines = [line for line in lines if line.runs]
    classes = list(dict.fromkeys(name for line in lines for name in line.class_means()))
    sparse = any("sparse" in row["scores"] for line in lines for row in line.runs.values())
    columns = ["", "runs", "mIoU", "difference (pairs)", "pooled", *classes, "OA"]
    columns += ["sparse"] * sparse + ["guided - plain", "s", "CPU s", "M parameters"]
    yield "| " + " | ".join(columns) + " |"
    yield "|---|" + "---:|" * (len(columns) - 1)
    for line in lines:
        values = line.values()
        cells = [line.title, str(len(values)), spread(values.values())]
        cells.append("reference" if line is first else compared(paired(values, reference)))
        cells.append(f"{line.pooled():.1f}")
        means = line.class_means()
        cells += [f"{means[name]:.1f}" if name in means else "" for name in classes]
        cells.append(mean(line.values("overall_accuracy").values()))
        if sparse:
            # The plain pass is the only one that is scored on sparse labels.
            cells.append(mean(line.values(path="sparse").values()) if line.path == "plain" else "")
        gap = paired(line.values(path="guided"), values) if line.path == "plain" else None
        cells.append(compared(gap, pairs=False) if gap else "")
        cells += [f"{line.mean_of('seconds'):.0f}", f"{line.mean_of('cpu_seconds'):.0f}"]
        cells.append(f"{line.mean_of('parameters') / 1e6:.2f}")
        yield "| " + " | ".join(cells) + " |"


def spread(values: Iterable[float]) -> str:
    """Write mean and standard deviation."""
    known = list(values)
    deviation = f" ± {statistics.stdev(known):.1f}" if len(known) > 1 else ""
    return f"{statistics.mean(known):.1f}{deviation}"


def mean(values: Iterable[float]) -> str:
    """Write a mean, nothing without values."""
    known = list(values)
    return f"{statistics.mean(known):.1f}" if known else ""


def compared(difference: Difference | None, pairs: bool = True) -> str:
    """Write a difference with its standard error."""
    if difference is None:
        return "no pair"
    error = "" if math.isnan(difference.error) else f" ± {difference.error:.1f}"
    return f"{difference.mean:+.1f}{error}" + (f" ({difference.pairs})" if pairs else "")


def preface(study: Study, rows: Sequence[Row]) -> Iterator[str]:
    """Say what the numbers are, and where they come from."""
    yield "# Study\n"
    n = study.coarsen
    coarser = f"; {n} x {n} pixels of the image averaged" if n > 1 else ""
    yield (
        f"{len(rows)} runs; {study.folds} strips of the scene, each in turn scored{coarser}. "
        "Scores are in percent, of the last weights, on ground that was not trained on.\n"
    )
    yield "- mIoU: mean ± standard deviation over the runs, folds and seeds together."
    yield (
        "- difference: mean over pairs of runs of the same fold and seed ± its standard error. "
        "Runs on one strip share its ground: with few strips the error is too small."
    )
    yield "- pooled: mean IoU of the pixels of all strips together, mean over the seeds."
    yield "- sparse: mIoU on labels_sparse.tif. OA: overall accuracy."
    yield "- guided - plain: what the path that is shown the labels is better by, ± standard error."
    yield "- s, CPU s: of all training steps of a run, without reading tiles and scoring.\n"
    for key, what in {"code": "states of the code", "commit": "commits"}.items():
        if len(states := {str(row[key]) for row in rows}) > 1:
            yield f"The runs are of {len(states)} {what}: {', '.join(sorted(states))}.\n"


def failures(study: Study, rows: Sequence[Row]) -> Iterator[str]:
    """List runs that crashed and have not been done since."""
    done = records.latest(list(rows))
    for key, row in records.latest(records.read(study.failures_path)).items():
        if key not in done:
            name = f"{row['same'][0]}, fold {row['fold']}, seed {row['seed']}"
            yield f"- failed: {name}, {row['steps']} steps: {row['said']}"


# ------------------------------------------------------------------ the report


def write(study: Study, tables: Iterable[str] = tuple(TABLES)) -> None:
    """Write report.md and a figure for each table of which two rows have runs."""
    rows = list(records.latest(records.read(study.runs_path)).values())
    identities = study.identities()
    text = [*preface(study, rows), *failures(study, rows)]
    for (steps, device), some in budgets(rows).items():
        for name in tables:
            lines = lines_of(TABLES[name], some, identities)
            if sum(bool(line.runs) for line in lines) < 2:
                continue  # nothing to compare
            batch = ", ".join(map(str, sorted({row["batch_size"] for row in some})))
            text += [
                f"\n## {TABLES[name].title}\n",
                f"{steps} steps of {batch} tiles on {device}.\n",
            ]
            text += markdown(lines)
            picture = study.folder / f"{name}_{steps}_{device.replace(' ', '-')}.png"
            draw(lines, f"{TABLES[name].title}: {steps} steps on {device}", picture)
            text.append(f"\n![{TABLES[name].title}]({picture.name})")
    path = study.folder / "report.md"
    path.write_text("\n".join(text) + "\n", encoding="utf-8")
    print(path)


def draw(lines: Sequence[Line], title: str, path: Path) -> None:
    """Draw the runs as dots, a colour for each fold, and the means as bars across them."""
    from matplotlib.figure import Figure

    reference = lines[0].values().values()
    lines = [line for line in lines if line.runs]
    folds = sorted({fold for line in lines for fold, _ in line.runs})
    figure = Figure(figsize=(9, 1.4 + 0.36 * len(lines)), layout="constrained")
    axes: Any = figure.subplots()
    for number, line in enumerate(lines):
        values = line.values()
        for fold in folds:
            shown = [value for (own, _), value in values.items() if own == fold]
            label = f"strip {fold + 1}" if number == 0 else None
            axes.plot(shown, [number] * len(shown), "o", ms=5, c=f"C{fold}", alpha=0.8, label=label)
        middle = statistics.mean(values.values())
        axes.plot([middle] * 2, [number - 0.35, number + 0.35], c="black", lw=2)
    if reference:
        axes.axvline(statistics.mean(reference), c="grey", lw=0.8, ls=":")
    axes.set_yticks(range(len(lines)), [line.title for line in lines])
    axes.invert_yaxis()
    axes.set(xlabel="mean IoU of a run, %", title=title)
    axes.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside right upper", fontsize="small")
    figure.savefig(path, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path, help="folder of the study")
    parser.add_argument("--table", nargs="+", default=list(TABLES), choices=TABLES)
    options = parser.parse_args()
    write(records.load(options.out), options.table)


if __name__ == "__main__":
    try:
        main()
    except CafeError as error:
        sys.exit(str(error))
