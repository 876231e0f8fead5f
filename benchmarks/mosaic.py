"""`cafe mosaic` beside other ways to join label rasters: time and memory.

    python benchmarks/mosaic.py MAP OUT [ROUNDS [SIDE]]

MAP is a label raster of cafe. It is mirrored, and cut into 4 x 4 rasters of SIDE x SIDE pixels
(default 6000) that overlap by a sixth. Every tool joins them in a process of its own, in turns;
printed are medians. `cafe` writes a Cloud Optimized GeoTIFF with overviews, reads it back, and says
where inputs disagree; `cog` is gdalbuildvrt and gdal_translate to the same format, `plain` the same
to a tiled GeoTIFF without overviews, `warp` gdalwarp to such a file, `rio` rasterio.merge. All but
`cafe majority` let the last input win. Leaves rasters and maps in OUT.
"""

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import rasterio
import rasterio.merge
from affine import Affine

TILED = ["-co", "TILED=YES", "-co", "COMPRESS=DEFLATE", "-co", "BIGTIFF=IF_SAFER"]
THREADS = ["-co", "NUM_THREADS=ALL_CPUS"]


def cut(source: str, out: Path, side: int) -> list[Path]:
    """Write 4 x 4 overlapping rasters of a map that repeats a smaller one, mirrored."""
    with rasterio.open(source) as dataset:
        values, crs, tags = dataset.read(1), dataset.crs, dataset.tags()
        place, colors = dataset.transform, dataset.colormap(1)
    pair = np.concatenate([values, values[:, ::-1]], axis=1)
    block = np.concatenate([pair, pair[::-1]])
    paths = []
    for row in range(4):
        for column in range(4):
            first = (row * side * 5 // 6, column * side * 5 // 6)
            # One pixel off for every other raster, so that inputs disagree along borders.
            rows, columns = (np.arange(n, n + side) + (row + column) % 2 for n in first)
            piece = block[rows[:, None] % len(block), columns % block.shape[1]]
            path = out / f"in_{row}{column}.tif"
            with rasterio.open(
                path, "w", driver="COG", width=side, height=side, count=1, dtype="uint8", crs=crs,
                transform=place @ Affine.translation(first[1], first[0]), nodata=255,
                compress="deflate", overview_resampling="mode",
            ) as dataset:  # fmt: skip
                dataset.write_colormap(1, colors)
                dataset.update_tags(CLASSES=tags["CLASSES"])
                dataset.write(piece, 1)
            paths.append(path)
    return paths


def run_tool(tool: str, out: Path) -> None:
    """Join the rasters of a folder."""
    inputs, target = [str(p) for p in sorted(out.glob("in_*.tif"))], str(out / f"{tool}.tif")
    if tool in ("last", "majority"):
        words = [sys.executable, "-m", "cafe_cli", "-q", "mosaic", *inputs, "-o", target]
        subprocess.run([*words, "--method", tool, "--overwrite"], check=True)
    elif tool == "rio":
        rasterio.merge.merge(
            inputs, method="last", dst_path=target, mem_limit=256,
            dst_kwds={"tiled": True, "compress": "deflate", "num_threads": "all_cpus"},
        )  # fmt: skip
    elif tool == "warp":
        words = ["gdalwarp", "-q", "-overwrite", "-multi", "-wm", "256", *TILED, *THREADS]
        subprocess.run([*words, *inputs, target], check=True)
    else:
        index = str(out / "index.vrt")
        subprocess.run(["gdalbuildvrt", "-q", "-overwrite", index, *inputs], check=True)
        cog = ["-of", "COG", "-co", "COMPRESS=DEFLATE", "-co", "OVERVIEW_RESAMPLING=MODE"]
        options = cog if tool == "cog" else TILED
        subprocess.run(["gdal_translate", "-q", *options, *THREADS, index, target], check=True)


def measure(tool: str, out: Path) -> tuple[float, float, float]:
    """Return seconds of the clock, seconds of CPU, and the most megabytes of a process."""
    begin = time.monotonic()
    child = subprocess.Popen([sys.executable, __file__, "--run", tool, str(out)])
    _, status, used = os.wait4(child.pid, 0)
    if status:
        raise SystemExit(f"{tool} failed")
    wall = time.monotonic() - begin
    return wall, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


def main() -> None:
    if sys.argv[1] == "--run":
        run_tool(sys.argv[2], Path(sys.argv[3]))
        return
    source, out = sys.argv[1], Path(sys.argv[2])
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 3
    side = int(sys.argv[4]) if len(sys.argv) > 4 else 6000
    out.mkdir(parents=True, exist_ok=True)
    cut(source, out, side)
    tools = ["last", "majority", "cog", "plain", "warp", "rio"]
    runs = [{tool: measure(tool, out) for tool in tools} for _ in range(rounds)]
    print(f"{'tool':10}{'wall s':>9}{'CPU s':>9}{'MB':>8}{'/ cog':>8}")
    medians = {
        tool: [statistics.median(each[tool][i] for each in runs) for i in range(3)]
        for tool in tools
    }
    for tool, (wall, cpu, most) in medians.items():
        print(f"{tool:10}{wall:9.1f}{cpu:9.1f}{most:8.0f}{wall / medians['cog'][0]:8.2f}")


if __name__ == "__main__":
    main()
