"""Tables of finished runs: scores of every site and class, and differences between variants."""

import math
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.unseen import records
from benchmarks.unseen.records import Row
from benchmarks.unseen.scoring import mean
from benchmarks.unseen.variants import VARIANTS

_NOTABLE = 0.01  # share of labelled pixels without a prediction that is told


@dataclass(frozen=True)
class Line:
    """The runs of one variant with the same settings, by seed; at least one.

    Attributes
    ----------
    title : str
    runs : dict of int to dict
        Rows of `records` by seed, of the same sites.
    """

    title: str
    runs: Mapping[int, Row]

    def site(self, name: str) -> dict[int, float]:
        """Return the mean IoU of a site by seed, in per cent."""
        return {seed: 100 * row["sites"][name]["miou"] for seed, row in self.runs.items()}

    def mean(self) -> dict[int, float]:
        """Return the mean over the sites by seed, in per cent."""
        return {
            seed: 100 * mean(site["miou"] for site in row["sites"].values())
            for seed, row in self.runs.items()
        }

    def iou(self, site: str, name: str) -> float | None:
        """Return the IoU of a class on a site, mean over the seeds, in per cent; None without."""
        found = [row["sites"][site]["iou"].get(name) for row in self.runs.values()]
        known = [100 * value for value in found if value is not None]
        return mean(known) if known else None

    def seconds(self) -> float:
        """Return the mean time of training."""
        return mean(row["seconds"] for row in self.runs.values())


def write(folder: Path) -> str:
    """Return the report of all finished runs as Markdown, and write it to OUT/report.md."""
    text = "\n".join(markdown(records.read(folder))) + "\n"
    records.write_text(folder / "report.md", text)
    return text


def markdown(rows: Sequence[Row]) -> Iterator[str]:
    """Yield the lines of the report: a section for each choice of training sites."""
    by_train = defaultdict(list)
    for row in rows:
        by_train[row["train"]].append(row)
    for train, group in by_train.items():
        training = ", ".join(group[0]["training"])
        yield f"## Trained on {train}\n"
        if not (sites := worst_first(group)):
            yield f"Trained on {training}: no site is left to be scored.\n"
            continue
        lines = lines_of([row for row in group if set(row["sites"]) == set(sites)])
        yield (
            f"Trained on {training}. Mean IoU in per cent over the classes that a site has, of the "
            "last weights; ± is the standard deviation over seeds.\n"
        )
        yield from table_of_sites(lines, sites)
        yield from table_of_classes(lines, sites)
        yield from table_of_differences(lines, sites)
        yield from notes(group, lines)


def lines_of(rows: Iterable[Row]) -> list[Line]:
    """Group rows by variant and settings, in the order of `VARIANTS`; of doubles, the last."""
    groups: dict[tuple[str, str], dict[int, Row]] = defaultdict(dict)
    for row in rows:
        groups[row["variant"], row["identity"]][row["seed"]] = row
    order = [*VARIANTS]
    names = [variant for variant, _ in groups]
    lines = {
        (variant, identity): Line(
            variant if names.count(variant) == 1 else f"{variant} ({identity})", runs
        )
        for (variant, identity), runs in groups.items()
    }
    known = sorted(lines, key=lambda k: order.index(k[0]) if k[0] in order else len(order))
    return [lines[k] for k in known]


def worst_first(rows: Sequence[Row]) -> list[str]:
    """Return the names of the sites, that with the lowest mean over all runs first."""
    values = defaultdict(list)
    for row in rows:
        for name, site in row["sites"].items():
            values[name].append(site["miou"])
    return sorted(values, key=lambda name: (mean(values[name]), name))


