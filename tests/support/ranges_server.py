"""A web server for test_remote.py: ``python ranges_server.py FOLDER LOG`` prints its port and runs.

``/ranges/FILE`` answers range requests; ``/whole/FILE`` sends all of a file whatever is asked for;
``/until-N/FILE`` breaks the connection off at byte N of the file. LOG gets a line for each
request: status, bytes of the file sent. A process of its own, because rasterio holds Python's lock
in some of the calls in which GDAL waits for an answer.
"""

import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Answer(BaseHTTPRequestHandler):
    """The answer to one request."""

    protocol_version = "HTTP/1.1"
    folder, log = Path(), Path()

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, with_body: bool) -> None:
        manner, _, name = self.path.partition("?")[0].removeprefix("/").partition("/")
        if not (self.folder / name).is_file():
            self.note(404, 0)
            self.send_error(404)
            return
        content = (self.folder / name).read_bytes()
        asked = None
        if manner != "whole":
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        first, stop = 0, len(content)
        if asked:
            first, stop = int(asked[1]), min(int(asked[2] or stop) + 1, stop)
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(stop - first))
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{stop - 1}/{len(content)}")
        self.end_headers()
        body = content[first:stop] if with_body else b""
        if limit := re.fullmatch(r"until-(\d+)", manner):
            body = body[: max(int(limit[1]) - first, 0)]
            self.close_connection = with_body
        self.note(206 if asked else 200, len(body))
        self.wfile.write(body)

    def note(self, status: int, sent: int) -> None:
        with self.log.open("a") as file:
            file.write(f"{status} {sent}\n")

    def log_message(self, *words: object) -> None:
        """Say nothing."""


if __name__ == "__main__":
    Answer.folder, Answer.log = map(Path, sys.argv[1:])
    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        sys.stdout.write(f"{server.server_address[1]}\n")
        sys.stdout.flush()
        server.serve_forever()
