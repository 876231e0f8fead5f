"""Learning curves of a run: ``curves.png``, TensorBoard, and SVG for the report."""

import io
import math
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from xml.etree import ElementTree  # nosec B405  # parses what matplotlib wrote

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from cafe_cli.classes import ClassTable
from cafe_cli.errors import OutputError
from cafe_cli.plotting import add_legend, save_figure
from cafe_cli.system.atomic_write import write_text
from cafe_cli.training.history import HISTORY_FILE, MEAN_SCORES, EpochRecord, columns, group, to_csv

_COLORS = ("#1f77b4", "#d9750d", "#2ca02c", "#d62728", "#9467bd", "#8c6d62", "#d65fb0", "#7f7f7f")
_DASHES = ((), (5, 2), (1.5, 2), (6, 2, 1.5, 2))  # on and off, in widths of the line
_WIDTH = 1.5  # of a line, in points
_DARKEST, _BRIGHTEST = 0.14, 0.29  # relative luminance of a line
_POINTS = 400  # of a line in SVG; a longer one is thinned out, so that the report stays small
_EPOCH = "epoch"
_LOSSES = ("loss", "student", "teacher", "distillation")


@dataclass(frozen=True)
class Line:
    """The values of one quantity over the epochs.

    Attributes
    ----------
    name : str
        Shown in the legend as it is.
    values : sequence of float
        One per epoch, NaN where there is none.
    color : str
        ``#rrggbb``; empty for the next colour of the default ones.
    """

    name: str
    values: Sequence[float]
    color: str = ""


@dataclass(frozen=True)
class Chart:
    """Lines over the epochs, or over another quantity.

    Attributes
    ----------
    title : str
    positions : sequence of float
        The epochs, or the values of `across`; rising.
    lines : sequence of Line
        Each with a value per epoch.
    top : float, optional
        Upper limit of the y axis; by default it follows the values, and the lower limit is 0 or
        below.
    mark : float, optional
        The epoch at which a vertical line is drawn.
    across : str
        The quantity on the x axis.
    """

    title: str
    positions: Sequence[float]
    lines: Sequence[Line]
    top: float | None = None
    mark: float | None = None
    across: str = _EPOCH

    @property
    def is_empty(self) -> bool:
        """Whether no line has a finite value."""
        return not any(math.isfinite(v) for line in self.lines for v in line.values)

    @property
    def description(self) -> str:
        """The chart in words, for readers who cannot see it."""
        ends = [f"{k.name} from {k.values[0]:.3g} to {k.values[-1]:.3g}" for k in self.lines]
        name = "epochs" if self.across == _EPOCH else self.across
        span = f"{name} {self.positions[0]:g} to {self.positions[-1]:g}"
        return f"{self.title}, {span}: {', '.join(ends)}"

    @property
    def styles(self) -> list[tuple[str, tuple[float, ...]]]:
        """Colour and dashes of each line; the dashes (points) tell lines apart without colours."""
        return [
            (
                _ensure_contrast(line.color or _COLORS[i % len(_COLORS)]),
                tuple(_WIDTH * length for length in _DASHES[i % len(_DASHES)]),
            )
            for i, line in enumerate(self.lines)
        ]


def line_of(records: Sequence[EpochRecord], column: str, name: str = "", color: str = "") -> Line:
    """Return a column of the history as a line, with NaN where a record lacks it."""
    values = [record.as_row().get(column, math.nan) for record in records]
    return Line(
        name or column.replace("_", " ").replace("miou", "mIoU").replace("f1", "F1"), values, color
    )


def lines_of(records: Sequence[EpochRecord], wanted: Sequence[str]) -> list[Line]:
    """Return a line for each wanted column that occurs in the history."""
    known = columns(records)
    return [line_of(records, column) for column in wanted if column in known]


