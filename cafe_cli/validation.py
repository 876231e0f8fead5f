"""What a network makes of the validation tiles."""

from collections.abc import Iterable

import torch

from cafe_cli.loader import Batch
from cafe_cli.model import CaFE
from cafe_cli.processes import Processes
from cafe_cli.tile_scores import Tally


def validate(network: CaFE, batches: Iterable[Batch], tally: Tally, processes: Processes) -> None:
    """Count every tile once; `batches` are this process's, `tally` becomes that of all.

    Raises
    ------
    InputError, LabelError
        A tile that cannot be read, or used; in all processes.
    """
    # Not through the wrapper for several processes, which wants as many batches of each.
    network.eval()
    with processes.agreed(), torch.inference_mode(), processes.fabric.autocast():
        for batch in batches:
            inputs, labels = batch.sample
            predicted = network(*inputs).argmax(dim=1)
            tally.add([key.tile for key in batch.keys], labels, predicted)
    tally.counts = processes.sum(torch.from_numpy(tally.counts)).numpy()
    tally.rows = processes.sum(torch.from_numpy(tally.rows)).numpy()
