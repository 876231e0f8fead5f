"""Predict one scene with the sliding window of another tool, to compare whole commands.

    inference_others.py --tool TOOL --model MODEL --optical O.tif --elevation E.tif -o MAP.tif
    inference_others.py --tool TOOL --check

The network and its inputs are those of `cafe predict`: pixel values, heights in metres, and masks.
Everything else is the tool's, used as in its documentation and with its own defaults: the places of
the windows and the blending (of scores before softmax, as in all their examples). Every tool gets
what users of PyTorch add: `torch.inference_mode`, and weights in channels_last (unless
--contiguous).

--check predicts small rasters of odd shapes with a network that sees single pixels, so that the
labels must not depend on the tiling, and reports the result of each shape. Prints one JSON line per
measurement.
"""

import time

BEGIN = time.perf_counter()  # before the imports, which are part of a command

import argparse  # noqa: E402
import importlib  # noqa: E402
import json  # noqa: E402
import resource  # noqa: E402
import tempfile  # noqa: E402
from collections.abc import Callable, Iterable, Iterator  # noqa: E402
from dataclasses import dataclass  # noqa: E402
from importlib.metadata import version  # noqa: E402
from itertools import islice  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import TypeVar  # noqa: E402

import numpy as np  # noqa: E402
import rasterio  # noqa: E402
import torch  # noqa: E402
from numpy.typing import NDArray  # noqa: E402
from rasterio.transform import from_origin  # noqa: E402
from rasterio.windows import Window  # noqa: E402
from torch import Tensor, nn  # noqa: E402

from cafe_cli.model import model_file  # noqa: E402

Array = NDArray[np.float32]
T = TypeVar("T")

CENTRES = (32, 96, 160, 224)  # pixel values of the classes of --check
SHAPES = (  # rows and columns; two windows of 512 that overlap by 128 span 896
    (777, 1000), (1024, 1024), (512, 512), (513, 512), (512, 513), (896, 896), (897, 896),
    (300, 200), (100, 1000), (1000, 100), (1, 1000), (1000, 1), (1, 1),
)  # fmt: skip


class Stacked(nn.Module):
    """A network of one input: (B, bands + 2, H, W) float32.

    The bands, heights (NaN in voids), and what is 0 outside the raster.
    """

    def __init__(self, network: nn.Module, classes: int) -> None:
        super().__init__()
        self.network, self.classes = network, classes
        self.seconds, self.windows = 0.0, 0

    def forward(self, x: Tensor) -> Tensor:
        start = time.perf_counter()
        optical, height, valid = x[:, :-2], x[:, -2:-1], x[:, -1] > 0
        scores: Tensor = self.network(optical, valid, height, valid & height[:, 0].isfinite())
        self.seconds += time.perf_counter() - start
        self.windows += len(x)
        return scores


class Pixelwise(nn.Module):
    """The network of --check: the class with the value nearest to that of the first band."""

    def forward(self, optical: Tensor, *_: Tensor) -> Tensor:
        centres = torch.tensor(CENTRES, dtype=torch.float32)
        return -((optical[:, :1] - centres[:, None, None]) ** 2)


@dataclass(frozen=True)
class Job:
    """Inputs of a tool: network, files, and windows in pixels."""

    network: Stacked
    optical: Path
    elevation: Path
    output: Path
    window: int
    overlap: int
    batch_size: int


def monai(job: Job) -> None:
    """Whole arrays in, whole arrays of scores out."""
    from monai.inferers import sliding_window_inference

    stack, profile = read(job)
    scores = sliding_window_inference(
        torch.from_numpy(stack)[None], (job.window, job.window), job.batch_size, job.network,
        overlap=job.overlap / job.window, mode="gaussian",
    )  # fmt: skip
    write(job, scores[0].argmax(dim=0), profile)


def toolbelt(job: Job) -> None:
    """As in its README, "Inference on huge images", but tiles are cut one batch at a time."""
    from pytorch_toolbelt.inference.tiles import ImageSlicer, TileMerger

    stack, profile = read(job)
    step = job.window - job.overlap
    slicer = ImageSlicer(stack.shape[1:], job.window, step, weight="pyramid")
    merger = TileMerger(slicer.target_shape, job.network.classes, slicer.weight)
    for batch in batches(slicer.iter_split(stack.transpose(1, 2, 0)), job.batch_size):
        tiles = np.stack([tile.transpose(2, 0, 1) for tile, _ in batch])
        merger.integrate_batch(job.network(torch.from_numpy(tiles)), [place for _, place in batch])
    labels = merger.merge_().argmax(dim=0)
    write(job, slicer.crop_to_orignal_size(labels), profile)


