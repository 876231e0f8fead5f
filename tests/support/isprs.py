"""Small synthetic copies of the ISPRS benchmarks: folders, names, colours and traps are theirs."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.io import MemoryFile
from scipy import ndimage

from cafe_cli.classes import NODATA

Pixels: TypeAlias = NDArray[Any]

IMPERVIOUS, BUILDING, LOW, TREE, CAR, CLUTTER = range(6)
COLORS = np.array(
    [[255, 255, 255], [0, 0, 255], [0, 255, 255], [0, 255, 0], [255, 255, 0], [255, 0, 0]], np.uint8
)
METRES = np.array([0, 8, 0.2, 5, 1.5, 0], np.float32)
TERRAIN = 40  # metres above the sea

POTSDAM_SIDE = 128
POTSDAM = [
    f"{row}_{col}"
    for row, columns in {
        2: range(10, 15), 3: range(10, 15), 4: range(10, 16), 5: range(10, 16),
        6: range(7, 16), 7: range(7, 14),
    }.items()
    for col in columns
]  # fmt: skip
POTSDAM_TEST = {
    "2_13", "2_14", "3_13", "3_14", "4_13", "4_14", "4_15", "5_13", "5_14", "5_15", "6_13", "6_14",
    "6_15", "7_13",
}  # fmt: skip
VAIHINGEN = [
    str(i)
    for part in ((1, 8), (10, 17), (20, 24), (26, 35), (37, 38))
    for i in range(part[0], part[1] + 1)
]
VAIHINGEN_TRAIN = {
    "1", "3", "5", "7", "11", "13", "15", "17", "21", "23", "26", "28", "30", "32", "34", "37",
}  # fmt: skip


# Synthetic data


def town(seed: int | list[int], height: int, width: int) -> Pixels:
    """Return classes (height, width): a house, trees, two cars, some clutter."""
    random = np.random.default_rng(seed)
    coarse = random.choice([IMPERVIOUS, LOW, TREE], (-(-height // 32), -(-width // 32)))
    classes = np.kron(coarse, np.ones((32, 32), int))[:height, :width]
    for kind, rows, cols in (
        (BUILDING, 40, 44), (CAR, 12, 24), (CAR, 24, 12), (CLUTTER, 14, 14),
    ):  # fmt: skip
        row, col = random.integers(height - rows), random.integers(width - cols)
        classes[row : row + rows, col : col + cols] = kind
    return classes


def boundaries(classes: Pixels) -> Pixels:
    """Return the pixels within three of another class, which the eroded reference has in black."""
    disc = np.hypot(*np.mgrid[-3:4, -3:4]) <= 3
    low = ndimage.minimum_filter(classes, footprint=disc, mode="nearest")
    found: Pixels = low != ndimage.maximum_filter(classes, footprint=disc, mode="nearest")
    return found


def photograph(classes: Pixels, bands: int, seed: int) -> Pixels:
    gray = np.array([120, 170, 90, 50, 200, 140])[classes]
    noise = np.random.default_rng(seed).normal(0, 8, (bands, *classes.shape))
    return (gray + noise).clip(1, 255).astype(np.uint8)


def eroded(classes: Pixels) -> Pixels:
    """Return a label image (3, height, width) with eroded boundaries."""
    image = COLORS[classes]
    image[boundaries(classes)] = 0
    return image.transpose(2, 0, 1)


def truth(classes: Pixels) -> Pixels:
    return np.where(boundaries(classes), NODATA, classes)


def surface(classes: Pixels) -> Pixels:
    return (TERRAIN + METRES[classes])[None]


def plain(path: Path, values: Pixels, driver: str = "GTiff", **profile: Any) -> None:
    """Write a raster without georeference."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = values.shape
    size = {"count": count, "height": height, "width": width, "dtype": values.dtype}
    if driver == "GTiff":
        with rasterio.open(path, "w", driver=driver, **size, **profile) as dataset:
            dataset.write(values)
        return
    with MemoryFile() as memory:  # these drivers can only copy
        with memory.open(driver="GTiff", **size) as dataset:
            dataset.write(values)
        rasterio.shutil.copy(memory.name, path, driver=driver, **profile)
    path.with_name(f"{path.name}.aux.xml").unlink(missing_ok=True)