def draw_curves(history: Sequence[EpochRecord], classes: ClassTable, path: Path) -> None:
    """Write a PNG of loss, mean scores and the IoU of each class over the epochs."""
    epochs = [record.epoch for record in history]
    ious = [(f"iou_{c.name}", c.name, c.color) for c in classes]
    known = [iou for iou in ious if iou[0] in columns(history)]
    charts = (
        Chart("training loss", epochs, lines_of(history, _LOSSES)),
        Chart("validation", epochs, lines_of(history, MEAN_SCORES), top=1),
        Chart("IoU by class", epochs, [line_of(history, *iou) for iou in known], top=1),
    )
    figure = Figure(figsize=(12, 4), layout="constrained")
    for axes, chart in zip(figure.subplots(1, len(charts)), charts, strict=True):
        _plot(axes, chart)
        axes.set_title(chart.title)
        if chart.top is not None:
            axes.set_ylim(0, chart.top)
        if chart.lines:
            add_legend(
                axes, axes.get_lines(), [line.name for line in chart.lines], fontsize="small"
            )
    save_figure(figure, path)


def to_svg(chart: Chart) -> str:
    """Return the axes and lines of a chart as an SVG element to be embedded in HTML.

    The parts have the CSS classes ``grid``, ``line``, ``dot`` and ``mark``, so that the
    style sheet of the page sets all colours but those of the lines. They have no ids, which would
    have to differ among the charts of a page.
    """
    kept = _thinned(len(chart.positions))
    lines = [Line(k.name, [k.values[i] for i in kept], k.color) for k in chart.lines]
    positions = [chart.positions[i] for i in kept]
    figure = Figure(figsize=(6.4, 3), layout="constrained")
    _plot(figure.subplots(), replace(chart, positions=positions, lines=lines))
    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none"}):
        figure.savefig(file, format="svg")
    drawn = ElementTree.fromstring(file.getvalue())  # nosec B314  # matplotlib's own
    label = {"role": "img", "aria-label": chart.description}
    root = ElementTree.Element("svg", {"viewBox": drawn.attrib["viewBox"], **label})
    _copy_parts(drawn, "", root)
    return ElementTree.tostring(root, encoding="unicode")


def _plot(axes: Axes, chart: Chart) -> None:
    for line, (color, dashes) in zip(chart.lines, chart.styles, strict=True):
        values = [v if math.isfinite(v) else math.nan for v in line.values]
        dots = _lone_points(values)
        axes.plot(
            chart.positions, values, color=color, linewidth=_WIDTH, gid="line", markersize=5,
            linestyle=(0, tuple(length / _WIDTH for length in dashes)) if dashes else "solid",
            marker="o" if dots else "", markevery=dots or None,
        )  # fmt: skip
    if chart.mark is not None:
        axes.axvline(chart.mark, color="black", linewidth=1, linestyle=":", gid="mark")
    if len(chart.positions) > 1:
        axes.set_xlim(chart.positions[0], chart.positions[-1])
    if chart.top is None:
        axes.set_ylim(bottom=min(0, axes.dataLim.y0 if not chart.is_empty else 0))
    else:
        axes.set_ylim(top=chart.top)
    axes.set_xlabel(chart.across)
    if chart.across == _EPOCH:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(axis="x", alpha=0.3)
    axes.grid(axis="y", alpha=0.3, gid="grid")


def _lone_points(values: Sequence[float]) -> list[int]:
    """Return the indices of values between two NaN, which a line plot would not show."""
    known = [False, *(not math.isnan(v) for v in values), False]
    return [i for i in range(len(values)) if known[i : i + 3] == [False, True, False]]


def _thinned(count: int) -> list[int]:
    """Return the indices of at most about 400 evenly spaced points, including the last."""
    step = math.ceil(count / _POINTS)
    return sorted({*range(0, count, step), count - 1})


