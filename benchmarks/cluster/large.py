"""Plan 100,000 x 100,000 px, run a part of it on a cluster, and watch the memory of every process.

    python -m benchmarks.cluster.large OUT [--side 100000] [--part 10000] [--workers 2]

The scene is a VRT that repeats one file of noise where the part lies and is empty elsewhere; the
network is small and has random weights. The memory (resident) of the scheduler, of the workers and
of the process that keeps the map is looked at every second; OUT/large.md has the highest of each
third of the run, which grow if something leaks.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import rasterio
from affine import Affine

from tests.support.dask_cluster import DaskProcesses, dask_processes

TILE = 2000  # pixels of the file that is repeated
PAGE = 4096


def main() -> None:
    options = arguments()
    options.out.mkdir(parents=True, exist_ok=True)
    words = command(options)
    begun = time.perf_counter()
    plan = subprocess.run(
        [*words, "--dry-run", "--json"], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    planned = time.perf_counter() - begun
    (options.out / "plan.json").write_text(plan)
    logs = options.out / "dask"
    logs.mkdir(exist_ok=True)
    with dask_processes(options.workers, logs) as cluster:
        begun = time.perf_counter()
        box = part(options)
        with subprocess.Popen(
            [*words, "--bbox", *map(str, box), "--scheduler", cluster.address]
        ) as process:
            memory = watch(process, cluster)
        seconds = time.perf_counter() - begun
    if process.returncode:
        sys.exit(process.returncode)
    text = "\n".join(table(options, plan, planned, seconds, memory))
    (options.out / "large.md").write_text(f"{text}\n")
    print(text)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--side", type=int, default=100_000, help="pixels")
    parser.add_argument("--part", type=int, default=10_000, help="pixels")
    parser.add_argument("--workers", type=int, default=2)
    return parser.parse_args()


def command(options: argparse.Namespace) -> list[str]:
    """Write the scene and the model; return a command that maps it."""
    from cafe_cli.model import model_file
    from tests.support.engines import card_of, decided, tiny_model, write_town

    out = options.out
    write_town(out, "tile", TILE, TILE)
    for stream, bands in (("ortho", 3), ("dsm", 1)):
        (out / f"{stream}.vrt").write_text(vrt(options, out / f"tile_{stream}.tif", bands))
    network = decided(tiny_model())
    model_file.save(out / "model.safetensors", network, card_of(network))
    return [
        sys.executable, "-m", "cafe_cli", "predict", str(out / "model.safetensors"),
        "--optical", str(out / "ortho.vrt"), "--elevation", str(out / "dsm.vrt"),
        "--window", "1024", "--device", "cpu", "--overwrite", "-o", str(out / "map.tif"),
    ]  # fmt: skip


def vrt(options: argparse.Namespace, tile: Path, bands: int) -> str:
    """Return a VRT that repeats a file in the part and is empty elsewhere."""
    with rasterio.open(tile) as source:
        kind, wkt, place = source.dtypes[0], source.crs.to_wkt(), source.transform
        void = "0" if bands == 3 else "-9999"
    name = {"uint8": "Byte", "float32": "Float32"}[kind]
    first = (options.side - options.part) // 2 // TILE * TILE
    spots = range(first, first + options.part + TILE, TILE)
    escaped = wkt.replace("&", "&amp;").replace("<", "&lt;")
    lines = [f'<VRTDataset rasterXSize="{options.side}" rasterYSize="{options.side}">']
    lines += [f"<SRS>{escaped}</SRS>"]
    lines += [f"<GeoTransform>{', '.join(map(str, place.to_gdal()))}</GeoTransform>"]
    for band in range(1, bands + 1):
        lines += [f'<VRTRasterBand dataType="{name}" band="{band}">']
        lines += [f"<NoDataValue>{void}</NoDataValue>"]
        for row in spots:
            for col in spots:
                lines += [
                    f'<SimpleSource><SourceFilename relativeToVRT="1">{tile.name}</SourceFilename>'
                    f'<SourceBand>{band}</SourceBand><SrcRect xOff="0" yOff="0" xSize="{TILE}" '
                    f'ySize="{TILE}"/><DstRect xOff="{col}" yOff="{row}" xSize="{TILE}" '
                    f'ySize="{TILE}"/></SimpleSource>'
                ]
        lines += ["</VRTRasterBand>"]
    return "\n".join([*lines, "</VRTDataset>"])


def part(options: argparse.Namespace) -> tuple[float, float, float, float]:
    """Return the box of the part."""
    with rasterio.open(options.out / "ortho.vrt") as scene:
        place: Affine = scene.transform
    first = (options.side - options.part) // 2 // TILE * TILE
    left, top = place @ (first, first)
    right, bottom = place @ (first + options.part, first + options.part)
    return left, bottom, right, top


def watch(process: "subprocess.Popen[bytes]", cluster: DaskProcesses) -> dict[str, list[float]]:
    """Return the megabytes of each process, second by second, until the first ends."""
    found: dict[str, list[float]] = {"process that keeps the map": [], "scheduler": []}
    found |= {f"worker {number}": [] for number in range(len(cluster.workers))}
    while process.poll() is None:
        watched = [process, cluster.scheduler, *cluster.workers]
        for name, one in zip(found, watched, strict=True):
            found[name].append(resident(one.pid) / 1e6)
        time.sleep(1)
    return found


def resident(pid: int) -> int:
    """Return the bytes of memory that a process has; 0 if it has ended."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE
    except (OSError, IndexError):
        return 0


def table(
    options: argparse.Namespace,
    plan: str,
    planned: float,
    seconds: float,
    memory: dict[str, list[float]],
) -> Iterator[str]:
    total = json.loads(plan)["total"]
    yield (
        f"{options.side:,} x {options.side:,} px: planned in {planned:.0f} s, "
        f"{total['windows']:,} windows, {total['tasks']:,} strips. {options.part:,} x "
        f"{options.part:,} px of it on {options.workers} workers: {seconds:.0f} s."
    )
    yield ""
    yield "| MB, highest of each third of the run | first | second | third |"
    yield "|---|---:|---:|---:|"
    for name, values in memory.items():
        third = max(len(values) // 3, 1)
        thirds = [values[i : i + third] for i in (0, third, 2 * third)]
        cells = " | ".join(f"{max(part, default=0):.0f}" for part in thirds)
        yield f"| {name} | {cells} |"


if __name__ == "__main__":
    main()
