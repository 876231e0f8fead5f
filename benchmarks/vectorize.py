"""`cafe vectorize` beside other ways from a label raster to polygons: time, memory, gaps, overlaps.

    python benchmarks/vectorize.py MAP OUT [SIDE [TOOL ...]]

MAP is a label raster of cafe, which is mirrored to SIDE x SIDE pixels (default 4000). Every tool
runs in a process of its own: `cafe`; `gdal`: gdal_polygonize.py, then ogr2ogr -simplify;
`rasterio`: rasterio.features.shapes, then shapely's simplify polygon by polygon; `shapely`: the
same polygons, then its coverage_clean and coverage_simplify. The tolerance is 1.5 pixels for all.
Overlaps and gaps are those within a square of 2000 pixels in the middle. Leaves the map and the
polygons in OUT.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyogrio.raw
import rasterio
import rasterio.features
import shapely

TOLERANCE = 1.5  # pixels
MEASURED = 2000  # side in pixels of the square in which overlaps and gaps are measured


def mirror(source: str, target: Path, side: int) -> None:
    """Write a raster that repeats another one, each copy mirrored at the last."""
    with rasterio.open(source) as dataset:
        values, profile, tags = dataset.read(1), dataset.profile, dataset.tags()
    pair = np.concatenate([values, values[:, ::-1]], axis=1)
    block = np.concatenate([pair, pair[::-1]])
    wide = np.tile(block, (1, -(-side // block.shape[1])))[:, :side]
    profile |= {
        "driver": "GTiff",
        "width": side,
        "height": side,
        "tiled": True,
        "bigtiff": "if_safer",
    }
    profile |= {"blockxsize": 512, "blockysize": 512, "compress": "deflate"}
    with rasterio.open(target, "w", **profile) as out:
        for row in range(0, side, 512):
            rows = wide[np.arange(row, min(row + 512, side)) % len(block)]
            out.write(rows, 1, window=rasterio.windows.Window(0, row, side, len(rows)))
        out.update_tags(CLASSES=tags["CLASSES"])


def shapes_of(path: str):
    """Return the polygons and the classes of a label raster, as rasterio finds them."""
    with rasterio.open(path) as dataset:
        values, place = dataset.read(1), dataset.transform
    found = rasterio.features.shapes(values, values != 255, transform=place)
    pairs = [(shapely.geometry.shape(shape), value) for shape, value in found]
    return np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs], np.int32)


def write(path: Path, polygons, classes, crs: str) -> None:
    pyogrio.raw.write(
        path, shapely.to_wkb(polygons), [classes], ["class"], driver="GPKG",
        geometry_type="Polygon", crs=crs,
    )  # fmt: skip


def run_tool(tool: str, source: str, target: Path, tolerance: float) -> None:
    """Make the polygons, in this process or in those it starts."""
    if tool == "cafe":
        command = [sys.executable, "-m", "cafe_cli", "-q", "vectorize", source, "-o", str(target)]
        subprocess.run([*command, "--overwrite", "--simplify", str(tolerance)], check=True)
    elif tool == "gdal":
        plain = target.with_name("gdal_plain.gpkg")
        plain.unlink(missing_ok=True)
        subprocess.run(["gdal_polygonize.py", "-q", source, str(plain)], check=True)
        simplify = ["-simplify", str(tolerance)]
        subprocess.run(["ogr2ogr", "-q", *simplify, str(target), str(plain)], check=True)
    else:
        polygons, classes = shapes_of(source)
        if tool == "rasterio":
            polygons = shapely.simplify(polygons, tolerance)
        else:
            polygons = shapely.coverage_simplify(shapely.coverage_clean(polygons), tolerance)
        with rasterio.open(source) as dataset:
            write(target, polygons, classes, dataset.crs.to_wkt())


def measure_faults(path: Path, source: str) -> tuple[int, float, float]:
    """Return the number of polygons, and the square units of overlaps and gaps in the middle."""
    count = pyogrio.read_info(path, layer=0)["features"]
    with rasterio.open(source) as dataset:
        side = min(MEASURED, dataset.width)
        first = (dataset.width - side) // 2
        left, top = dataset.transform @ (first, first)
        right, bottom = dataset.transform @ (first + side, first + side)
    box = shapely.box(left, bottom, right, top)
    _, _, geometry, _ = pyogrio.raw.read(path, layer=0, bbox=box.bounds)
    polygons = shapely.make_valid(shapely.from_wkb(geometry))
    inside = shapely.intersection(polygons, box)
    union = shapely.union_all(inside).area
    return count, shapely.area(inside).sum() - union, box.area - union


def main() -> None:
    if sys.argv[1] == "--run":
        run_tool(sys.argv[2], sys.argv[3], Path(sys.argv[4]), float(sys.argv[5]))
        return
    source, out = sys.argv[1], Path(sys.argv[2])
    side = int(sys.argv[3]) if len(sys.argv) > 3 else 4000
    out.mkdir(parents=True, exist_ok=True)
    map_ = out / f"map_{side}.tif"
    mirror(source, map_, side)
    with rasterio.open(map_) as dataset:
        tolerance = TOLERANCE * dataset.res[0]
    print(
        f"{'tool':10}{'wall s':>9}{'CPU s':>9}{'MB':>8}{'polygons':>10}{'overlap':>10}{'gap':>10}"
    )
    for tool in sys.argv[4:] or ["cafe", "gdal", "rasterio", "shapely"]:
        target = out / f"{tool}_{side}.gpkg"
        target.unlink(missing_ok=True)
        begin = time.monotonic()
        words = [sys.executable, __file__, "--run", tool, map_, target, tolerance]
        child = subprocess.Popen([*map(str, words)])
        _, status, used = os.wait4(child.pid, 0)
        wall = time.monotonic() - begin
        if status:
            print(f"{tool:10}{wall:9.1f}  failed")
            continue
        count, overlap, gap = measure_faults(target, str(map_))
        print(
            f"{tool:10}{wall:9.1f}{used.ru_utime + used.ru_stime:9.1f}{used.ru_maxrss / 1024:8.0f}"
            f"{count:10}{overlap:10.1f}{gap:10.1f}", flush=True,
        )  # fmt: skip


if __name__ == "__main__":
    main()
