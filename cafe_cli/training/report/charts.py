"""Line charts as SVG, to be read in a light and in a dark page and without colours."""

import colorsys
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from cafe_cli.training.report.markup import Markup, element, join

_WIDTH, _HEIGHT = 640, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 12, 12, 40
_POINTS = 400  # of a line; a longer one is thinned out
_COLORS = ("#3b78b5", "#c8702a", "#3d9447", "#b5494b", "#8a6bb0", "#8c6d62", "#c774a9", "#7f7f7f")
_DASHES = (None, "7 3", "2 3", "9 3 2 3")


@dataclass(frozen=True)
class Line:
    """Values over the epochs, NaN where there is none; coloured ``#rrggbb``, or in turn."""

    name: str
    values: Sequence[float]
    color: str = ""


@dataclass(frozen=True)
class _Frame:
    """Data to pixels."""

    first: float
    last: float
    low: float
    high: float

    def x(self, value: float) -> float:
        share = (value - self.first) / ((self.last - self.first) or 1)
        return round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1)

    def y(self, value: float) -> float:
        share = (value - self.low) / ((self.high - self.low) or 1)
        return round(_HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM), 1)


def line_chart(
    title: str,
    epochs: Sequence[float],
    lines: Sequence[Line],
    *,
    top: float | None = None,
    mark: float | None = None,
) -> Markup:
    """Return a figure: lines over the epochs, with a legend; what a column shows on hovering.

    Parameters
    ----------
    title : str
    epochs : sequence of float
        At least one, rising.
    lines : sequence of Line
        As many values each.
    top : float, optional
        Where the scale ends; where the values do if None.
    mark : float, optional
        An epoch to be marked.

    Returns
    -------
    Markup
        Nothing where no line has a value.
    """
    finite = [v for line in lines for v in line.values if math.isfinite(v)]
    if not finite:
        return Markup()
    ticks = _ticks(min(finite) if top else min(0, *finite), top or max(finite))
    frame = _Frame(epochs[0], epochs[-1], ticks[0], ticks[-1])
    chosen = _thinned(len(epochs))
    shown = [epochs[i] for i in chosen]
    thin = [Line(line.name, [line.values[i] for i in chosen], line.color) for line in lines]
    styles = [_style(i, line) for i, line in enumerate(lines)]
    drawing = element(
        "svg",
        *_axes(frame, ticks, shown),
        _mark(frame, mark) if mark is not None else None,
        *(_line(frame, shown, line, style) for line, style in zip(thin, styles, strict=True)),
        *_hovers(frame, shown, thin),
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
        aria_label=_told(title, epochs, lines),
    )
    legend = _legend(lines, styles) if len(lines) > 1 else None
    return element("figure", element("figcaption", title), drawing, legend, class_="chart")


def _thinned(count: int) -> list[int]:
    """Return the places of the points to draw, the last one among them."""
    step = math.ceil(count / _POINTS)
    return sorted({*range(0, count, step), count - 1})


def _ticks(low: float, high: float, about: int = 5) -> list[float]:
    """Return round values, at least two, from below `low` to above `high`."""
    width = max((high - low) / about, abs(high) * 1e-6, 1e-12)
    unit = 10.0 ** math.floor(math.log10(width))
    step = next(unit * f for f in (1, 2, 5, 10) if unit * f >= width * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(step * i, 12) for i in range(first, max(last, first + 1) + 1)]


def _axes(frame: _Frame, ticks: Sequence[float], epochs: Sequence[float]) -> list[Markup]:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    marks = []
    for value in ticks:
        y = frame.y(value)
        marks.append(element("line", x1=_LEFT, x2=right, y1=y, y2=y, class_="grid"))
        marks.append(element("text", f"{value:g}", x=_LEFT - 8, y=y + 4, text_anchor="end"))
    whole = [t for t in _ticks(epochs[0], epochs[-1], 8) if t == int(t)]
    for value in [t for t in whole if epochs[0] <= t <= epochs[-1]]:
        x = frame.x(value)
        marks.append(element("text", f"{value:g}", x=x, y=bottom + 18, text_anchor="middle"))
    middle = (_LEFT + right) / 2
    return [*marks, element("text", "epoch", x=middle, y=_HEIGHT - 4, text_anchor="middle")]


def _mark(frame: _Frame, epoch: float) -> Markup:
    x = frame.x(epoch)
    return element("line", x1=x, x2=x, y1=_TOP, y2=_HEIGHT - _BOTTOM, class_="mark")


def _line(
    frame: _Frame, epochs: Sequence[float], line: Line, style: Mapping[str, str | None]
) -> Markup:
    """Draw a line that is broken where a value is missing; a lone value is a dot."""
    path, alone, last = [], [], False
    known = [math.isfinite(v) for v in line.values]
    for i, (epoch, value) in enumerate(zip(epochs, line.values, strict=True)):
        if known[i]:
            place = f"{frame.x(epoch)} {frame.y(value)}"
            path.append(("L" if last else "M") + place)
            if not last and not any(known[i + 1 : i + 2]):
                alone.append(element("circle", cx=frame.x(epoch), cy=frame.y(value), r=3,
                                     fill=style["stroke"]))  # fmt: skip
        last = known[i]
    return join(element("path", d="".join(path), class_="line", **style), *alone)


def _hovers(frame: _Frame, epochs: Sequence[float], lines: Sequence[Line]) -> list[Markup]:
    """Lay a column over each epoch that tells the values there."""
    centres = [frame.x(epoch) for epoch in epochs]
    edges = [_LEFT, *(sum(pair) / 2 for pair in pairwise(centres)), _WIDTH - _RIGHT]
    columns = []
    for i, (left, right) in enumerate(pairwise(edges)):
        values = [f"{line.name} {line.values[i]:.4g}" for line in lines]
        told = element("title", "\n".join([f"epoch {epochs[i]:g}", *values]))
        place = {"x": f"{left:.1f}", "width": f"{right - left:.1f}"}
        height = _HEIGHT - _TOP - _BOTTOM
        columns.append(element("rect", told, **place, y=_TOP, height=height, class_="column"))
    return columns


def _legend(lines: Sequence[Line], styles: Sequence[Mapping[str, str | None]]) -> Markup:
    entries = [
        element(
            "li",
            element(
                "svg", element("line", x1=0, x2=28, y1=6, y2=6, class_="line", **style),
                viewBox="0 0 28 12", aria_hidden="true",
            ),
            line.name,
        )
        for line, style in zip(lines, styles, strict=True)
    ]  # fmt: skip
    return element("ul", *entries, class_="legend")


def _style(index: int, line: Line) -> dict[str, str | None]:
    return {
        "stroke": _readable(line.color or _COLORS[index % len(_COLORS)]),
        "stroke_dasharray": _DASHES[index % len(_DASHES)],
    }


def _readable(color: str) -> str:
    """Bring a colour to a lightness that is seen on white and on black."""
    red, green, blue = (v / 255 for v in bytes.fromhex(color[1:]))
    hue, light, saturation = colorsys.rgb_to_hls(red, green, blue)
    rgb = colorsys.hls_to_rgb(hue, min(max(light, 0.42), 0.58), saturation)
    return "#" + bytes(round(v * 255) for v in rgb).hex()


def _told(title: str, epochs: Sequence[float], lines: Sequence[Line]) -> str:
    """Say what a chart shows to who cannot see it."""
    ends = [f"{line.name} from {line.values[0]:.3g} to {line.values[-1]:.3g}" for line in lines]
    return f"{title}, epochs {epochs[0]:g} to {epochs[-1]:g}: {', '.join(ends)}"
