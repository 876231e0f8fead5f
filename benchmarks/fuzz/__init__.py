"""Fuzzing: inputs made by chance and coverage, which may meet a one-line error and nothing else.

    python -m benchmarks.fuzz config|tileset|model|vector|raster OUT [--minutes 10] [--seed 0]

Run it in the root of the repository, with '.[test]' installed. With atheris (``pip install
atheris``) the first four are guided by the coverage of the package's code; without it, and for
rasters, inputs are mutated from seeds alone. A case fails if it raises anything but a `CafeError`,
prints a traceback, kills its process, takes longer than 60 s or more memory than its bound, or if
a config that was read is another one when it is written and read again. Every kind of failure is
kept once in OUT/findings: the input, and a text with what happened. OUT/KIND.json counts the cases.

========  ======================================================================================
config    TOML through `load_config`, written and read again
tileset   ``tileset.json`` of a small tile set; what still loads is checked, and tiles are read
model     header of a safetensors file; what it describes is built and loaded
vector    GeoJSON, GeoPackage, FlatGeobuf, GML, KML, CSV and OGR VRT as labels and as an area
raster    GeoTIFFs and VRTs as image, heights or labels through ``cafe check`` and ``cafe predict``
========  ======================================================================================

mutate makes inputs, seeds and targets say what is fuzzed, commands runs the raster commands,
worker runs cases, findings keeps what failed.
"""
