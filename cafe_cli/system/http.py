"""What a server says about a file without its content: whether it is still the same file."""

import base64
import os
import urllib.error
import urllib.request
from email.message import Message
from urllib.parse import unquote, urlsplit, urlunsplit


def stamp_url(url: str) -> str | None:
    """Return ETag, time of the last change and size of a file on a server, as one text.

    None if it cannot be known: the server does not answer or says neither of the first two, or the
    answer is made anew for every request.
    """
    stamp = _ask(url)
    if stamp and urlsplit(url).query and _ask(url) != stamp:
        return None
    return stamp


def _ask(url: str) -> str | None:
    # Signed URLs allow GET only, so one byte is asked for in place of HEAD.
    request = urllib.request.Request(_without_user(url), headers={"Range": "bytes=0-0"})
    for name, value in _headers(url):
        request.add_unredirected_header(name, value)  # not for the server it may refer to
    try:
        # http and https only: the URL was found by `raster.input_files._URL`.
        with urllib.request.urlopen(request, timeout=_timeout()) as answer:  # nosec B310  # see above
            return _describe(answer.headers)
    except (OSError, ValueError, urllib.error.URLError):
        return None


def _describe(headers: Message) -> str | None:
    known = [headers[name] for name in ("ETag", "Last-Modified") if headers[name]]
    size = (headers["Content-Range"] or "").rpartition("/")[2] or headers["Content-Length"]
    return ", ".join([*known, f"{size} bytes"]) if known else None


def _without_user(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], fragment=""))


def _headers(url: str) -> list[tuple[str, str]]:
    """Return the headers with which GDAL would be let in."""
    user = unquote(urlsplit(url).netloc.rpartition("@")[0]) or os.environ.get("GDAL_HTTP_USERPWD")
    found = []
    if user:
        found.append(("Authorization", f"Basic {base64.b64encode(user.encode()).decode()}"))
    elif bearer := os.environ.get("GDAL_HTTP_BEARER"):
        found.append(("Authorization", f"Bearer {bearer}"))
    for line in (*os.environ.get("GDAL_HTTP_HEADERS", "").split(","), *_header_file()):
        name, colon, value = line.partition(":")
        if colon:
            found.append((name.strip(), value.strip()))
    return found


def _header_file() -> list[str]:
    try:
        with open(os.environ["GDAL_HTTP_HEADER_FILE"], encoding="utf-8") as file:
            return file.read().splitlines()
    except (KeyError, OSError, UnicodeDecodeError):
        return []


def _timeout() -> float:
    try:
        return float(os.environ["GDAL_HTTP_CONNECTTIMEOUT"])
    except (KeyError, ValueError):
        return 15.0
