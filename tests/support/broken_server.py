"""A web server that fails: ``python -m tests.support.broken_server FOLDER LOG`` prints its port.

As ranges_server.py, which it extends: ``/stall/FILE`` never answers; ``/stall-N/FILE`` stops in the
middle of every answer that reaches byte N; ``/error/FILE`` answers 500; ``/busy/FILE`` answers 503
to every second request; ``/stamped/FILE`` sends an ETag; ``/dated/FILE`` sends Last-Modified;
``/anew/FILE`` sends another ETag each time; ``/locked/FILE`` wants the user ``me``, password
``s3cr3t``.
"""

import base64
import itertools
import re
import sys
import time
from email.utils import formatdate
from http.server import ThreadingHTTPServer
from pathlib import Path

from tests.support.ranges_server import Answer

_count = itertools.count()


class BrokenAnswer(Answer):
    """The answer to one request, or none."""

    manner, file = "", Path()

    def answer(self, with_body: bool) -> None:
        self.manner, _, name = self.path.partition("?")[0].removeprefix("/").partition("/")
        self.file = self.folder / name
        if self.manner == "stall":
            time.sleep(3600)
        elif stop := re.fullmatch(r"stall-(\d+)", self.manner):
            self.path = f"/until-{stop[1]}/{name}"
            super().answer(with_body)
            if with_body and self.file.stat().st_size > int(stop[1]):
                self.wfile.flush()
                time.sleep(3600)
        elif self.manner == "error":
            self.note(500, 0)
            self.send_error(500)
        elif self.manner == "busy" and next(_count) % 2 == 0:
            self.note(503, 0)
            self.send_error(503)
        elif self.manner == "locked" and self.headers["Authorization"] != _ME:
            self.note(401, 0)
            self.send_error(401)
        else:
            super().answer(with_body)

    def end_headers(self) -> None:
        if self.file.is_file():
            changed = self.file.stat().st_mtime_ns
            tags = {
                "stamped": ("ETag", f'"{changed}"'),
                "locked": ("ETag", f'"{changed}"'),
                "dated": ("Last-Modified", formatdate(changed / 1e9, usegmt=True)),
                "anew": ("ETag", f'"{time.time_ns()}"'),
            }
            if self.manner in tags:
                self.send_header(*tags[self.manner])
        super().end_headers()


_ME = f"Basic {base64.b64encode(b'me:s3cr3t').decode()}"

if __name__ == "__main__":
    BrokenAnswer.folder, BrokenAnswer.log = map(Path, sys.argv[1:])
    with ThreadingHTTPServer(("127.0.0.1", 0), BrokenAnswer) as server:
        server.daemon_threads = True
        sys.stdout.write(f"{server.server_address[1]}\n")
        sys.stdout.flush()
        server.serve_forever()
