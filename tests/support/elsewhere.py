"""Run batches as other processes would: nothing is shared, and items are worked on twice."""

import pickle
from collections.abc import Iterable, Iterator
from typing import Any

from cafe_cli.system.batches import Batch, R, T, U


def run_elsewhere(batches: Iterable[Batch[R, T, U]]) -> Iterator[Iterator[tuple[T, U]]]:
    """Run every item on a copy of its batch, the last item first, and each of them twice."""
    for batch in batches:
        stored = pickle.dumps(batch)
        results: list[U] = [_work(stored, index) for index in reversed(range(len(batch.items)))]
        yield zip(batch.items, reversed(results), strict=True)


def _work(stored: bytes, index: int) -> Any:
    for _ in range(2):
        batch = pickle.loads(stored)
        with batch.opened() as own:
            result = batch.work(own, batch.items[index])
    return pickle.loads(pickle.dumps(result))
