"""The tables of a training report as plain values: class balance, and the history."""

from collections.abc import Mapping, Sequence

from cafe_cli.classes import ClassTable
from cafe_cli.pages.tables import Cell, Row, Table, name_cell, number, percent
from cafe_cli.splits.assign import Split
from cafe_cli.training.history import EpochRecord, columns

_CELLS = 20_000  # cells in the table of all epochs


def balance(pixels: Mapping[Split, Mapping[str, int]], classes: ClassTable) -> Table:
    """Return the share of each class in the tiles of each split that has any.

    Parameters
    ----------
    pixels : dict
        Counts by split, then by class name and ``unlabelled``.
    classes : ClassTable
    """
    splits = {split: counts for split, counts in pixels.items() if any(counts.values())}
    labelled = {s: sum(counts.get(n, 0) for n in classes.names) for s, counts in splits.items()}
    rows: list[Row] = [
        [name_cell(c), *(_bar(counts.get(c.name, 0), labelled[s]) for s, counts in splits.items())]
        for c in classes
    ]
    rows.append(["labelled pixels", *(number(n, 0) for n in labelled.values())])
    bare = (percent(c.get("unlabelled", 0), sum(c.values())) for c in splits.values())
    rows.append(["without a label", *bare])
    return Table(
        "Classes by split",
        ["class", *splits],
        rows,
        "Shares of the labelled pixels; where tiles overlap, pixels count more than once.",
        kind="balance",
    )


def _bar(count: int, whole: int) -> Cell:
    return Cell(percent(count, whole) if count else "none", share=count / whole if whole else 0.0)


def epochs(records: Sequence[EpochRecord]) -> Table | None:
    """Return the history, a row per epoch; None if it is too long for a page."""
    names = columns(records)
    if len(names) * len(records) > _CELLS:
        return None
    rows = [record.as_row() for record in records]
    cells = [[f"{row[name]:.5g}" if name in row else "-" for name in names] for row in rows]
    return Table("The history, one row per epoch", names, cells)