def terratorch(job: Job) -> None:
    """Whole arrays in, whole arrays of scores out."""
    from terratorch.tasks.tiled_inference import tiled_inference

    stack, profile = read(job)
    step = job.window - job.overlap
    scores = tiled_inference(
        job.network, torch.from_numpy(stack)[None], crop=job.window, stride=step,
        batch_size=job.batch_size,
    )  # fmt: skip
    write(job, scores[0].argmax(dim=0), profile)


def geoai(job: Job) -> None:
    """File in, file out. The input is a GeoTIFF, because for a VRT it would write a VRT."""
    from geoai.inference import predict_geotiff

    with tempfile.TemporaryDirectory(dir=job.output.parent) as folder:
        stacked = Path(folder) / "stacked.tif"
        stack_files(job, stacked)
        predict_geotiff(
            job.network, str(stacked), str(job.output), tile_size=job.window, overlap=job.overlap,
            batch_size=job.batch_size, num_classes=job.network.classes, output_dtype="uint8",
            output_nodata=255, preprocess_fn=lambda tile: tile,
            postprocess_fn=lambda scores: scores.argmax(axis=0), device="cpu", verbose=False,
        )  # fmt: skip


@dataclass(frozen=True)
class Tool:
    module: str
    package: str
    run: Callable[[Job], None]


TOOLS = {
    "monai": Tool("monai.inferers", "monai", monai),
    "toolbelt": Tool("pytorch_toolbelt.inference.tiles", "pytorch_toolbelt", toolbelt),
    "terratorch": Tool("terratorch.tasks.tiled_inference", "terratorch", terratorch),
    "geoai": Tool("geoai.utils", "geoai-py", geoai),
}


def main() -> None:
    options = parse()
    tool = TOOLS[options.tool]
    importlib.import_module(tool.module)
    about = {"tool": options.tool, "version": version(tool.package)}
    with torch.inference_mode():
        if options.probe:
            print(json.dumps(about))
        elif options.check:
            for result in check(tool, options):
                print(json.dumps(about | result), flush=True)
        else:
            print(json.dumps(about | measure(tool, options)), flush=True)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--tool", choices=TOOLS, required=True)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--optical", type=Path)
    parser.add_argument("--elevation", type=Path, help="on the grid of the optical raster")
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--window", type=int, default=512, help="pixels along each side")
    parser.add_argument("--overlap", type=int, default=128, help="pixels")
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--contiguous", action="store_true", help="no channels_last")
    parser.add_argument("--check", action="store_true", help="odd shapes instead of a scene")
    parser.add_argument("--probe", action="store_true", help="only say whether it is installed")
    options = parser.parse_args()
    if not (options.check or options.probe):
        for name in ("model", "optical", "elevation", "output"):
            if getattr(options, name) is None:
                parser.error(f"--{name} is missing")
    return options


def measure(tool: Tool, options: argparse.Namespace) -> dict[str, object]:
    """Predict one scene; seconds count from the start of this script."""
    model, card = model_file.load(options.model)
    network: nn.Module = model.deployed()
    if not options.contiguous:
        network = network.to(memory_format=torch.channels_last)
    stacked = Stacked(network, len(card.classes))
    job = Job(
        stacked, options.optical, options.elevation, options.output, options.window,
        options.overlap, options.batch_size,
    )  # fmt: skip
    ready, memory = time.perf_counter() - BEGIN, peak()
    tool.run(job)
    seconds = time.perf_counter() - BEGIN
    with rasterio.open(options.output) as labels:
        pixels = labels.width * labels.height
    return {
        "seconds": round(seconds, 2),
        "loading": round(ready, 2),
        "forward": round(stacked.seconds, 2),
        "windows": stacked.windows,
        "peak_mb": round(peak()),
        "loaded_mb": round(memory),
        "mpx_s": round(pixels / seconds / 1e6, 4),
        "threads": torch.get_num_threads(),
    }


