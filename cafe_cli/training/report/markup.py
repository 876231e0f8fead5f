"""HTML and SVG from plain values. Text is escaped unless it is markup already."""

from html import escape
from typing import TypeAlias

VOID = frozenset({"br", "col", "img", "meta", "link"})


class Markup(str):
    """Text that is markup: what `element` returns, and what it takes over as it is."""

    __slots__ = ()


Content: TypeAlias = str | int | float | None
"""A child of an element: markup, text, a number, or nothing."""


def element(tag: str, /, *children: Content, **attributes: Content) -> Markup:
    """Return an element.

    Parameters
    ----------
    tag : str
    *children : str, int, float or None
        `Markup` as it is, everything else as escaped text; None is left out.
    **attributes : str, int, float or None
        ``class_`` is ``class`` and ``stroke_width`` is ``stroke-width``; None is left out.
    """
    told = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{escape(str(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    if tag in VOID:
        return Markup(f"<{tag}{told}>")
    return Markup(f"<{tag}{told}>{join(*children)}</{tag}>")


def join(*parts: Content) -> Markup:
    """Return parts one after the other, text among them escaped."""
    return Markup("".join(_text(part) for part in parts if part is not None))


def _text(part: Content) -> str:
    return part if isinstance(part, Markup) else escape(str(part))
