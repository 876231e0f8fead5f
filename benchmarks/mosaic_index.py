"""The index over the blocks of a large mosaic: rows of blocks beside other forms.

    python benchmarks/mosaic_index.py OUT [BLOCKS]

Writes BLOCKS (default 10,000) rasters of 64 x 64 pixels to OUT, and three indices over them: `rows`
as `cafe mosaic --block-size` writes it, `list` with all blocks in one virtual raster, and `gti`, a
tile index of GDAL (from 3.9). A process of its own opens each and reads 16 windows of 512 x 512
pixels, in turns; printed are medians of five rounds, in seconds, and how many times those of `rows`
they are.
"""

import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyogrio.raw
import shapely
from affine import Affine
from rasterio.crs import CRS

from cafe_cli.classes import NODATA
from cafe_cli.mosaic.block_folder import block_file
from cafe_cli.mosaic.block_index import write_index
from cafe_cli.mosaic.blocks import BlockFile, BlockResult
from cafe_cli.raster.grid import Grid
from cafe_cli.raster.product import label_product
from cafe_cli.raster.vrt import strips_vrt
from cafe_cli.raster.window import Window, blocks
from cafe_cli.raster.writer import write_geotiff

SIDE, WINDOW, ROUNDS = 64, 512, 5
READ = """
import sys, time
import numpy as np, rasterio
start = time.perf_counter()
dataset = rasterio.open(sys.argv[1])
opened = time.perf_counter()
places = np.random.default_rng(int(sys.argv[2])).integers(0, dataset.width - 512, (16, 2))
for col, row in places:
    dataset.read(1, window=rasterio.windows.Window(col, row, 512, 512))
print(opened - start, (time.perf_counter() - opened) / len(places))
"""


def make(out: Path, count: int) -> dict[str, Path]:
    """Write blocks and indices; return the path of each index by its name."""
    side = round(count**0.5) * SIDE
    grid = Grid(CRS.from_epsg(32632), Affine(1, 0, 500_000, 0, -1, 5_200_000), side, side)
    product = label_product(out, None)
    values = np.random.default_rng(0).integers(0, 5, (1, SIDE, SIDE), np.uint8)
    counts = {"labels": dict(enumerate(np.bincount(values.ravel()).tolist()))}
    files = {"labels": {"": BlockFile(0, 0)}}
    results = []
    for window in blocks(side, side, SIDE):
        name = f"r{window.row // SIDE:03}_c{window.col // SIDE:03}"
        write_geotiff(out / block_file(out, name), values, grid.at(window), nodata=NODATA)
        results.append(BlockResult(name, window, files, counts))
    write_index(out, product, grid, results, {})
    listed = [(result.window, block_file(out, result.name)) for result in results]
    total = np.bincount(values.ravel(), minlength=256)[None] * len(results)
    (out / "list.vrt").write_text(strips_vrt(product, grid, {}, listed, total), "utf-8")
    write_tile_index(out / "tiles.gti.gpkg", grid, listed)
    return {
        "rows": out / f"{out.name}.vrt",
        "list": out / "list.vrt",
        "gti": out / "tiles.gti.gpkg",
    }


def write_tile_index(path: Path, grid: Grid, listed: list[tuple[Window, str]]) -> None:
    """Write a tile index of GDAL."""
    boxes = [shapely.to_wkb(shapely.box(*grid.at(window).bounds)) for window, _ in listed]
    left, bottom, right, top = map(str, grid.bounds)
    facts = {"RESX": "1", "RESY": "1", "BAND_COUNT": "1", "DATA_TYPE": "Byte", "NODATA": "255"}
    pyogrio.raw.write(
        path, geometry=np.array(boxes, object), fields=["location"],
        field_data=[np.array([name for _, name in listed], object)], layer="index",
        driver="GPKG", geometry_type="Polygon", crs="EPSG:32632",
        layer_metadata={**facts, "MINX": left, "MINY": bottom, "MAXX": right, "MAXY": top},
    )  # fmt: skip


def measure(path: Path, seed: int) -> tuple[float, ...]:
    """Return seconds to open an index, and to read a window."""
    words = [sys.executable, "-c", READ, path, str(seed)]
    found = subprocess.run(words, check=True, capture_output=True, text=True, cwd=path.parent)
    return tuple(map(float, found.stdout.split()))


def main() -> None:
    """Make, measure, print."""
    out = Path(sys.argv[1]).absolute()
    out.mkdir(parents=True, exist_ok=True)
    paths = make(out, int(sys.argv[2]) if len(sys.argv) > 2 else 10_000)
    found: dict[str, list[tuple[float, ...]]] = {name: [] for name in paths}
    for seed in range(ROUNDS):
        for name, path in paths.items():
            found[name].append(measure(path, seed))
    medians = {n: [*map(statistics.median, zip(*t, strict=True))] for n, t in found.items()}
    for name, (opening, reading) in medians.items():
        ratios = opening / medians["rows"][0], reading / medians["rows"][1]
        print(
            f"{name:5} open {opening:.3f} s ({ratios[0]:.1f} x), "
            f"window {reading:.3f} s ({ratios[1]:.1f} x)"
        )


if __name__ == "__main__":
    main()
