"""A map in strips, described so that GDAL reads them as one raster."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from cafe_cli.classes import NODATA, ClassTable
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.window import Window
from cafe_cli.raster.writer import class_tags

_BLOCK = 512  # pixels, as in the COG: it decodes no block of a broad strip twice


@dataclass(frozen=True)
class Product:
    """One raster that comes of the strips.

    Parameters
    ----------
    name : str
        What it holds, e.g. ``labels``; the strips' files are named by it.
    path : Path
    count : int
        Bands.
    classes : ClassTable, optional
        Of a label raster: stored with it as by `cafe_cli.raster.writer.create_cog`.
    descriptions : tuple of str
        Of the bands, or none.
    overviews : str, optional
        Resampling of the overviews; ``mode`` with classes and ``average`` without if None.
    """

    name: str
    path: Path
    count: int = 1
    classes: ClassTable | None = None
    descriptions: tuple[str, ...] = ()
    overviews: str | None = None


def block_side(length: int) -> int:
    """Return the side of the blocks of a strip: in TIFFs they are multiples of 16."""
    return min(-(-length // 16) * 16, _BLOCK)


def vrt_of(
    product: Product,
    grid: Grid,
    tags: Mapping[str, str],
    strips: Sequence[tuple[Window, str]],
) -> str:
    """Return a VRT of the strips, each with the name of its file, which lies beside the VRT.

    What no strip covers is nodata. Strips are listed in the order given; they must not overlap.
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
    # Unless told otherwise, GDAL takes four bands for red, green, blue and alpha.
    kind = "Palette" if colors else "Gray" if band == 1 else "Undefined"
    sources = "".join(_source(window, name, band) for window, name in strips)
    return (
        f'<VRTRasterBand dataType="Byte" band="{band}">'
        f"<Description>{escape(described)}</Description><NoDataValue>{NODATA}</NoDataValue>"
        f"<ColorInterp>{kind}</ColorInterp>"
        f"{f'<ColorTable>{table}</ColorTable>' if colors else ''}\n{sources}</VRTRasterBand>\n"
    )


def _source(window: Window, name: str, band: int) -> str:
    """Return a strip as a source; with its size and blocks, GDAL opens it only when it reads it."""
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
