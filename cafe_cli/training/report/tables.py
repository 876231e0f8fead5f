"""Scores as tables for a page: by class, who is taken for whom, how much there is of each."""

import math
from collections.abc import Mapping, Sequence

from cafe_cli.classes import ClassTable
from cafe_cli.evaluation.metrics import Scores
from cafe_cli.splits.assign import Split
from cafe_cli.training.report.markup import Content, Markup, element, join

_MATRIX = 32  # classes; more do not make a table that anyone reads
_LISTED = 20  # mistakes


def table(
    caption: str, columns: Sequence[Content], rows: Sequence[Sequence[Content]], **attributes: str
) -> Markup:
    """Return a table whose first column names its rows, in a box that scrolls sideways.

    A cell that is a ``td`` already is taken as it is.
    """
    head = element("tr", *(element("th", name, scope="col") for name in columns))
    body = [element("tr", _first(row[0]), *map(_cell, row[1:])) for row in rows]
    whole = element(
        "table",
        element("caption", caption),
        element("thead", head),
        element("tbody", *body),
        **attributes,
    )
    return element("div", whole, class_="scroll", role="region", aria_label=caption, tabindex=0)


def _first(name: Content) -> Markup:
    return element("th", name, scope="row")


def _cell(value: Content) -> Markup:
    if isinstance(value, Markup) and value.startswith("<td"):
        return value
    return element("td", value)


def swatch(color: str) -> Markup:
    """Return a small square of a colour ``#rrggbb``."""
    return element("span", class_="swatch", style=f"background:{color}", aria_hidden="true")


def named(classes: ClassTable) -> dict[str, Markup]:
    """Return each class with its colour, by name."""
    return {c.name: join(swatch(c.color), c.name) for c in classes}


def number(value: float, digits: int = 3) -> str:
    """Write a number, or a dash for NaN."""
    return "-" if math.isnan(value) else f"{value:,.{digits}f}"


def percent(part: float, whole: float, digits: int = 1) -> str:
    """Write a share in percent, or a dash where there is nothing to share."""
    return f"{100 * part / whole:.{digits}f} %" if whole else "-"


def by_class(scores: Scores, classes: ClassTable) -> Markup:
    """Return the scores of each class and their means."""
    names = named(classes)
    rows: list[list[Content]] = []
    for c in classes:
        row = scores.classes[c.name]
        name = names[c.name] if c.scored else join(names[c.name], " (in no mean)")
        rows.append(
            [
                name,
                *map(number, (row.iou, row.f1, row.precision, row.recall)),
                number(row.pixels, 0),
            ]
        )
    means = [number(scores.miou), number(scores.mean_f1)]
    rows.append(["mean", *means, "", "", number(scores.pixels, 0)])
    columns = ["class", "IoU", "F1", "user's accuracy", "producer's accuracy", "pixels"]
    told = (
        "User's accuracy is precision, producer's accuracy is recall; pixels are those of the "
        "reference."
    )
    return join(element("p", told), table("Scores by class", columns, rows, class_="numbers"))


def confusion(scores: Scores, classes: ClassTable) -> Markup:
    """Return the confusion matrix, or for more classes than make one the commonest mistakes."""
    if len(classes) > _MATRIX:
        return _mistakes(scores, classes)
    counts = scores.confusion
    names = named(classes)
    columns = [sum(column) for column in zip(*counts, strict=True)]
    rows: list[list[Content]] = []
    for i, (c, row) in enumerate(zip(classes, counts, strict=True)):
        cells = [_share(count, sum(row), i == j) for j, count in enumerate(row)]
        rows.append([names[c.name], *cells, percent(row[i], sum(row)), number(sum(row), 0)])
    right = [percent(counts[i][i], columns[i]) for i in range(len(classes))]
    overall = percent(sum(counts[i][i] for i in range(len(classes))), sum(columns))
    rows.append(["user's accuracy", *right, overall, ""])
    rows.append(["pixels predicted", *(number(n, 0) for n in columns), "", number(sum(columns), 0)])
    heads = ["reference \\ predicted", *names.values(), "producer's accuracy", "pixels"]
    told = (
        "Of the pixels of the class that a row is named after, the share and the number that were "
        "given the class of the column. Where the accuracies meet is the overall accuracy."
    )
    return join(element("p", told), table("Confusion matrix", heads, rows, class_="numbers matrix"))


def _share(count: int, whole: int, right: bool) -> Markup:
    share = count / whole if whole else 0.0
    return element(
        "td",
        element("b", percent(count, whole)),
        element("small", f"{count:,}"),
        class_="right" if right else "wrong",
        style=f"--share:{share:.3f}",
    )


def _mistakes(scores: Scores, classes: ClassTable) -> Markup:
    names, total = named(classes), scores.pixels
    pairs = [
        (count, classes[i].name, classes[j].name)
        for i, row in enumerate(scores.confusion)
        for j, count in enumerate(row)
        if i != j and count
    ]
    rows = [
        [names[truth], names[predicted], number(count, 0), percent(count, total, 2)]
        for count, truth, predicted in sorted(pairs, reverse=True)[:_LISTED]
    ]
    columns = ["reference", "predicted", "pixels", "of all"]
    return table(f"The {len(rows)} commonest mistakes", columns, rows, class_="numbers")


def balance(pixels: Mapping[Split, Mapping[str, int]], classes: ClassTable) -> Markup:
    """Return how much of each class there is in the tiles of each split that has any.

    Parameters
    ----------
    pixels : dict
        By split, by class name and ``unlabelled``.
    """
    splits = {split: counts for split, counts in pixels.items() if any(counts.values())}
    labelled = {s: sum(counts.get(n, 0) for n in classes.names) for s, counts in splits.items()}
    rows: list[list[Content]] = [
        [name, *(_bar(counts.get(c.name, 0), labelled[s]) for s, counts in splits.items())]
        for c, name in zip(classes, named(classes).values(), strict=True)
    ]
    rows.append(["labelled pixels", *(number(n, 0) for n in labelled.values())])
    bare = (percent(c.get("unlabelled", 0), sum(c.values())) for c in splits.values())
    rows.append(["without a label", *bare])
    told = "Shares of the labelled pixels; where tiles overlap, pixels count more than once."
    whole = table("Classes by split", ["class", *splits], rows, class_="numbers balance")
    return join(element("p", told), whole)


def _bar(count: int, whole: int) -> Markup:
    share = count / whole if whole else 0.0
    text = percent(count, whole) if count else "none"
    return element("td", element("i", style=f"--share:{share:.3f}"), text)
