"""Views of rasters as images: colours in place of palette indices, and undeclared masks.

A view is the text of a GDAL virtual raster (VRT). It refers to the raster and copies nothing, and
whatever reads it gets the bands and the mask that the raster should have declared.
"""

import re
import uuid
from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias
from xml.etree import ElementTree  # nosec B405  # parses what GDAL wrote

import numpy as np
import rasterio.shutil
from rasterio._path import _parse_path, _UnparsedPath, _vsi_path
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.io import DatasetReader

from cafe_cli.errors import InputError
from cafe_cli.findings import Finding
from cafe_cli.raster.header import READ_ERRORS, read_descriptions
from cafe_cli.raster.window import spread

Colors: TypeAlias = dict[int, tuple[int, int, int, int]]
ViewKind: TypeAlias = Literal["colors", "mask"]

_MASK_NAME = re.compile(r"(.*(mask|alpha|valid)|band[ _]?\d+|)", re.IGNORECASE)


class ImageView(NamedTuple):
    """How a raster is read as an image.

    Attributes
    ----------
    kind : {"colors", "mask"}
        Palette indices are replaced by their colours; or a band of 0 and 255 is taken for a mask.
    band : int
        The band of the indices or of the mask, from 1.
    xml : str
        The virtual raster.
    """

    kind: ViewKind
    band: int
    xml: str

    def finding(self, name: str) -> Finding:
        """Return what was assumed about the raster of a name."""
        if self.kind == "colors":
            message = f"{name} has a colour table; its indices are replaced by their colours"
            return Finding("note", message, name)
        return Finding(
            "warning",
            f"{name} has a band {self.band} of only 0 and its highest value, which is read as a "
            "mask; to use it as part of the image, name the bands (--bands or scenes.bands)",
            name,
        )


def find_view(dataset: DatasetReader, bands: Sequence[int] | None = None) -> ImageView | None:
    """Return the view through which a raster is an image; None if it is one as it stands.

    Parameters
    ----------
    dataset : DatasetReader
    bands : sequence of int, optional
        Bands that the user named. One of them is never taken for a mask.

    Raises
    ------
    InputError
        The raster is marked as paletted and has no colour table.
    """
    kinds = dataset.colorinterp
    if kinds[0] == ColorInterp.palette and all(k == ColorInterp.alpha for k in kinds[1:]):
        return ImageView("colors", 1, _colors_xml(dataset, _colors(dataset)))
    band = dataset.count
    if band not in (bands or ()) and _may_be_mask(dataset, band) and _is_binary(dataset, band):
        return ImageView("mask", band, _mask_xml(dataset, band))
    return None


def open_view(view: ImageView, name: str) -> DatasetReader:
    """Open the view of a raster, which keeps the name of the raster in messages."""
    reader: type[DatasetReader] = type("_View", (DatasetReader,), {"name": name})
    return reader(_UnparsedPath(view.xml))


def _colors(dataset: DatasetReader) -> Colors:
    try:
        colors: Colors = dataset.colormap(1)
    except ValueError as error:
        raise InputError(
            f"{dataset.name} is marked as paletted, but has no colour table; if it holds grey "
            f"values, declare them: gdal_edit.py -colorinterp_1 gray {dataset.name}"
        ) from error
    return colors


def _may_be_mask(dataset: DatasetReader, band: int) -> bool:
    """Whether nothing in the header says that the last band is a part of the image, or a mask."""
    return (
        (band == 2 or band >= 4)
        and dataset.colorinterp[band - 1] == ColorInterp.undefined
        and ColorInterp.alpha not in dataset.colorinterp
        and dataset.dtypes[band - 1] in ("uint8", "uint16")
        and _MASK_NAME.fullmatch(read_descriptions(dataset)[band - 1]) is not None
    )