def peak() -> float:
    """Return the peak of resident memory of this process in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def check(tool: Tool, options: argparse.Namespace) -> Iterator[dict[str, object]]:
    """Yield the result of each shape: right, the number of wrong pixels, or the error."""
    for rows, columns in SHAPES:
        with tempfile.TemporaryDirectory() as folder:
            optical, elevation, output = (Path(folder) / f"{n}.tif" for n in ("o", "e", "map"))
            expected = draw(optical, elevation, rows, columns)
            job = Job(
                Stacked(Pixelwise(), len(CENTRES)), optical, elevation, output,
                options.window, options.overlap, options.batch_size,
            )  # fmt: skip
            yield {"rows": rows, "columns": columns, "result": outcome(tool, job, expected)}


def draw(optical: Path, elevation: Path, rows: int, columns: int) -> NDArray[np.uint8]:
    """Write a scene with a random class in every pixel; return the classes."""
    labels = np.random.default_rng(0).integers(len(CENTRES), size=(rows, columns), dtype=np.uint8)
    values = np.array(CENTRES, np.uint8)[labels]
    profile = {"driver": "GTiff", "width": columns, "height": rows, "crs": "EPSG:32632"}
    profile |= {"transform": from_origin(500_000, 5_400_000, 0.1, 0.1)}
    single = {"count": 1, "dtype": "float32", "nodata": -9999}
    with rasterio.open(optical, "w", **profile, count=3, dtype="uint8") as dataset:
        dataset.write(np.stack([values, values, values]))
    with rasterio.open(elevation, "w", **profile, **single) as heights:
        heights.write(values.astype(np.float32), 1)
    return labels


def outcome(tool: Tool, job: Job, expected: NDArray[np.uint8]) -> str:
    try:
        tool.run(job)
    except Exception as error:  # noqa: BLE001  any error of a tool is its result
        return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
    with rasterio.open(job.output) as dataset:
        labels = dataset.read(1)
    wrong = int((labels != expected).sum())
    return f"wrong in {wrong} of {expected.size} pixels" if wrong else "right"


def read(job: Job) -> tuple[Array, dict[str, object]]:
    """Read the inputs of the network, (bands + 2, H, W), and return the profile of a map."""
    with rasterio.open(job.optical) as optical, rasterio.open(job.elevation) as elevation:
        stack = np.empty((optical.count + 2, optical.height, optical.width), np.float32)
        stack[:-2] = optical.read()
        stack[-2] = elevation.read(1, masked=True).filled(np.nan)
        stack[-1] = optical.dataset_mask() > 0
        place = {"crs": optical.crs, "transform": optical.transform}
    profile = {"driver": "GTiff", "count": 1, "dtype": "uint8", "nodata": 255, **place}
    profile |= {"height": stack.shape[1], "width": stack.shape[2], "compress": "deflate"}
    return stack, profile | {"tiled": True, "blockxsize": 512, "blockysize": 512}


def write(job: Job, labels: Tensor, profile: dict[str, object]) -> None:
    if labels.shape != (profile["height"], profile["width"]):  # rasterio accepts an empty array
        raise ValueError(f"a map of {labels.shape[0]} x {labels.shape[1]} pixels")
    with rasterio.open(job.output, "w", **profile) as dataset:
        dataset.write(labels.to(torch.uint8).numpy(), 1)


def stack_files(job: Job, path: Path, side: int = 1024) -> None:
    """Write what `read` returns as a GeoTIFF, block by block; without compression, for speed."""
    with rasterio.open(job.optical) as optical, rasterio.open(job.elevation) as elevation:
        profile = optical.profile | {"count": optical.count + 2, "dtype": "float32"}
        profile |= {"nodata": None, "compress": None, "interleave": "pixel", "photometric": None}
        profile |= {"driver": "GTiff", "bigtiff": "if_safer", "tiled": True}
        profile |= {"blockxsize": 512, "blockysize": 512}
        with rasterio.open(path, "w", **profile) as stacked:
            for row in range(0, optical.height, side):
                for col in range(0, optical.width, side):
                    height, width = min(side, optical.height - row), min(side, optical.width - col)
                    window = Window(col, row, width, height)
                    heights = elevation.read(1, window=window, masked=True).filled(np.nan)
                    valid = optical.dataset_mask(window=window)[None] > 0
                    values = [*optical.read(window=window), heights, *valid]
                    stacked.write(np.stack(values).astype(np.float32), window=window)


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


if __name__ == "__main__":
    main()
