"""``cafe`` without its start-up, for tests that run many command lines.

``python warm_cafe.py SOCKET`` imports torch, GDAL and all engines once and forks for every command
that the client sends to the socket: a second of imports less per line. `CLIENT` is that client, to
be put on the PATH under the name ``cafe``. Trainings get `SHORT` appended, so that command lines of
the documentation can be run as they are printed, in seconds.
"""

import gc
import importlib
import json
import multiprocessing
import os
import socket
import sys
from pathlib import Path

SHORT = (
    "--epochs", "1", "--set", "model.optical_encoder=tu-test_resnet",
    "--set", "model.height_encoder=same", "--set", "model.weights=none",
    "--set", "model.height_weights=none", "--set", "model.width=8",
    "--set", "train.crop=64", "--set", "train.workers=0", "--set", "train.batch_size=8",
)  # fmt: skip
"""Options of `cafe train` that win over those before them: the smallest network, one epoch."""

ENGINES = (
    "cli.main", "checks.check", "evaluation.evaluate", "evaluation.sample", "evaluation.suggest",
    "inference.predict", "map_report.report", "mosaic.mosaic", "scenes.height_map",
    "tilesets.make", "training.train", "vectorization.vectorize",
)  # fmt: skip

_FORK = multiprocessing.get_context("fork")

CLIENT = """#!{python} -SE
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as server:
    server.connect({address!r})
    call = json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]).encode()
    socket.send_fds(server, [len(call).to_bytes(8, "big")], [0, 1, 2])
    server.sendall(call)
    sys.exit(int(server.recv(16) or 70))
"""


def serve(address: str) -> None:
    """Answer commands, each in a process of its own, until this process is ended."""
    for name in ENGINES:
        importlib.import_module(f"cafe_cli.{name}")
    gc.freeze()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        while True:
            connection, _ = listener.accept()
            _FORK.Process(target=_answer, args=(connection,)).start()  # reaps those that have ended
            connection.close()


def _answer(connection: socket.socket) -> None:
    """Run one command in a process of its own and send its exit code."""
    head, descriptors, _, _ = socket.recv_fds(connection, 8, 3)
    call = b""
    while len(call) < int.from_bytes(head, "big"):
        call += connection.recv(1 << 16)
    command = _FORK.Process(target=_run, args=(*json.loads(call), descriptors))
    command.start()
    command.join()
    connection.sendall(str(command.exitcode).encode())


def _run(words: list[str], folder: str, variables: dict[str, str], descriptors: list[int]) -> None:
    """Run a command with the words, folder, environment and streams that the client has."""
    from cafe_cli.cli.main import main

    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    command = next((word for word in words if not word.startswith("-")), "")
    sys.argv = ["cafe", *words, *(SHORT if command == "train" else ())]
    main()


def write_client(path: Path, address: Path) -> None:
    """Write the program that stands in for ``cafe``."""
    path.write_text(CLIENT.format(python=sys.executable, address=str(address)), encoding="utf-8")
    path.chmod(0o755)


if __name__ == "__main__":
    serve(sys.argv[1])
