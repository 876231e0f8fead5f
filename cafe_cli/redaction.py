"""Names of files as they are printed and written: without passwords, tokens and signatures."""

import os
import re
from typing import Any, TypeVar
from urllib.parse import unquote

T = TypeVar("T")

HIDDEN = "***"
"""Stands for what is left out."""

_USER = re.compile(r"(?<=://)[^/?#\s\"'<>]*@")
_USER_ENCODED = re.compile(r"(?<=%3A%2F%2F)(?:(?!%2F|%3F|%40)[^/?#&\s\"'<>])*%40", re.IGNORECASE)
# A quote may be a part of a query, but not where it ends a name in a sentence.
_QUERY_TEXT = r"""(?:[^\s"'<>{}|\\^`]|'(?=[\w%&=+-]))*"""
_QUERY = re.compile(
    rf"""((?:[A-Za-z][\w+.-]*://|/vsi\w+)[^\s"'<>?#]*)([?#])({_QUERY_TEXT}?)"""
    r"""(?=[:;,.)\]]*(?:[\s"'<>{}|\\^`]|$))"""
)
_URL_OF_OPTIONS = re.compile(r"(?:^|&)url=([^&]*)", re.IGNORECASE)
_KEY = (
    r"(?:\w*(?:passw(?:or)?d|passphrase|pwd|secret|token|api_?key|access_?key)\w*"
    r"|auth|authorization|sas|sig|signature)"
)
_END = r"""(?=[:.)\]]*(?:[\s,;&"'<>]|$))"""
_VALUE = rf"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|\{{[^}}]*\}}|[^\s,;&"'<>]+?{_END})"""
_ASSIGNED = re.compile(rf"\b({_KEY}\s*=\s*){_VALUE}", re.IGNORECASE)
_DATABASE = re.compile(
    r"\b(OCI|ODBC|GeoRaster|GeoR):[^\s@\"'<>=;]*?[/,][^\s\"'<>]*?@", re.IGNORECASE
)
_GEORASTER = re.compile(r"\b(GeoRaster|GeoR):(?!\*\*\*)[^\s,/\"'<>]*,[^\s,\"'<>]*", re.IGNORECASE)
_XML = re.compile(r"(<(UserPwd|Password|ApiKey|AccessToken)>)[^<]*(?=</)", re.IGNORECASE)

# Names of `cafe_cli.system.atomic_write.temporary_path` and of the strips of a map.
_TEMPORARY = re.compile(r"(?<![^/\s])\.([^/\n]+?)\.(?:partial|old)(\.\w+)?(?![^/\s:;,)])")
_STRIP = re.compile(r"(?<![^/\s])\.([^/\n]+?)\.strips(?:/[^/\s]+)?\.tif(?![^\s:;,)])")


def name_outputs(text: str) -> str:
    """Return a message with the names of outputs in place of those of their hidden drafts."""
    if ".partial" not in text and ".old" not in text and ".strips" not in text:
        return text
    return _STRIP.sub(r"\1", _TEMPORARY.sub(r"\1\2", text))


def redact(text: str) -> str:
    """Return a name, or a text with names in it, without what gives access to files.

    ``***`` stands for the user and the password of a URL, for its query and fragment, which may
    hold a token or a signature, and for the passwords of databases. A secret in the path of a URL
    cannot be told from a folder. Text without such names is returned as it is, and so is the text
    that this function returns.
    """
    if not any(mark in text for mark in ("://", "/vsi", "=", ":", "%3", "<")):
        return text
    text = _QUERY.sub(_hide_query, text)
    text = _USER.sub(f"{HIDDEN}@", text)
    text = _USER_ENCODED.sub(f"{HIDDEN}%40", text)
    text = _ASSIGNED.sub(rf"\1{HIDDEN}", text)
    text = _DATABASE.sub(rf"\1:{HIDDEN}@", text)
    text = _GEORASTER.sub(rf"\1:{HIDDEN}", text)
    return _XML.sub(rf"\1{HIDDEN}", text)


def redact_all(values: T) -> T:
    """Return nested mappings and sequences with `redact` applied to every text in them."""
    hidden: Any = values
    if isinstance(values, str):
        hidden = redact(values)
    elif isinstance(values, dict):
        hidden = {redact_all(key): redact_all(value) for key, value in values.items()}
    elif isinstance(values, list | tuple):
        hidden = type(values)([redact_all(value) for value in values])
    return hidden  # type: ignore[no-any-return]


def stem(name: str) -> str:
    """Return `base_name` without its suffix."""
    return os.path.splitext(base_name(name))[0]


def base_name(name: str) -> str:
    """Return the file name in a path or URL, without the query of the URL."""
    options = _URL_OF_OPTIONS.search(name.partition("?")[2]) if name.startswith("/vsi") else None
    url = unquote(options[1]) if options else name
    if "://" in url or url.startswith("/vsi"):
        url = re.split("[?#]", url, maxsplit=1)[0]
    return redact(url).rstrip("/}").rpartition("/")[2]


def _hide_query(found: re.Match[str]) -> str:
    """Hide a query; of the options of ``/vsicurl?``, the URL is named."""
    before, mark, query = found.groups()
    url = _URL_OF_OPTIONS.search(query) if before.startswith("/vsi") else None
    if not query:
        return found[0]
    return f"{before}{mark}{HIDDEN}" + (f"&url={redact(unquote(url[1]))}" if url else "")
