"""Geometries as well-known binary (WKB): surfaces that GEOS does not know become polygons."""

import struct

_SIMPLER = {15: 6, 16: 6, 17: 3}
"""Polyhedral surface and TIN: multipolygon; triangle: polygon. Their bytes are laid out alike."""

_COLLECTIONS = (4, 5, 6, 7)  # multipoint, multilinestring, multipolygon, collection


def as_polygons(wkb: bytes) -> bytes:
    """Return a two-dimensional geometry with polygons in place of patches and triangles.

    Curves have to be linear already. Bytes that are no such geometry come back as they are.
    """
    data = bytearray(wkb)
    try:
        _simplify(data, 0)
    except (struct.error, IndexError):
        return wkb
    return bytes(data)


def _simplify(data: bytearray, start: int) -> int:
    """Change the types of the geometry at `start` and of its parts; return where it ends."""
    order = "<" if data[start] else ">"
    code, position = _integer(data, order, start + 1), start + 5
    code = _SIMPLER.get(code, code)
    struct.pack_into(f"{order}I", data, start + 1, code)
    if code == 1:
        return position + 16
    count, position = _integer(data, order, position), position + 4
    if code == 2:
        return position + 16 * count
    for _ in range(count):
        if code == 3:
            position += 4 + 16 * _integer(data, order, position)
        elif code in _COLLECTIONS:
            position = _simplify(data, position)
        else:
            raise IndexError  # a type that is unknown here, so that its length is
    return position


def _integer(data: bytearray, order: str, position: int) -> int:
    (value,) = struct.unpack_from(f"{order}I", data, position)
    return int(value)
