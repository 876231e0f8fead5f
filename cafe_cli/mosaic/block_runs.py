"""Run the blocks of a mosaic: one after the other in this process, or on a cluster."""

import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from cafe_cli.cluster.checks import check_folder, check_versions, threads_per_worker
from cafe_cli.cluster.cluster import Cluster
from cafe_cli.cluster.job import ClusterOptions, Task
from cafe_cli.cluster.worker import describe
from cafe_cli.config.choices import OnError
from cafe_cli.errors import OutputError
from cafe_cli.mosaic.block_store import BlockStore
from cafe_cli.mosaic.blocks import BlockResult, BlockTask, make_block
from cafe_cli.mosaic.job import MosaicOptions
from cafe_cli.mosaic.plan import MosaicPlan
from cafe_cli.raster.window import Window

_ARRIVAL = 30.0  # seconds until a file that another machine wrote is visible, at most
_PAUSE = 0.2


@contextmanager
def open_cluster(options: ClusterOptions | None) -> Iterator[Cluster | None]:
    """Connect to a cluster whose workers have this version of cafe; None without options.

    Raises
    ------
    ConfigError, CafeError
        See `cafe_cli.cluster.cluster.Cluster`.
    """
    if options is None:
        yield None
        return
    with Cluster(options) as cluster:
        check_versions(cluster.ask(describe))
        yield cluster


def run_blocks(
    planned: MosaicPlan,
    blocks: Sequence[tuple[str, Window]],
    store: BlockStore,
    options: MosaicOptions,
    cluster: Cluster | None,
) -> Generator[BlockResult, None, None]:
    """Make blocks, and yield what became of each, on a cluster in the order in which they end.

    Raises
    ------
    CafeError
        A block failed, or a worker does not see the folder of the output.
    """
    if cluster is None:
        for task in _tasks(planned, blocks, store, options.method, options.on_error, options.jobs):
            yield make_block(task)
        return
    for folder in store.folders:
        check_folder(cluster, folder, "write to a folder that all machines share")
    jobs = options.jobs or threads_per_worker(cluster.ask(describe))
    absolute, given = planned.absolute()
    tasks = _tasks(absolute, blocks, store, options.method, options.on_error, jobs)
    sent = (Task(f"block-{t.name}", make_block, (replace(t, given=given),), owner=t) for t in tasks)
    for outcome in cluster.run(sent):
        result: BlockResult = outcome.result()
        _await_files(outcome.task.owner, result)
        yield result


def _tasks(
    planned: MosaicPlan,
    blocks: Iterable[tuple[str, Window]],
    store: BlockStore,
    method: str,
    on_error: OnError,
    jobs: int | None,
) -> Iterator[BlockTask]:
    for name, window in blocks:
        here, positions = planned.restricted(window)
        products = store.products(name)
        yield BlockTask(name, window, here, positions, products, method, on_error, jobs)


def _await_files(task: BlockTask, result: BlockResult) -> None:
    """Wait until the files that a worker has written are visible here."""
    until = time.monotonic() + _ARRIVAL
    for product in task.products if result.files else ():
        folder = product.path.parent
        for name, file in result.files[product.name].items():
            while not _has_size(folder / name, file.bytes):
                if time.monotonic() > until:
                    raise OutputError(
                        f"{folder / name} was written by a worker, but is not visible here after "
                        f"{_ARRIVAL:.0f} s: all machines have to see {folder}"
                    )
                time.sleep(_PAUSE)


def _has_size(path: Path, size: int) -> bool:
    try:
        return path.stat().st_size == size
    except OSError:
        return False