def world_file(path: Path, gsd: float, left: float, top: float) -> None:
    """Write a world file: six numbers, no CRS."""
    numbers = (gsd, 0, 0, -gsd, left + gsd / 2, top - gsd / 2)
    path.with_suffix(".tfw").write_text("".join(f"{n:.10f}\n" for n in numbers))


def recompressed(image: Pixels) -> Pixels:
    """Compress and decompress an image (3, height, width) as JPEG, which changes all colours."""
    noisy = 13 + 0.9 * image + np.random.default_rng(1).normal(0, 4, image.shape)
    with MemoryFile(ext=".tif") as source, MemoryFile(ext=".jpg") as lossy:
        count, height, width = image.shape
        with source.open(
            driver="GTiff", count=count, height=height, width=width, dtype="uint8"
        ) as dataset:
            dataset.write(noisy.clip(0, 255).astype(np.uint8))
        rasterio.shutil.copy(source.name, lossy.name, driver="JPEG", quality=75)
        with lossy.open() as dataset:
            values: Pixels = dataset.read()
            return values


def potsdam_classes(name: str) -> Pixels:
    return town([ord(c) for c in name], POTSDAM_SIDE, POTSDAM_SIDE)


def vaihingen_classes(name: str) -> Pixels:
    height, width = np.random.default_rng(int(name)).integers(90, 150, 2)
    return town(int(name), height, width)


def deliver_potsdam(root: Path, names: Iterable[str]) -> None:
    """Write adjacent patches with the faults of the real ones."""
    for name in names:
        row, col = map(int, name.split("_"))
        padded = f"{row:02}_{col:02}"
        classes = potsdam_classes(name)
        place = (0.05, 367_000 + col * 6.4, 5_808_000 - row * 6.4)

        image = photograph(classes, 4, row * 100 + col)
        image[3, :20, :20] = 0  # infrared in the shade: no mask
        ortho = root / f"4_Ortho_RGBIR/top_potsdam_{name}_RGBIR.tif"
        plain(ortho, image, photometric="rgb", alpha="unspecified")
        world_file(ortho, *place)

        heights = surface(classes)
        dsm = root / f"1_DSM/dsm_potsdam_{padded}.tif"
        plain(dsm, heights[:, :, :-1] if name == "3_13" else heights)
        world_file(dsm, *place)

        above = (METRES[classes] * 10).astype(np.uint8)[None]
        ndsm = f"1_DSM_normalisation/dsm_potsdam_{padded}_normalized_lastools.jpg"
        plain(root / ndsm, above[:, :, :-1] if name == "3_13" else above, "JPEG", quality=95)

        label = root / f"5_Labels_all/top_potsdam_{name}_label.tif"
        plain(label, potsdam_label(name))
        if row < 4:
            world_file(label, *place)
    (root / "5_Labels_all/top_potsdam_7_10_label.tif").write_text("not checked")


def potsdam_label(name: str) -> Pixels:
    image = eroded(potsdam_classes(name))
    if name == "4_12":
        return recompressed(image)
    if name == "6_7":
        image[0, (image == [[[255]], [[255]], [[0]]]).all(axis=0)] = 252
    return image


def deliver_vaihingen(root: Path, names: Iterable[str]) -> None:
    """Write areas of many sizes; labels have no georeference."""
    for name in names:
        classes = vaihingen_classes(name)
        place = (0.09, 496_000 + int(name) * 20, 5_420_000)
        ortho = root / f"top/top_mosaic_09cm_area{name}.tif"
        plain(ortho, photograph(classes, 3, int(name)), photometric="rgb")
        world_file(ortho, *place)
        dsm = root / f"dsm/dsm_09cm_matching_area{name}.tif"
        plain(dsm, surface(classes))
        world_file(dsm, *place)
        plain(root / f"gts_for_participants/top_mosaic_09cm_area{name}.tif", eroded(classes))
