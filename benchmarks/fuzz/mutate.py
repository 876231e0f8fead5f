"""Inputs from inputs: trees of values, lines of text, bytes, and the directories of TIFFs."""

import json
import struct
import tomllib
from collections.abc import Iterator, Sequence
from copy import deepcopy
from random import Random
from typing import Any

import tomli_w

NASTY: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63), 10**30, 0.5, 1e308, -1e308, 5e-324,
    float("nan"), float("inf"), float("-inf"), "", " ", "x" * 5000, "\0", "\x1b[31m", "../..",
    "/etc/passwd", "{id}", "{", "*", "[", "\u202e", "\ud7ff", "nan", "1e999", "EPSG:999999", [],
    {}, [[]], [None], {"": 0}, [0] * 100, {"a": {"a": {}}}, -0.0, "auto", "\n", "'\"`$(x)",
)  # fmt: skip
"""Values that programs stumble over."""

TOKENS = (
    b"", b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"[", b"{", b"]", b"}", b'"', b"'", b"\\u0000",
    b"\\ud800", b"1e999", b"-", b"=", b".", b"\r", b"9" * 400, b"nan", b"inf", b"[" * 2000,
)  # fmt: skip
_LARGEST = 20_000  # nodes of a tree that is still changed
NUMBERS = (0, 1, 2, 3, 7, 255, 256, 32767, 32768, 65535, 2**31 - 1, 2**31, 2**32 - 1)


def mutate_json(data: bytes, others: Sequence[bytes], random: Random) -> bytes:
    """Change some values of a JSON text, or its bytes if it is none."""
    if random.random() < 0.15:
        return mutate_bytes(data, others, random)
    try:
        tree = json.loads(data)
        donor = json.loads(random.choice(others))
        return json.dumps(_mutate_tree(tree, donor, random)).encode()
    except (ValueError, RecursionError):
        return mutate_bytes(data, others, random)


def mutate_toml(data: bytes, others: Sequence[bytes], random: Random) -> bytes:
    """Change some values of a TOML text, or its lines, or its bytes."""
    kind = random.random()
    if kind < 0.15:
        return mutate_bytes(data, others, random)
    if kind < 0.4:
        return _mutate_lines(data, others, random)
    try:
        tree = tomllib.loads(data.decode())
        donor = tomllib.loads(random.choice(others).decode())
        return tomli_w.dumps(_storable(_mutate_tree(tree, donor, random))).encode()
    except (ValueError, RecursionError, TypeError, AttributeError):
        return _mutate_lines(data, others, random)


def mutate_text(data: bytes, others: Sequence[bytes], random: Random) -> bytes:
    """Change JSON as JSON, other texts by lines, and the rest by bytes."""
    if data[:1] in (b"{", b"["):
        return mutate_json(data, others, random)
    if data[:1] == b"<" and random.random() < 0.7:
        return _mutate_lines(data.replace(b"><", b">\n<"), others, random)
    return mutate_bytes(data, others, random)


def mutate_bytes(data: bytes, others: Sequence[bytes], random: Random) -> bytes:
    """Flip, cut, repeat, insert and splice bytes, up to eight times."""
    found = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 4, 8))):
        size = len(found)
        at = random.randrange(size + 1)
        length = min(random.choice((1, 1, 2, 4, 16, 256)), size - at)
        kind = random.randrange(8)
        if kind == 0 and at < size:
            found[at] ^= 1 << random.randrange(8)
        elif kind == 1:
            found[at : at + length] = random.randbytes(length)
        elif kind == 2:
            del found[at : at + length]
        elif kind == 3:
            found[at:at] = random.choice(TOKENS)
        elif kind == 4:
            del found[at:]
        elif kind == 5:
            other = random.choice(others)
            start = random.randrange(len(other) + 1)
            found[at : at + length] = other[start : start + random.choice((length, 64, 4096))]
        elif kind == 6:
            found[at:at] = found[at : at + length]
        else:
            number = struct.pack(random.choice("<>") + "I", random.choice(NUMBERS))
            found[at : at + 4] = number
    return bytes(found)


