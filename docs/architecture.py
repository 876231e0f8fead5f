"""Draw the pictures of architecture.md: python docs/architecture.py [FOLDER].

The rooms are drawn from the layers that import-linter checks (pyproject.toml) and from the map of
packages in CONTRIBUTING.md, so that no picture can say what the code does not do.
"""

import re
import sys
import tomllib
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).parents[1]

WIDTH = 1000  # of the rooms, in units of the pictures; all sizes below are in them
MARGIN, GAP = 16, 8

_STYLE = """
<style>
text { font-family: 'DejaVu Sans', Verdana, sans-serif; font-size: 12px; fill: #1d2b30 }
.name { font-weight: bold; font-size: 13px }
.small { font-size: 10.5px; fill: #44565c }
.box { stroke: #6b8087; rx: 5 }
.line { stroke: #6b8087; stroke-width: 1.5; fill: none }
</style>
"""
_WITH_TORCH, _WITHOUT, _PLAIN = "#fde3c8", "#d4ece6", "#ffffff"


def main() -> None:
    """Write both pictures."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in (("rooms.svg", draw_rooms()), ("pixel.svg", draw_way_of_a_pixel())):
        (folder / name).write_text(picture, encoding="utf-8")


def draw_rooms() -> str:
    """Draw the packages, a row for each layer; imports go downwards only."""
    layers, torch_free = read_layers()
    meanings = read_meanings()
    shapes, top = [], MARGIN
    for layer in layers:
        rooms = []
        width = (WIDTH - 2 * MARGIN - (len(layer) - 1) * GAP) / len(layer)
        lines = [_wrap(meanings.get(name, ""), int(width / 5.9)) for name in layer]
        height = 26 + 14 * max(map(len, lines))
        for number, (name, about) in enumerate(zip(layer, lines, strict=True)):
            left = MARGIN + number * (width + GAP)
            color = _WITHOUT if name in torch_free else _color_of(name)
            rooms += [
                _box(left, top, width, height, color),
                _text(left + 9, top + 17, name, "name"),
            ]
            rooms += [
                _text(left + 9, top + 33 + 14 * row, line, "small")
                for row, line in enumerate(about)
            ]
        shapes += rooms
        top += height + GAP
    legend = [
        (_WITH_TORCH, "needs torch"), (_WITHOUT, "torch is forbidden"),
        (_PLAIN, "needs no torch"),
    ]  # fmt: skip
    for number, (color, label) in enumerate(legend):
        left = MARGIN + 190 * number
        shapes += [_box(left, top + 4, 22, 14, color), _text(left + 30, top + 15, label, "small")]
    words = "imports go downwards only; neighbours in a row do not know each other"
    shapes.append(_text(MARGIN + 570, top + 15, words, "small"))
    return _svg(WIDTH, top + 30, shapes)


def read_layers() -> tuple[list[list[str]], set[str]]:
    """Return the packages of each layer, from the top, and those in which torch is forbidden."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    contracts = tomllib.loads(text)["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    torch_free = {
        module.removeprefix("cafe_cli.").split(".")[0]
        for contract in contracts
        if contract.get("forbidden_modules") == ["torch"]
        for module in contract["source_modules"]
    }
    rows = [[name.strip() for name in re.split(r"[|:]", layer)] for layer in layers]
    return [row for row in rows if row != ["__main__"]], torch_free


def read_meanings() -> dict[str, str]:
    """Return what each package is, from the map of CONTRIBUTING.md."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| (.*?) \|", text, re.MULTILINE)
    found: dict[str, str] = {}
    for names, about in rows:
        plain = re.sub(r"[`*]|\[([^]]*)\]\([^)]*\)", r"\1", about).split("; the only")[0]
        several = re.findall(r"\w+", names)
        parts = plain.split("; ") if len(several) > 1 else [plain]
        found |= dict(zip(several, parts, strict=True))
    return found


def read_stations() -> list[list[str]]:
    """Return name, shape, file and what happens, of each station of a pixel (architecture.md)."""
    text = (Path(__file__).parent / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| \*\*(\w+)\*\* \| (.*?) \| (.*?) \| (.*?) \|$", text, re.MULTILINE)
    return [[re.sub(r"[`*]", "", cell) for cell in row] for row in rows]


def draw_way_of_a_pixel() -> str:
    """Draw the stations of a pixel in `cafe predict`, from the files to the map."""
    shapes, top, height, side = [], MARGIN, 44, 120
    for number, (name, shape, file, about) in enumerate(read_stations()):
        if number:
            middle = MARGIN + side / 2
            shapes.append(f'<path class="line" d="M{middle} {top - 18} v12"/>')
            shapes.append(f'<path d="M{middle - 4} {top - 8} h8 l-4 7 z" fill="#6b8087"/>')
        color = _WITH_TORCH if name in ("network", "blend") else _WITHOUT
        shapes.append(_box(MARGIN, top, side, height, color))
        shapes.append(_text(MARGIN + 12, top + 27, name, "name"))
        shapes.append(_text(MARGIN + side + 16, top + 18, about))
        small = " - ".join(part for part in (shape, file) if part)
        shapes.append(_text(MARGIN + side + 16, top + 35, small, "small"))
        top += height + 18
    shapes.append(_box(MARGIN, top, 22, 14, _WITH_TORCH))
    shapes.append(_text(MARGIN + 30, top + 11, "on the device: GPU or CPU", "small"))
    return _svg(720, top + 30, shapes)


def _color_of(name: str) -> str:
    return _WITH_TORCH if name in ("demo", "training", "inference", "model") else _PLAIN


def _wrap(text: str, length: int) -> list[str]:
    lines = [""]
    for word in text.split():
        if lines[-1] and len(lines[-1]) + 1 + len(word) > length:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    return lines


def _box(left: float, top: float, width: float, height: float, color: str) -> str:
    size = f'x="{left:.1f}" y="{top}" width="{width:.1f}" height="{height}"'
    return f'<rect class="box" {size} fill="{color}"/>'


def _text(left: float, top: float, text: str, kind: str = "") -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<text x="{left:.1f}" y="{top}"{named}>{escape(text)}</text>'


def _svg(width: int, height: int, shapes: list[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}">'
    ground = f'<rect width="{width}" height="{height}" fill="#f7faf9"/>'
    return "\n".join([head + _STYLE + ground, *shapes, "</svg>", ""])


if __name__ == "__main__":
    main()