def table_of_sites(lines: Sequence[Line], sites: Sequence[str]) -> Iterator[str]:
    """Yield a row for each variant: its sites, their mean, the worst site and the worst class."""
    yield from _head("", "seeds", *sites, "mean", "worst site", "worst class", "s")
    for line in lines:
        values = {name: line.site(name) for name in sites}
        worst = min(sites, key=lambda name: mean(values[name].values()))
        cells = [line.title, str(len(line.runs)), *(spread(values[n].values()) for n in sites)]
        cells += [spread(line.mean().values()), f"{worst} {mean(values[worst].values()):.1f}"]
        cells += [worst_class(line, sites), f"{line.seconds():.0f}"]
        yield _row(*cells)
    yield ""


def worst_class(line: Line, sites: Sequence[str]) -> str:
    """Name the class with the lowest IoU, its site and the IoU."""
    found = [
        (iou, name, site)
        for site in sites
        for name in _classes([line], site)
        if (iou := line.iou(site, name)) is not None
    ]
    iou, name, site = min(found)
    return f"{name}, {site} {iou:.1f}"


def table_of_classes(lines: Sequence[Line], sites: Sequence[str]) -> Iterator[str]:
    """Yield a row for each site and class, and a column for each variant."""
    yield from _head("site", "class", *(line.title for line in lines))
    for site in sites:
        for name in _classes(lines, site):
            found = [line.iou(site, name) for line in lines]
            yield _row(site, name, *("" if iou is None else f"{iou:.1f}" for iou in found))
    yield ""


def table_of_differences(lines: Sequence[Line], sites: Sequence[str]) -> Iterator[str]:
    """Yield what variants differ from the first by, over pairs of runs with the same seed."""
    if len(lines) < 2:
        return
    first = lines[0]
    yield f"Differences to {first.title}, mean over pairs of the same seed ± its standard error.\n"
    yield from _head("", "pairs", *sites, "mean")
    for line in lines[1:]:
        values = [*(line.site(name) for name in sites), line.mean()]
        reference = [*(first.site(name) for name in sites), first.mean()]
        cells = [paired(a, b) for a, b in zip(values, reference, strict=True)]
        yield _row(line.title, str(len(line.runs.keys() & first.runs.keys())), *cells)
    yield ""


def paired(values: Mapping[int, float], reference: Mapping[int, float]) -> str:
    """Write the mean difference of runs of the same seed and, of several, its standard error."""
    each = [value - reference[seed] for seed, value in values.items() if seed in reference]
    if not each:
        return "no pair"
    error = f" ± {statistics.stdev(each) / math.sqrt(len(each)):.1f}" if len(each) > 1 else ""
    return f"{statistics.mean(each):+.1f}{error}"


def notes(rows: Sequence[Row], lines: Sequence[Line]) -> Iterator[str]:
    """Yield what the variants are, and what to know before the numbers are believed."""
    shown = {row["variant"] for line in lines for row in line.runs.values()}
    for name, variant in VARIANTS.items():
        if name in shown:
            yield f"- {name}: {variant.sentence}"
    for row in rows:
        for name, site in row["sites"].items():
            lost = site["unpredicted"] / max(site["unpredicted"] + site["pixels"], 1)
            if lost > _NOTABLE:
                yield (
                    f"- {row['variant']}, seed {row['seed']}: {100 * lost:.0f} % of the labelled "
                    f"pixels of {name} have no prediction, and no score counts them."
                )
    if sum(len(line.runs) for line in lines) < len(rows):
        yield "- Runs that were scored on fewer sites, or done twice, are left out."
    yield ""


def spread(values: Iterable[float]) -> str:
    """Write mean and, of several values, standard deviation."""
    known = list(values)
    deviation = f" ± {statistics.stdev(known):.1f}" if len(known) > 1 else ""
    return f"{statistics.mean(known):.1f}{deviation}"


def _classes(lines: Sequence[Line], site: str) -> list[str]:
    rows = (row for line in lines for row in line.runs.values())
    return list(dict.fromkeys(name for row in rows for name in row["sites"][site]["iou"]))


def _head(*names: str) -> Iterator[str]:
    yield _row(*names)
    yield "|---|" + "---:|" * (len(names) - 1)


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"
