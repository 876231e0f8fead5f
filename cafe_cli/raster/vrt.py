"""GDAL virtual rasters (VRT) that present the strips or blocks of a map as one raster."""

from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape, quoteattr  # nosec B406  # parses nothing

from cafe_cli.classes import NODATA
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.product import Product
from cafe_cli.raster.side_files import legend_elements
from cafe_cli.raster.value_counts import Counts, statistics_tags
from cafe_cli.raster.window import Window
from cafe_cli.raster.writer import class_tags

_BLOCK = 512  # pixels, as in the COG, so that each block of a strip is decoded once
_BLOCK_OF_VRT = 128  # pixels, of a virtual raster


def block_side(length: int) -> int:
    """Return the block size of a strip `length` pixels long; TIFF requires multiples of 16."""
    return min(-(-length // 16) * 16, _BLOCK)


def strips_vrt(
    product: Product,
    grid: Grid,
    tags: Mapping[str, str],
    strips: Sequence[tuple[Window, str]],
    counts: Counts,
    legend: bool = False,
) -> str:
    """Return the XML of a VRT of `strips`: window, and name of a file relative to the VRT.

    Strips must not overlap; they may be virtual rasters. Pixels that no strip covers are nodata.

    Parameters
    ----------
    product : Product
    grid : Grid
    tags : mapping
    strips : sequence of (Window, str)
    counts : ndarray of int, (bands, 256)
        Pixels of the strips by band and value.
    legend : bool
        Whether the VRT, as an output of its own, holds the names and counts of the classes, too:
        GDAL reads no ``.aux.xml`` of a VRT.
    """
    pixels = grid.width * grid.height
    statistics = [statistics_tags(band, pixels) for band in counts]
    named = legend_elements(product.classes, counts) if legend and product.classes else ""
    bands = "".join(
        _band(product, band, strips, statistics[band - 1], named)
        for band in range(1, product.count + 1)
    )
    place = ", ".join(map(repr, grid.transform.to_gdal()))
    crs = f"<SRS>{escape(grid.crs.to_wkt())}</SRS>" if grid.crs else ""
    return (
        f'<VRTDataset rasterXSize="{grid.width}" rasterYSize="{grid.height}">\n'
        f"{crs}<GeoTransform>{place}</GeoTransform>"
        f"{_metadata({**product.tags, **tags, **class_tags(product.classes)})}\n"
        f"{bands}</VRTDataset>\n"
    )


def _metadata(items: Mapping[str, str]) -> str:
    rows = "".join(f"<MDI key={quoteattr(k)}>{escape(v)}</MDI>" for k, v in items.items())
    return f"<Metadata>{rows}</Metadata>"


def _band(
    product: Product,
    band: int,
    strips: Sequence[tuple[Window, str]],
    statistics: Mapping[str, str],
    legend: str,
) -> str:
    described = product.descriptions[band - 1] if product.descriptions else ""
    colors = product.classes.colormap if product.classes else {}
    table = "".join(
        '<Entry c1="{}" c2="{}" c3="{}" c4="{}"/>'.format(*colors.get(value, (0, 0, 0, 255)))
        for value in range(256)
    )
    # By default GDAL interprets four bands as red, green, blue and alpha.
    kind = "Palette" if colors else "Gray" if band == 1 else "Undefined"
    palette = f"<ColorTable>{table}</ColorTable>" if colors else ""
    sources = "".join(_source(window, name, band) for window, name in strips)
    return (
        f'<VRTRasterBand dataType="Byte" band="{band}">'
        f"{_metadata(statistics)}"
        f"<Description>{escape(described)}</Description><NoDataValue>{NODATA}</NoDataValue>"
        f"<UnitType>{escape(product.unit)}</UnitType>"
        f"<ColorInterp>{kind}</ColorInterp>"
        f"{palette}{legend}\n{sources}</VRTRasterBand>\n"
    )


def _source(window: Window, name: str, band: int) -> str:
    """Return the source of a strip; as size and blocks are given, GDAL opens the file lazily."""
    size = f'xSize="{window.width}" ySize="{window.height}"'
    sides = block_side(window.width), block_side(window.height)
    if name.endswith(".vrt"):
        sides = min(window.width, _BLOCK_OF_VRT), min(window.height, _BLOCK_OF_VRT)
    blocks = 'BlockXSize="{}" BlockYSize="{}"'.format(*sides)
    return (
        f'<SimpleSource><SourceFilename relativeToVRT="1">{escape(name)}</SourceFilename>'
        f"<SourceBand>{band}</SourceBand>"
        f'<SourceProperties RasterXSize="{window.width}" RasterYSize="{window.height}" '
        f'DataType="Byte" {blocks}/>'
        f'<SrcRect xOff="0" yOff="0" {size}/>'
        f'<DstRect xOff="{window.col}" yOff="{window.row}" {size}/></SimpleSource>\n'
    )
