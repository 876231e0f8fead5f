"""The healthy inputs that cases are made from."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio.raw
import rasterio
import shapely

from tests.support.rasters import grid, noise, package, write

GRID = grid(64, 48)
CONFIGS = Path(__file__).parents[2] / "configs"


def config_seeds(folder: Path) -> list[bytes]:
    from cafe_cli.config.load import dump_config
    from cafe_cli.config.schema import Config
    from tests.support.engines import settings

    texts = [path.read_text() for path in sorted(CONFIGS.glob("*.toml"))]
    texts += [dump_config(Config()), dump_config(settings())]
    return [text.encode() for text in texts]


def tileset_seeds(folder: Path) -> list[bytes]:
    """Descriptions of a plain and a virtual tile set in `folder`."""
    from cafe_cli.tilesets.make import tile
    from tests.support.engines import cut, settings, write_town

    write_town(folder, "a", 128, 128, seed=1)
    write_town(folder, "b", 64, 128, seed=2, origin=(0, 1000))
    cut(folder, folder / "tiles")
    config = settings().model_copy(update={"root": str(folder)})
    tile(config, folder / "virtual", virtual=True)
    return [(folder / s / "tileset.json").read_bytes() for s in ("tiles", "virtual")]


def model_seeds(folder: Path) -> list[bytes]:
    """Headers of a model with and without heights; the tensors stay in `folder`."""
    from cafe_cli.model import model_file
    from tests.support.engines import ENCODER, card_of, tiny_model

    found = []
    for i, changes in enumerate(({}, {"height_encoder": ENCODER})):
        network = tiny_model(**changes)
        path = folder / f"model{i}.safetensors"
        model_file.save(path, network, card_of(network))
        content = path.read_bytes()
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        header["__metadata__"] = {k: json.loads(v) for k, v in header["__metadata__"].items()}
        found.append(json.dumps(header).encode())
        (folder / "tensors").write_bytes(content[8 + length :])
    return found


def vector_seeds(folder: Path) -> list[bytes]:
    """The same polygons in several formats, and some geometries of other kinds."""
    left, bottom, right, top = 300_002.0, 5_199_980.0, 300_030.0, 5_199_998.0
    shapes = [
        shapely.box(left, bottom, left + 9, top),
        shapely.MultiPolygon([shapely.box(right - 9, bottom, right, top)]),
        shapely.box(left, bottom, right, top).difference(
            shapely.box(left + 12, bottom + 3, left + 15, top - 3)
        ),
    ]
    values = np.array([0, 1, 2], np.int32)
    suffixes = {
        "gpkg": "GPKG", "geojson": "GeoJSON", "fgb": "FlatGeobuf", "gml": "GML", "kml": "KML",
        "csv": "CSV",
    }  # fmt: skip
    found = []
    for suffix, driver in suffixes.items():
        path = folder / f"seed.{suffix}"
        more: dict[str, Any] = {"GEOMETRY": "AS_WKT"} if suffix == "csv" else {}
        pyogrio.raw.write(
            path, shapely.to_wkb(np.array(shapes)), [values], ["class"], driver=driver,
            geometry_type="Unknown", crs="EPSG:32632", layer="labels", **more,
        )  # fmt: skip
        found.append(path.read_bytes())
    collection = shapely.GeometryCollection([shapely.Point(0, 0), shapes[0]])
    line = shapely.LineString([(left, bottom), (right, top)])
    pairs: list[tuple[dict[str, Any], Any]] = [
        ({"class": "a"}, collection), ({"class": None}, line),
        ({"class": 1.5, "other": [1]}, shapes[2]),
    ]  # fmt: skip
    features = [
        {"type": "Feature", "properties": p, "geometry": json.loads(shapely.to_geojson(g))}
        for p, g in pairs
    ]
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32632"}}
    mixed = {"type": "FeatureCollection", "crs": crs, "features": features}
    found.append(json.dumps(mixed).encode())
    found.append(
        b"<OGRVRTDataSource>\n<OGRVRTLayer name='seed'>\n"
        + f"<SrcDataSource relativeToVRT='0'>{folder}/seed.gpkg</SrcDataSource>\n".encode()
        + b"<SrcLayer>labels</SrcLayer>\n<LayerSRS>EPSG:32632</LayerSRS>\n"
        b"<GeometryType>wkbPolygon</GeometryType>\n</OGRVRTLayer>\n</OGRVRTDataSource>\n"
    )
    return found


def raster_seeds(folder: Path) -> list[bytes]:
    """GeoTIFFs of many layouts, and a virtual raster."""
    kinds: dict[str, dict[str, Any]] = {
        "plain": {}, "tiles": {"tiled": True, "blockxsize": 16, "blockysize": 16},
        "deflate": {"compress": "deflate", "predictor": 2}, "lzw": {"compress": "lzw"},
        "zstd": {"compress": "zstd"}, "packbits": {"compress": "packbits"},
        "band": {"interleave": "band", "tiled": True, "blockxsize": 32, "blockysize": 32},
        "big": {"BIGTIFF": "YES"}, "jpeg": {"compress": "jpeg", "tiled": True},
        "other end": {"ENDIANNESS": "BIG"}, "nodata": {"nodata": 0},
    }  # fmt: skip
    paths = [
        write(folder / f"{k}.tif", noise(3, GRID), GRID, **v).__str__() for k, v in kinds.items()
    ]
    mask = np.ones((GRID.height, GRID.width), bool)
    mask[:9] = False
    paths.append(write(folder / "mask.tif", noise(3, GRID), GRID, mask=mask))
    paths.append(write(folder / "alpha.tif", noise(4, GRID), GRID, alpha=4))
    paths.append(write(folder / "u16.tif", noise(3, GRID, "uint16"), GRID))
    heights = np.linspace(0, 20, GRID.width * GRID.height, dtype=np.float32)
    heights = heights.reshape(1, GRID.height, GRID.width)
    paths.append(write(folder / "heights.tif", heights, GRID, nodata=-9999, units="m"))
    paths.append(
        write(folder / "h64.tif", heights.astype(float), GRID, compress="deflate", predictor=3)
    )
    labels = noise(1, GRID) % 3
    paths.append(write(folder / "labels.tif", labels, GRID, nodata=255, compress="deflate"))
    palette = write(folder / "palette.tif", labels, GRID, photometric="palette")
    with rasterio.open(palette, "r+") as dataset:
        dataset.write_colormap(1, {0: (9, 9, 9, 255), 1: (9, 99, 9, 255), 2: (200, 0, 0, 255)})
    paths.append(palette)
    with rasterio.open(folder / "tiles.tif", "r+") as dataset:
        dataset.build_overviews([2, 4])
    paths.append(package(folder / "a.gpkg", ["ortho"], GRID))
    rasterio.shutil.copy(folder / "plain.tif", folder / "a.vrt", driver="VRT")
    text = (folder / "a.vrt").read_text()
    text = text.replace("plain.tif", str(folder / "plain.tif")).replace(
        'relativeToVRT="1"', 'relativeToVRT="0"'
    )
    return [Path(path).read_bytes() for path in paths] + [text.encode()]


SEEDS: dict[str, Callable[[Path], list[bytes]]] = {
    "config": config_seeds, "tileset": tileset_seeds, "model": model_seeds,
    "vector": vector_seeds, "raster": raster_seeds,
}  # fmt: skip
