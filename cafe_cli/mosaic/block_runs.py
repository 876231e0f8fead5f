"""Run the blocks of a mosaic: one after the other in this process, or on a cluster."""

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

from cafe_cli.cluster.checks import await_file, check_folder, threads_per_worker
from cafe_cli.cluster.cluster import Cluster
from cafe_cli.cluster.job import ClusterOptions, Task
from cafe_cli.config.choices import OnError
from cafe_cli.mosaic.block_store import BlockStore
from cafe_cli.mosaic.blocks import BlockResult, BlockTask, make_block
from cafe_cli.mosaic.job import MosaicOptions
from cafe_cli.mosaic.plan import MosaicPlan
from cafe_cli.raster.window import Window


def open_cluster(options: ClusterOptions | None) -> AbstractContextManager[Cluster | None]:
    """Return a cluster to be entered; of None without options."""
    return Cluster(options) if options else nullcontext()


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
    jobs = options.jobs or threads_per_worker(cluster.facts)
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
    for product in task.products if result.files else ():
        for name, file in result.files[product.name].items():
            await_file(product.path.parent / name, file.bytes)
