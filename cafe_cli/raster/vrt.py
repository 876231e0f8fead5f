"""GDAL virtual rasters (VRT) that present the strips of a map as one raster."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from cafe_cli.classes import NODATA, ClassTable
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.window import Window
from cafe_cli.raster.writer import class_tags

_BLOCK = 512  # pixels, as in the COG, so that each block of a strip is decoded once


@dataclass(frozen=True)
class Product:
    """An output raster that is assembled from strips.

    Parameters
    ----------
    name : str
        Name of its content, e.g. ``labels``; part of the names of the strip files.
    path : Path
    count : int
        Bands.
    classes : ClassTable, optional
        Classes of a label raster, stored as by `cafe_cli.raster.writer.create_cog`.
    descriptions : tuple of str
        One for every band, or empty.
    overviews : str, optional
        Resampling of the overviews. If None, ``mode`` with classes and ``average`` without.
    """

    name: str
    path: Path
    count: int = 1
    classes: ClassTable | None = None
    descriptions: tuple[str, ...] = ()
    overviews: str | None = None


def block_side(length: int) -> int:
    """Return the block size of a strip `length` pixels long; TIFF requires multiples of 16."""
    return min(-(-length // 16) * 16, _BLOCK)


def strips_vrt(
    product: Product,
    grid: Grid,
    tags: Mapping[str, str],
    strips: Sequence[tuple[Window, str]],
) -> str:
    """Return the XML of a VRT of `strips`: window, and name of a file in the folder of the VRT.

    Strips must not overlap. Pixels that no strip covers are nodata.
    """
    metadata = {**tags, **class_tags(product.classes)}
    items = "".join(f"<MDI key={quoteattr(k)}>{escape(v)}</MDI>" for k, v in metadata.items())
    bands = "".join(_band(product, band, strips) for band in range(1, product.count + 1))
    place = ", ".join(map(repr, grid.transform.to_gdal()))
    crs = f"<SRS>{escape(grid.crs.to_wkt())}</SRS>" if grid.crs else ""
    return (
        f'<VRTDataset rasterXSize="{grid.width}" rasterYSize="{grid.height}">\n'
        f"{crs}<GeoTransform>{place}</GeoTransform><Metadata>{items}</Metadata>\n"
        f"{bands}</VRTDataset>\n"
    )


def _band(product: Product, band: int, strips: Sequence[tuple[Window, str]]) -> str:
    described = product.descriptions[band - 1] if product.descriptions else ""
    colors = product.classes.colormap if product.classes else {}
    table = "".join(
        '<Entry c1="{}" c2="{}" c3="{}" c4="{}"/>'.format(*colors.get(value, (0, 0, 0, 255)))
        for value in range(256)
    )
    # By default GDAL interprets four bands as red, green, blue and alpha.
    kind = "Palette" if colors else "Gray" if band == 1 else "Undefined"
    sources = "".join(_source(window, name, band) for window, name in strips)
    return (
        f'<VRTRasterBand dataType="Byte" band="{band}">'
        f"<Description>{escape(described)}</Description><NoDataValue>{NODATA}</NoDataValue>"
        f"<ColorInterp>{kind}</ColorInterp>"
        f"{f'<ColorTable>{table}</ColorTable>' if colors else ''}\n{sources}</VRTRasterBand>\n"
    )


def _source(window: Window, name: str, band: int) -> str:
    """Return the source of a strip; as size and blocks are given, GDAL opens the file lazily."""
    size = f'xSize="{window.width}" ySize="{window.height}"'
    sides = block_side(window.width), block_side(window.height)
    blocks = 'BlockXSize="{}" BlockYSize="{}"'.format(*sides)
    return (
        f'<SimpleSource><SourceFilename relativeToVRT="1">{escape(name)}</SourceFilename>'
        f"<SourceBand>{band}</SourceBand>"
        f'<SourceProperties RasterXSize="{window.width}" RasterYSize="{window.height}" '
        f'DataType="Byte" {blocks}/>'
        f'<SrcRect xOff="0" yOff="0" {size}/>'
        f'<DstRect xOff="{window.col}" yOff="{window.row}" {size}/></SimpleSource>\n'
    )
