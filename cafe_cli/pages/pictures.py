"""Pictures inside a page: as data URLs, so that it needs no other file."""

import base64
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cafe_cli.plotting import encode


@dataclass(frozen=True)
class Panel:
    """A picture of a page; `source` is a data URL, `note` follows the title."""

    title: str
    note: str
    source: str
    width: int
    height: int


def make_panel(
    title: str, picture: NDArray[np.uint8], kind: Literal["png", "jpeg"], note: str = ""
) -> Panel:
    """Return a picture (height, width, 3) with its title; ``jpeg`` suits photographs."""
    height, width = picture.shape[:2]
    source = f"data:image/{kind};base64,{base64.b64encode(encode(picture, kind)).decode()}"
    return Panel(title, note, source, width, height)