def _copy_parts(drawn: ElementTree.Element, kind: str, root: ElementTree.Element) -> None:
    """Copy lines, marks and texts of matplotlib's SVG to `root`; `kind` is the id of the group."""
    for element in drawn:
        tag, values = element.tag.rpartition("}")[2], element.attrib
        style = values.get("style", "")
        if tag == "g":
            _copy_parts(element, values.get("id", kind), root)
        elif tag == "path" and kind in ("line", "mark", "grid") and "d" in values:
            path = re.sub(r"(\.\d\d)\d+", r"\1", " ".join(values["d"].split()))
            own = {"style": style} if kind == "line" else {}
            ElementTree.SubElement(root, "path", {"class": kind, "d": path, **own})
        elif tag == "use" and kind == "line":
            place = {"cx": values["x"], "cy": values["y"], "r": "3"}
            ElementTree.SubElement(root, "circle", {"class": "dot", **place, "style": style})
        elif tag == "text":
            anchor = re.search(r"text-anchor: (\w+)", style)
            place = {"x": values["x"], "y": values["y"]}
            place |= {"text-anchor": anchor[1]} if anchor else {}
            ElementTree.SubElement(root, "text", place).text = element.text


def _ensure_contrast(color: str) -> str:
    """Change the luminance of ``#rrggbb`` until white and dark pages contrast with it by 3:1.

    WCAG 2.1, success criterion 1.4.11, requires this of graphics.
    """
    rgb = np.frombuffer(bytes.fromhex(color[1:]), np.uint8) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    luminance = float(linear @ (0.2126, 0.7152, 0.0722))
    if _DARKEST <= luminance <= _BRIGHTEST:
        return color
    # Rounded away from the limit: what is changed once is within the limits for good.
    too_bright = luminance > _BRIGHTEST
    if too_bright:
        linear = linear * (_BRIGHTEST / luminance)
    else:  # mixed with white
        linear = linear + (1 - linear) * (_DARKEST - luminance) / (1 - luminance)
    rgb = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    rounded = np.floor(rgb * 255) if too_bright else np.ceil(rgb * 255)
    return "#" + rounded.clip(0, 255).astype(np.uint8).tobytes().hex()


_NO_PICTURES: Mapping[str, NDArray[np.uint8]] = {}


def write_history(
    folder: Path,
    records: Sequence[EpochRecord],
    classes: ClassTable,
    pictures: Mapping[str, NDArray[np.uint8]] = _NO_PICTURES,
) -> None:
    """Rewrite ``history.csv`` and ``curves.png``, and add the last epoch to TensorBoard.

    Does nothing if ``history.csv`` already holds these records: it is written last.

    Parameters
    ----------
    folder : Path
        Folder of the run.
    records : sequence of EpochRecord
        All epochs, at least one.
    classes : ClassTable
    pictures : dict of ndarray of uint8, (height, width, 3)
        For TensorBoard, by name.

    Raises
    ------
    OutputError
        A file cannot be written.
    """
    path, text = folder / HISTORY_FILE, to_csv(records)
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return
    draw_curves(records, classes, folder / "curves.png")
    _write_tensorboard(folder / "tensorboard", records[-1], pictures)
    write_text(path, text)


def _write_tensorboard(
    folder: Path, record: EpochRecord, pictures: Mapping[str, NDArray[np.uint8]]
) -> None:
    from torch.utils.tensorboard import SummaryWriter

    step = record.step
    try:
        # purge_step hides what a killed run logged for this epoch and later ones.
        with _quiet_threads(), SummaryWriter(str(folder), purge_step=step) as writer:
            for name, value in record.as_row().items():
                if (prefix := group(name)) and math.isfinite(value):
                    writer.add_scalar(f"{prefix}/{name}", value, step)
            for name, picture in pictures.items():
                writer.add_image(f"validation/{name}", picture, step, dataformats="HWC")
    except OSError as error:
        raise OutputError(f"cannot write {folder}: {error.strerror}") from error


@contextmanager
def _quiet_threads() -> Iterator[None]:
    """Print no traceback where a thread cannot write: TensorBoard tells the main thread, too."""
    before = threading.excepthook

    def hook(error: threading.ExceptHookArgs) -> None:
        if not isinstance(error.exc_value, OSError):
            before(error)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before