def mutate_tiff(data: bytes, others: Sequence[bytes], random: Random) -> bytes:
    """Change entries of the first directory of a TIFF, its first bytes, or any bytes."""
    if data[:2] not in (b"II", b"MM") or random.random() < 0.25:
        return mutate_text(data, others, random)
    found = bytearray(data)
    entries = list(_entries(data))
    for _ in range(random.choice((1, 1, 2, 3, 6))):
        if not entries or random.random() < 0.2:
            at = random.randrange(min(len(found), 1024))
            found[at] = random.choice((0, 255, found[at] ^ (1 << random.randrange(8))))
            continue
        start, size, order = random.choice(entries)
        field, code = random.choice(((0, "H"), (2, "H"), (4, "I"), (size - 4, "I"), (8, "H")))
        was = struct.unpack_from(order + code, found, start + field)[0]
        near = was + random.choice((-1, 1, 8, -8))
        number = random.choice((*NUMBERS, near, near, was * 2, random.getrandbits(32)))
        struct.pack_into(order + code, found, start + field, number % (1 << (16, 32)[code == "I"]))
    if random.random() < 0.15:
        del found[random.randrange(len(found)) :]
    return bytes(found)


def _entries(data: bytes) -> Iterator[tuple[int, int, str]]:
    """Yield offset, size and byte order of the entries of the first directory of a TIFF."""
    order = "<" if data[:2] == b"II" else ">"
    try:
        big = struct.unpack_from(order + "H", data, 2)[0] == 43
        offset = struct.unpack_from(order + ("Q" if big else "I"), data, 8 if big else 4)[0]
        count = struct.unpack_from(order + ("Q" if big else "H"), data, offset)[0]
    except struct.error:
        return
    size, start = (20, offset + 8) if big else (12, offset + 2)
    for i in range(min(count, 64)):
        if start + (i + 1) * size <= len(data):
            yield start + i * size, size, order


def _mutate_lines(data: bytes, others: Sequence[bytes], random: Random) -> bytes:
    lines = data.split(b"\n")
    for _ in range(random.choice((1, 1, 2, 4))):
        i = random.randrange(len(lines))
        kind = random.randrange(6)
        if kind == 0:
            lines[i:i] = [random.choice(random.choice(others).split(b"\n"))]
        elif kind == 1:
            lines[i] = lines[i] * random.choice((2, 2, 50))
        elif kind == 2 and len(lines) > 1:
            del lines[i]
        elif kind == 3:
            j = random.randrange(len(lines))
            lines[i], lines[j] = lines[j], lines[i]
        elif kind == 4:
            key, sign, _ = lines[i].partition(b"=")
            value = json.dumps(random.choice(NASTY)).encode()
            lines[i] = key + (sign or b" = ") + value
        else:
            lines[i] = mutate_bytes(lines[i], others, random)
    return b"\n".join(lines)


def _mutate_tree(tree: Any, donor: Any, random: Random) -> Any:
    """Replace, delete, move and repeat nodes of nested dicts and lists."""
    for _ in range(random.choice((1, 1, 1, 2, 3, 6))):
        places = list(_places(tree))
        if not places:
            return deepcopy(random.choice(NASTY))
        if len(places) > _LARGEST:
            return tree
        parent, key = random.choice(places)
        kind = random.randrange(7)
        if kind == 0:
            del parent[key]
        elif kind == 1:
            other, there = random.choice(places)
            parent[key] = json.loads(json.dumps(other[there], default=str))
        elif kind == 2:
            given = [p[k] for p, k in _places(donor)]
            parent[key] = json.loads(json.dumps(random.choice(given), default=str)) if given else 0
        elif kind == 3 and isinstance(parent, dict):
            parent[random.choice(("", "x", "é", "__class__", key + "x", "a.b"))] = parent.pop(key)
        elif kind == 4 and isinstance(parent[key], list):
            parent[key] = parent[key] * random.choice((0, 2, 3, 50 if len(places) < 2000 else 1))
        elif kind == 5 and isinstance(parent[key], int | float):
            parent[key] = parent[key] * random.choice((-1, 0, 2, 1e6, 1e-6)) + random.choice((0, 1))
        else:
            parent[key] = deepcopy(random.choice(NASTY))
    return tree


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict | list):
            for key in list(node if isinstance(node, dict) else range(len(node))):
                yield node, key
                waiting.append(node[key])


def _storable(tree: Any) -> Any:
    """Leave out what TOML has no value for."""
    if isinstance(tree, dict):
        return {k: _storable(v) for k, v in tree.items() if v is not None}
    if isinstance(tree, list):
        return [_storable(v) for v in tree if v is not None]
    return tree
