"""Whether an exported file computes what the network computes."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import cycle, islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import softmax
from torch import Tensor

from cafe_cli.config.schema import STRIDE
from cafe_cli.exporting.eight_bit import EightBitNetwork
from cafe_cli.exporting.tools import IMAGE
from cafe_cli.model.cafe import CaFE
from cafe_cli.model.inputs import Inputs, to_tensors
from cafe_cli.model.onnx_file import INPUTS
from cafe_cli.scenes.eight_bit import encode
from cafe_cli.scenes.scene import Patch

NEEDED = 0.9999
"""Share of equal labels without which nothing is written; rounding changes one in a million."""

CLOSE = 0.01
"""Largest difference of a probability, so that a network that always says the same is compared,
too; rounding alone causes 1e-6 to 1e-5."""

OpenSession = Callable[[tuple[int, int, int]], Any]
"""Returns a session of ONNX Runtime for (windows, rows, columns)."""

_Scores = NDArray[np.float32]


@dataclass
class Agreement:
    """Counts pixels whose labels are equal, of those with an image.

    Attributes
    ----------
    equal, pixels : int
    largest : float
        Largest difference of a probability.
    shapes : list of (int, int, int)
        Windows, rows and columns of each batch that was compared.
    """

    equal: int = 0
    pixels: int = 0
    largest: float = 0.0
    shapes: list[tuple[int, int, int]] = field(default_factory=list)

    @property
    def share(self) -> float:
        """Share of equal labels, 0 to 1; 1 without pixels."""
        return self.equal / self.pixels if self.pixels else 1.0

    @property
    def is_enough(self) -> bool:
        """Whether the two compute the same."""
        return self.share >= NEEDED and self.largest <= CLOSE

    def add(self, scores: _Scores, others: _Scores, valid: NDArray[np.bool_]) -> None:
        """Count a batch.

        Parameters
        ----------
        scores, others : ndarray, (windows, K, height, width)
            Probabilities.
        valid : ndarray of bool, (windows, height, width)
            Where there is an image.
        """
        equal = scores.argmax(axis=1) == others.argmax(axis=1)
        self.equal += int(equal[valid].sum())
        self.pixels += int(valid.sum())
        # NaN is kept: no comparison with it is true.
        difference = np.where(valid[:, None], np.abs(scores - others), 0).max()
        self.largest = float(np.maximum(self.largest, difference))
        self.shapes.append(valid.shape)


def compare_for_cafe(
    network: CaFE, patches: Sequence[Patch], open_session: OpenSession, logits: bool = False
) -> Agreement:
    """Compare a file for cafe with its network: windows of several sizes, alone and in batches.

    Parameters
    ----------
    network : CaFE
        In inference mode, on the CPU.
    patches : sequence of Patch
        Of one size.
    open_session : callable
    logits : bool
        Whether that is what the file returns.
    """
    found = Agreement()
    names = INPUTS if network.architecture.heights else INPUTS[:2]
    for group in _groups(patches):
        inputs = _stack(group)
        session = open_session((len(group), *group[0].optical_valid.shape))
        feed = {n: t.numpy() for n, t in zip(names, inputs, strict=False)}
        made = session.run(None, feed)[0]
        scores = softmax(made, axis=1) if logits else made
        found.add(scores, _scores(network, inputs), inputs.optical_valid.numpy())
    return found


def _groups(patches: Sequence[Patch]) -> Iterator[list[Patch]]:
    """Yield every window alone, two together, and parts of others that are not squares."""
    yield from ([patch] for patch in patches)
    yield _first(patches, 2)
    half = STRIDE * max(patches[0].optical_valid.shape[0] // (2 * STRIDE), 1)
    yield [patch.at((slice(0, half), slice(0, None))) for patch in _first(patches, 3)]
    yield [patches[-1].at((slice(0, STRIDE), slice(0, half)))]


def _first(patches: Sequence[Patch], count: int) -> list[Patch]:
    """Return the first patches; they come again where there are fewer."""
    return [*islice(cycle(patches), count)]


def compare_for_tool(
    module: EightBitNetwork, patches: Sequence[Patch], together: int, open_session: OpenSession
) -> tuple[Agreement, Agreement]:
    """Compare a file for another program with its network, and that with all that it may know.

    Parameters
    ----------
    module : EightBitNetwork
    patches : sequence of Patch
        Of the size of the windows; their bands in the order of the network.
    together : int
        Windows in the largest batch.
    open_session : callable

    Returns
    -------
    equal : Agreement
        Of the file with the network, given the same 8 bits.
    kept : Agreement
        Of the file with the network that is given the heights as they are.
    """
    equal, kept = Agreement(), Agreement()
    groups = [[patch] for patch in patches]
    if together > 1:
        groups.append(_first(patches, together))
    for group in groups:
        image = torch.from_numpy(np.stack([_feed(module, patch) for patch in group]))
        session = open_session((len(group), *image.shape[-2:]))
        made = session.run(None, {IMAGE: image.numpy()})[0]
        inputs = _stack(group)
        valid = inputs.optical_valid.numpy()
        with torch.inference_mode():
            wanted = module(image).numpy()
        equal.add(made, wanted, valid)
        kept.add(made, _scores(module.network, inputs), valid)
    return equal, kept


def _feed(module: EightBitNetwork, patch: Patch) -> NDArray[np.float32]:
    """Return a patch as the other programs feed it: bands in their order, divided by 255."""
    values = encode(patch, module.heights)
    bands = [module.order.index(i) for i in range(len(module.order))]
    return (values[[*bands, *range(len(bands), len(values))]] * (1 / 255.0)).astype(np.float32)


def _stack(patches: Sequence[Patch]) -> Inputs:
    each = [to_tensors(*patch) for patch in patches]
    return Inputs(*(torch.stack(tensors) for tensors in zip(*each, strict=True)))


def _scores(network: CaFE, inputs: Inputs) -> _Scores:
    heights: tuple[Tensor | None, Tensor | None] = (None, None)
    if network.architecture.heights:
        heights = inputs.height, inputs.height_valid
    with torch.inference_mode():
        logits: Tensor = network(inputs.optical, inputs.optical_valid, *heights)
        return np.asarray(logits.softmax(dim=1).numpy())
