"""Styles for QGIS (QML): the legend of a raster, which QGIS cannot take from the file itself.

A colour table in a TIFF has 256 entries, and QGIS shows all of them. ``NAME.qml`` beside
``NAME.tif`` is the style that it applies on its own.
"""

from xml.sax.saxutils import quoteattr  # nosec B406  # parses nothing

from cafe_cli.classes import ClassTable

_RAMP = ("#440154", "#3b528b", "#21918c", "#5ec962", "#fde725")
"""Colours from 0 to 100 %: of growing lightness, and apart for people who do not tell red from
green (viridis)."""


def paletted_style(classes: ClassTable) -> str:
    """Return a style whose legend has the classes with their names, and nothing else."""
    entries = "".join(
        f'<paletteEntry value="{c.id}" color="{c.color}" alpha="255" label={quoteattr(c.name)}/>\n'
        for c in classes
    )
    return _style(
        '<rasterrenderer type="paletted" band="1" opacity="1" alphaBand="-1" nodataColor="">\n'
        f"<colorPalette>\n{entries}</colorPalette>\n</rasterrenderer>"
    )


def percent_style() -> str:
    """Return a style for the first band: a ramp of colours from 0 to 100 per cent."""
    step = 100 // (len(_RAMP) - 1)
    items = "".join(
        f'<item value="{n * step}" color="{color}" alpha="255" label="{n * step} %"/>\n'
        for n, color in enumerate(_RAMP)
    )
    stops = ":".join(
        f"{n / (len(_RAMP) - 1):g};{_components(color)}"
        for n, color in list(enumerate(_RAMP))[1:-1]
    )
    options = {"color1": _components(_RAMP[0]), "color2": _components(_RAMP[-1]), "stops": stops}
    ramp = "".join(
        f'<Option type="QString" name="{name}" value="{value}"/>\n'
        for name, value in {**options, "discrete": "0", "rampType": "gradient"}.items()
    )
    return _style(
        '<rasterrenderer type="singlebandpseudocolor" band="1" opacity="1" alphaBand="-1" '
        'nodataColor="" classificationMin="0" classificationMax="100">\n'
        "<rastershader>\n"
        '<colorrampshader colorRampType="INTERPOLATED" classificationMode="2" clip="0" '
        'minimumValue="0" maximumValue="100" labelPrecision="0">\n'
        f'<colorramp name="[source]" type="gradient">\n<Option type="Map">\n{ramp}</Option>\n'
        f"</colorramp>\n{items}"
        '<rampLegendSettings useContinuousLegend="1" orientation="2" direction="0" '
        'minimumLabel="" maximumLabel="" prefix="" suffix=" %">\n'
        '<numericFormat id="basic"><Option type="Map">\n'
        '<Option type="int" name="decimals" value="0"/></Option></numericFormat>\n'
        "</rampLegendSettings>\n</colorrampshader>\n</rastershader>\n</rasterrenderer>"
    )


def _components(color: str) -> str:
    return ",".join(map(str, (*bytes.fromhex(color[1:]), 255)))


def _style(renderer: str) -> str:
    return (
        "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n"
        f'<qgis version="3.22" styleCategories="Symbology">\n<pipe>\n{renderer}\n</pipe>\n</qgis>\n'
    )
