"""Wording of messages: nearest names, lists, shares, sizes and durations."""

import difflib
import re
from collections.abc import Iterable, Sequence

_BYTES = ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters (C0, DEL, C1), line separators, overrides of the direction of writing, and
surrogates, which stand for bytes of a file name that are no UTF-8."""

_DURATION = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")


def closest(name: str, known: Iterable[str], most: int = 1) -> list[str]:
    """Return the known names that are most like a misspelt one, whatever their case.

    Parameters
    ----------
    name : str
        The misspelt name.
    known : iterable of str
        Names to choose from.
    most : int
        Largest number of names to return, the most similar first.
    """
    by_lower = {candidate.lower(): candidate for candidate in known}
    near = difflib.get_close_matches(name.lower(), by_lower, n=most, cutoff=0.5)
    return [by_lower[candidate] for candidate in near]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``did you mean 'epochs'?``, or an empty string if no known name is similar."""
    near = closest(name, known)
    return f"did you mean {near[0]!r}?" if near else ""


def printable(text: str) -> str:
    r"""Replace control characters by escapes such as ``\x1b``: they would command a terminal."""
    return _CONTROL.sub(_escape, text)


def find_control_character(text: str) -> str:
    """Return the first control character of a text as an escape; empty if there is none."""
    found = _CONTROL.search(text)
    return _escape(found) if found else ""


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return found[0].encode("unicode_escape", "surrogatepass").decode()


def short_repr(value: object, most: int = 80) -> str:
    """Return the repr of a value, cut to `most` characters."""
    try:
        text = repr(value)
    except RecursionError:
        return f"a deeply nested {type(value).__name__}"
    return text if len(text) <= most else f"{text[: most - 3]}..."


def list_some(items: Sequence[str], most: int = 8) -> str:
    """Join items by commas and count those beyond the first `most`: ``a, b and 3 more``."""
    rest = len(items) - most
    return ", ".join(items[:most]) + (f" and {rest} more" if rest > 0 else "")


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or the name of its type if it has none."""
    return str(error.args[0] if error.args else type(error).__name__).partition("\n")[0]


def percent(share: float, digits: int | None = None) -> str:
    """Format a share between 0 and 1 in per cent: ``12.5 %``.

    Parameters
    ----------
    share : float
    digits : int, optional
        Decimal places. By default one, but three significant digits below 0.1 % and above 99.9 %,
        so that a share is rounded neither to none nor to all.
    """
    if digits is None:
        return f"{100 * share:.1f} %" if 0.001 <= share <= 0.999 else f"{100 * share:.3g} %"
    return f"{100 * share:.{digits}f} %"


def file_size(count: float) -> str:
    """Format a number of bytes with three significant digits: ``250 kB``, ``1.25 GB``."""
    size, unit = next((size, unit) for size, unit in _BYTES if count >= size or unit == "kB")
    return f"{count / size:.3g} {unit}"


def megabytes(count: float) -> str:
    """Format a number of bytes in whole megabytes, to be compared with others: ``1,250 MB``."""
    return f"{count / 1e6:,.0f} MB"


def megapixels(count: float) -> str:
    """Format a number of pixels in millions: ``0.012 Mpx``, ``16.8 Mpx``, ``10,000 Mpx``."""
    millions = count / 1e6
    return f"{millions:,.0f} Mpx" if millions >= 99.95 else f"{millions:.3g} Mpx"


def duration(seconds: float) -> str:
    """Format a time in the two largest of hours, minutes and seconds: ``1 h 05 min``.

    From 1,000 hours on, in hours only.
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 1000:
        return f"{seconds / 3600:,.0f} h"
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{seconds:.3g} s"


def short_duration(seconds: float) -> str:
    """Format a time in at most five characters: ``9.6s``, ``12m05``, ``3h05``, ``140h``."""
    if seconds < 99.5:
        return f"{seconds:.1f}s" if seconds < 9.95 else f"{seconds:.0f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 100:
        return f"{minutes}m{rest:02d}"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours}h{minutes:02d}" if hours < 100 else f"{hours}h"


def parse_duration(text: str) -> float:
    """Return the seconds of a time such as ``90s``, ``30m`` or ``1d12h``.

    Raises
    ------
    ValueError
        The text is not of this form.
    """
    if not text or not (parts := _DURATION.fullmatch(text)):
        raise ValueError(f"{text!r} is not a time: write 90s, 30m, 2h or 1h30m")
    units = zip(parts.groups(), (86400, 3600, 60, 1), strict=True)
    return float(sum(int(count or 0) * unit for count, unit in units))
