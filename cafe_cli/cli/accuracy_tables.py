"""Tables of accuracy with intervals, of samples, and of maps side by side."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from rich.table import Table

from cafe_cli.cli.console import number, plain, print_table, say
from cafe_cli.redaction import redact
from cafe_cli.text import percent

if TYPE_CHECKING:
    from rich.text import Text

    from cafe_cli.evaluation.bootstrap import Intervals
    from cafe_cli.evaluation.detail import DetailedScores
    from cafe_cli.evaluation.metrics import Scores
    from cafe_cli.evaluation.point_scores import PointScores, SampleEstimates
    from cafe_cli.evaluation.sample import Sample
    from cafe_cli.evaluation.stratified import Estimate


def show_strata(found: "Sample") -> None:
    """Print how many points each stratum of a sample has."""
    table = _table("points of the sample", "stratum", ("pixels", "share", "points"))
    total = max(int(found.pixels.sum()), 1)
    for name, pixels, points in zip(
        found.strata, found.pixels.tolist(), found.sampled.tolist(), strict=True
    ):
        table.add_row(plain(name), f"{pixels:,}", percent(pixels / total), f"{points:,}")
    print_table(table)


def show_estimates(found: "PointScores", title: str) -> None:
    """Print what a sample tells of a map, a row per class, or why it tells nothing."""
    if found.unanswered:
        say(
            f"{found.unanswered:,} points have no reference class and are left out; within a "
            "stratum they are assumed to be like the others"
        )
    if found.estimates is None:
        say(
            "no areas and no intervals, because the reference is not a probability sample "
            f"({found.reason}); the scores describe its {found.scores.pixels:,} points, not the "
            "map"
        )
        return
    estimates = found.estimates
    columns = ("user's", "producer's", "IoU", "points")
    table = _table(f"{title}: estimates ± half of their 95 % intervals", "class", columns)
    for name, row in estimates.classes.items():
        shown = (_plus_minus(row[key]) for key in ("users_accuracy", "producers_accuracy", "iou"))
        table.add_row(plain(name), *shown, f"{found.scores.classes[name].pixels:,}")
    print_table(table)
    overall = estimates.overall
    say(
        f"overall accuracy {_plus_minus(overall['overall_accuracy'])}, mean IoU "
        f"{_plus_minus(overall['miou'])}, mean F1 {_plus_minus(overall['mean_f1'])}, estimated "
        f"from {found.scores.pixels:,} points in {len(estimates.strata)} strata"
    )
    _show_areas(estimates)


def show_detail(found: "DetailedScores", with_kappa: bool) -> None:
    """Print the intervals of a map's scores, and its scores by groups."""
    if with_kappa:
        say(f"kappa {number(found.kappa)}")
    if found.intervals is not None:
        _show_intervals(found.intervals)
    for what, groups in (
        ("distance to boundaries", found.by_distance),
        ("height", found.by_height),
    ):
        if groups:
            _show_groups(f"by {what}", groups)


def _show_intervals(found: "Intervals") -> None:
    title = f"95 % intervals, by a bootstrap of {found.blocks} blocks of {found.side} pixels"
    table = _table(title, "class", ("IoU", "user's", "producer's"))
    for name, row in found.classes.items():
        shown = (_from_to(row[key]) for key in ("iou", "precision", "recall"))
        table.add_row(plain(name), *shown)
    print_table(table)
    overall = found.overall
    say(
        f"mean IoU {_from_to(overall['miou'])}, mean F1 {_from_to(overall['mean_f1'])}, "
        f"overall accuracy {_from_to(overall['overall_accuracy'])}"
    )


def _show_groups(title: str, groups: "Mapping[str, Scores]") -> None:
    names = list(next(iter(groups.values())).classes)
    columns = ("pixels", "accuracy", "mIoU", *names)
    table = _table(f"{title}; IoU of classes", "group", map(plain, columns))
    for name, scores in groups.items():
        iou = (number(row.iou) for row in scores.classes.values())
        overall = (number(scores.overall_accuracy), number(scores.miou))
        table.add_row(name, f"{scores.pixels:,}", *overall, *iou)
    print_table(table)


def _from_to(limits: tuple[float, float]) -> str:
    low, high = map(number, limits)
    return low if low == high == "-" else f"{low} to {high}"


def show_differences(differences: Mapping[str, Mapping[str, Any]], first: str) -> None:
    """Print how much other maps score higher than the first, with 95 % intervals."""
    for name, row in differences.items():
        table = _table(f"{name} minus {first}", "score", ("difference", "95 % interval"))
        table.add_row("mean IoU", *_interval(row["miou"]))
        table.add_row("mean F1", *_interval(row["mean_f1"]))
        table.add_row("overall accuracy", *_interval(row["overall_accuracy"]))
        for land, value in row["iou"].items():
            table.add_row(plain(f"IoU of {land}"), *_interval(value))
        print_table(table)


def _interval(value: Mapping[str, float | None]) -> tuple[str, str]:
    if value["estimate"] is None:
        return "-", "-"
    shown = "-"
    if value["low"] is not None and value["high"] is not None:
        shown = f"{value['low']:+.3f} to {value['high']:+.3f}"
    return f"{value['estimate']:+.3f}", shown


def _show_areas(estimates: "SampleEstimates") -> None:
    """Print the areas of the classes, as the map has them and as the points tell them."""
    table = _table("areas by the points", "class", ("mapped ha", "estimated ha", "share"))
    for name, row in estimates.mapped.classes.items():
        mapped = estimated = "-"
        if row.hectares is not None and estimates.square_metres is not None:
            area = estimates.square_metres[name].scaled(1e-4)
            mapped, estimated = f"{row.hectares:,.2f}", f"{area.value:,.2f} ± {area.margin:,.2f}"
        share = estimates.shares[name].scaled(100)
        table.add_row(plain(name), mapped, estimated, f"{share.value:.1f} ± {share.margin:.1f} %")
    print_table(table)


def _plus_minus(value: "Estimate") -> str:
    return f"{number(value.value)} ± {number(value.margin)}"


def _table(title: str, first: str, columns: "Iterable[str | Text]") -> Table:
    table = Table(title=plain(redact(title)))
    table.add_column(first)
    for column in columns:
        table.add_column(column, justify="right")
    return table