def _is_binary(dataset: DatasetReader, band: int) -> bool:
    """Whether 16 windows spread over a band hold nothing but 0 and 255 (65535), and not only 0."""
    highest = np.iinfo(dataset.dtypes[band - 1]).max
    found = False
    for window in spread(dataset.width, dataset.height, 256, 4):
        rows, columns = (window.row, window.bottom), (window.col, window.right)
        try:
            values = dataset.read(band, window=(rows, columns))
        except READ_ERRORS:  # told where the window is read as pixels
            continue
        if not np.isin(values, (0, highest)).all():
            return False
        found = found or bool(values.any())
    return found


def _colors_xml(dataset: DatasetReader, colors: Colors) -> str:
    """Return the view of a raster of indices: red, green and blue, or grey if all colours are."""
    root = _virtual_copy(dataset)
    for name in ("VRTRasterBand", "MaskBand"):
        for part in root.findall(name):
            root.remove(part)
    grey = all(red == green == blue for red, green, blue, _ in colors.values())
    for number, kind in enumerate(("Gray",) if grey else ("Red", "Green", "Blue")):
        table = {index: color[number] for index, color in colors.items()}
        _add_band(root, dataset, kind, table, number + 1)
    declared = set(dataset.mask_flag_enums[0]) & {MaskFlags.per_dataset, MaskFlags.alpha}
    seen = _opaque(dataset, colors)
    if declared:
        _add_band(ElementTree.SubElement(root, "MaskBand"), dataset)
    elif not all(seen.values()):
        _add_band(ElementTree.SubElement(root, "MaskBand"), dataset, table=seen)
    return ElementTree.tostring(root, "unicode")


def _opaque(dataset: DatasetReader, colors: Colors) -> dict[int, int]:
    """Return 255 for the indices that have data, 0 for transparent ones and nodata."""
    # Some programs write 0 for the opacity of every colour.
    transparent = any(alpha for *_, alpha in colors.values())
    return {
        index: 0 if index == dataset.nodata or (transparent and not alpha) else 255
        for index, (*_, alpha) in colors.items()
    }


def _add_band(
    parent: ElementTree.Element,
    dataset: DatasetReader,
    kind: str | None = None,
    table: dict[int, int] | None = None,
    number: int | None = None,
) -> None:
    """Add a band whose values are looked up by index, or the mask of the raster without `table`."""
    band = ElementTree.SubElement(parent, "VRTRasterBand", dataType="Byte")
    if number is not None:
        band.set("band", str(number))
    if kind is not None:
        ElementTree.SubElement(band, "ColorInterp").text = kind
    source = ElementTree.SubElement(band, "ComplexSource" if table else "SimpleSource")
    name = _vsi_path(_parse_path(dataset.name))
    ElementTree.SubElement(source, "SourceFilename", relativeToVRT="0", shared="0").text = name
    ElementTree.SubElement(source, "SourceBand").text = "1" if table else "mask,1"
    if table:
        pairs = ",".join(f"{index}:{value}" for index, value in sorted(table.items()))
        ElementTree.SubElement(source, "LUT").text = pairs


def _virtual_copy(dataset: DatasetReader) -> ElementTree.Element:
    """Return the XML of a virtual raster that is the same as a raster."""
    name = f"/vsimem/{uuid.uuid4().hex}.vrt"
    rasterio.shutil.copy(dataset, name, driver="VRT")
    try:
        with rasterio.open(name) as view:
            text = view.tags(ns="xml:VRT")["xml:VRT"]
            root = ElementTree.fromstring(text)  # nosec B314  # GDAL's own, without entities
    finally:
        rasterio.shutil.delete(name, driver="VRT")
    for source in root.iter("SourceFilename"):
        source.set("shared", "0")  # each thread opens its own
    return root


def _mask_xml(dataset: DatasetReader, mask: int) -> str:
    root = _virtual_copy(dataset)
    band = root.findall("VRTRasterBand")[mask - 1]
    color = band.find("ColorInterp")
    if color is None:
        color = ElementTree.SubElement(band, "ColorInterp")
    color.text = "Alpha"
    return ElementTree.tostring(root, "unicode")
