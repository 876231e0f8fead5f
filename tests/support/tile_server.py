"""A server of map tiles (XYZ, Web Mercator) that shows a raster, for the documentation's tests."""

import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import rasterio
from rasterio.enums import Resampling
from rasterio.io import MemoryFile
from rasterio.transform import from_origin
from rasterio.vrt import WarpedVRT

_HALF = 20_037_508.342789244  # metres from the middle of Web Mercator to its edge
_SIDE = 256


def tile(raster: Path, z: int, x: int, y: int) -> bytes:
    """Return one tile as PNG, black where the raster shows nothing."""
    pixel = 2 * _HALF / 2**z / _SIDE
    left, top = -_HALF + x * _SIDE * pixel, _HALF - y * _SIDE * pixel
    place = {"transform": from_origin(left, top, pixel, pixel), "width": _SIDE, "height": _SIDE}
    with (
        rasterio.open(raster) as dataset,
        WarpedVRT(dataset, crs="EPSG:3857", resampling=Resampling.bilinear, **place) as view,
        MemoryFile() as memory,
    ):
        with memory.open(driver="PNG", count=3, dtype="uint8", width=_SIDE, height=_SIDE) as png:
            png.write(view.read([1, 2, 3]))
        return bytes(memory.read())


class TileServer:
    """Answers ``/z/x/y.png`` on this machine, from `start` to `stop`."""

    def __init__(self, raster: Path) -> None:
        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = re.fullmatch(r"/(\d+)/(\d+)/(\d+)\.png", self.path)
                if not asked:
                    self.send_error(404)
                    return
                body = tile(raster, *map(int, asked.groups()))
                self.send_response(200)
                self.send_header("Content-Type", "image/png")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *words: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def stop(self) -> None:
        """End the threads."""
        if self._thread.is_alive():
            self._server.shutdown()
        self._server.server_close()
