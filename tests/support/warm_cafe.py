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

SHORT = {
    "train.epochs": 1, "model.optical_encoder": "tu-test_resnet", "model.height_encoder": "same",
    "model.weights": "none", "model.height_weights": "none", "model.width": 8, "train.crop": 64,
    "train.workers": 0, "train.batch_size": 8,
}  # fmt: skip
"""Settings of the shortest training: the smallest network, one epoch."""

_SHORT_OPTIONS = [word for key, value in SHORT.items() for word in ("--set", f"{key}={value}")]
_SHORT_OPTIONS += ["--epochs", "1"]  # wins over the same option before it, as --set does not

_ENGINES = (
    "cli.main", "checks.check", "evaluation.evaluate", "evaluation.sample", "evaluation.suggest",
    "inference.predict", "map_report.report", "mosaic.mosaic", "scenes.height_map",
    "tilesets.make", "training.train", "vectorization.vectorize",
)  # fmt: skip

_LIBRARIES = (
    "segmentation_models_pytorch", "timm", "torch", "torch.utils.tensorboard",
    "cafe_cli.inference.engines.torch", "cafe_cli.model.cafe",
)  # fmt: skip
"""What engines import only where they need it, and what takes long."""

MODULES = (*(f"cafe_cli.{name}" for name in _ENGINES), *_LIBRARIES)
"""What commands import: for processes that fork."""

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
    for name in MODULES:
        importlib.import_module(name)
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
    sys.argv = ["cafe", *words, *(_SHORT_OPTIONS if command == "train" else ())]
    main()


def write_client(path: Path, address: Path) -> None:
    """Write the program that stands in for ``cafe``."""
    path.write_text(CLIENT.format(python=sys.executable, address=str(address)), encoding="utf-8")
    path.chmod(0o755)


if __name__ == "__main__":
    serve(sys.argv[1])
