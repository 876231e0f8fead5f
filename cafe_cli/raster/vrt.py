"""GDAL virtual rasters (VRT) that present the strips of a map as one raster."""

from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape, quoteattr  # nosec B406  # parses nothing

from cafe_cli.classes import NODATA
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.product import Product
from cafe_cli.raster.value_counts import Counts, statistics_tags
from cafe_cli.raster.window import Window
from cafe_cli.raster.writer import class_tags

_BLOCK = 512  # pixels, as in the COG, so that each block of a strip is decoded once


def block_side(length: int) -> int:
    """Return the block size of a strip `length` pixels long; TIFF requires multiples of 16."""
    return min(-(-length // 16) * 16, _BLOCK)


def strips_vrt(
    product: Product,
    grid: Grid,
    tags: Mapping[str, str],
    strips: Sequence[tuple[Window, str]],
    counts: Counts,
) -> str:
    """Return the XML of a VRT of `strips`: window, and name of a file in the folder of the VRT.

    Strips must not overlap. Pixels that no strip covers are nodata. `counts` are the pixels of the
    strips by band and value.
    """
    pixels = grid.width * grid.height
    statistics = [statistics_tags(band, pixels) for band in counts]
    bands = "".join(
        _band(product, band, strips, statistics[band - 1]) for band in range(1, product.count + 1)
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
) -> str:
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
        f"{_metadata(statistics)}"
        f"<Description>{escape(described)}</Description><NoDataValue>{NODATA}</NoDataValue>"
        f"<UnitType>{escape(product.unit)}</UnitType>"
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
