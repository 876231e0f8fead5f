"""What a variant does otherwise than the package, as small hooks on the training loop.

A hook is a function whose first argument is its strength. Random choices come from the generator of
the step, so that no variant changes which tiles the others see, or how those are augmented.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Self, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.ablation.baselines import Network
from benchmarks.ablation.package import Inputs, Sample, SampleKey
from cafe_cli.classes import NODATA
from cafe_cli.errors import ConfigError
from cafe_cli.model.cafe import CaFE, TrainingOutputs, labels_at
from cafe_cli.model.encoders import STRIDES
from cafe_cli.training.losses import labelled_pixels, pyramid_loss

Random: TypeAlias = np.random.Generator
BatchHook: TypeAlias = Callable[[float, Sample, Random], Sample]
GuideHook: TypeAlias = Callable[[float, CaFE, Sample, Random], Tensor]
LossHook: TypeAlias = Callable[[float, TrainingOutputs, Tensor], Tensor]


@dataclass(frozen=True)
class Recipe:
    """The hooks of a variant.

    Attributes
    ----------
    batch
        Change a batch before the network sees it.
    guide
        Return the labels that steer the guided path; those of the loss stay as they are.
    loss
        Return what is added to the loss.
    guided : float
        Share of the batches that are guided at all.
    averaged : float
        Decay of an exponential moving average of the weights, which is then what is scored; 0: off.
    balanced : float
        Share of the tiles that are drawn by a class, all classes alike.
    """

    batch: tuple[Callable[[Sample, Random], Sample], ...] = ()
    guide: Callable[[CaFE, Sample, Random], Tensor] | None = None
    loss: tuple[Callable[[TrainingOutputs, Tensor], Tensor], ...] = ()
    guided: float = 1.0
    averaged: float = 0.0
    balanced: float = 0.0

    @classmethod
    def of(cls, strengths: Mapping[str, float]) -> Self:
        """Look the hooks up by their names.

        Raises
        ------
        ConfigError
            There is no such hook.
        """
        plain = {k: v for k, v in strengths.items() if k in {"guided", "averaged", "balanced"}}
        if unknown := strengths.keys() - plain.keys() - BATCH.keys() - GUIDE.keys() - LOSS.keys():
            raise ConfigError(f"no hook of the study is named {sorted(unknown)[0]!r}")
        guides = [partial(GUIDE[name], s) for name, s in strengths.items() if name in GUIDE]
        return cls(
            batch=tuple(partial(BATCH[name], s) for name, s in strengths.items() if name in BATCH),
            guide=guides[0] if guides else None,
            loss=tuple(partial(LOSS[name], s) for name, s in strengths.items() if name in LOSS),
            **plain,
        )

    def outputs(self, network: Network, batch: Sample, random: Random) -> TrainingOutputs:
        """Run the network on a batch as this recipe wants it to be guided."""
        if not isinstance(network, CaFE) or network.architecture.guidance == "none":
            return network.training_outputs(*batch.inputs, batch.labels)
        if random.uniform() >= self.guided:
            return plainly(network, batch)
        steering = self.guide(network, batch, random) if self.guide else batch.labels
        return network.training_outputs(*batch.inputs, steering)


def plainly(network: CaFE, batch: Sample) -> TrainingOutputs:
    """Run the plain path only."""
    architecture = network.architecture
    network.architecture = replace(architecture, guidance="none")
    try:
        return network.training_outputs(*batch.inputs, batch.labels)
    finally:
        network.architecture = architecture


# ------------------------------------------------------------------ batches


def gamma(strength: float, batch: Sample, random: Random) -> Sample:
    """Raise the values of each image, as shares of its brightest, to a power exp(±strength)."""
    optical = batch.inputs.optical
    drawn = np.exp(random.uniform(-strength, strength, (len(optical), 1, 1, 1)))
    power = torch.from_numpy(drawn.astype(np.float32)).to(optical.device)
    brightest = optical.amax(dim=(1, 2, 3), keepdim=True).clamp(min=1)
    bent = brightest * (optical / brightest).clamp(min=0) ** power
    return batch._replace(inputs=batch.inputs._replace(optical=bent))


def zoom(strength: float, batch: Sample, random: Random) -> Sample:
    """Enlarge or shrink a batch by exp(±strength): a part of it, or the whole in fewer pixels."""
    factor = float(np.exp(random.uniform(-strength, strength)))
    side = min(batch.labels.shape[-2:])
    shown = min(round(side / factor), side)
    # A multiple of the coarsest stride: padding would be something else that differs.
    target = min(max(round(side * factor / STRIDES[-1]), 1) * STRIDES[-1], side)
    row, col = random.integers(np.array(batch.labels.shape[-2:]) - shown + 1).tolist()

    def resized(x: Tensor, mode: str) -> Tensor:
        part = x[..., row : row + shown, col : col + shown]
        smooth = {"align_corners": False, "antialias": True} if mode == "bilinear" else {}
        return F.interpolate(part, (target, target), mode=mode, **smooth)

    def nearest(x: Tensor) -> Tensor:
        return resized(x[:, None].float(), "nearest-exact")[:, 0].to(x.dtype)

    optical, optical_valid, height, height_valid = batch.inputs
    inputs = Inputs(
        resized(optical, "bilinear"),
        nearest(optical_valid),
        resized(height, "nearest-exact"),
        nearest(height_valid),
    )
    return Sample(inputs, nearest(batch.labels))


def borders(reach: float, batch: Sample, random: Random) -> Sample:
    """Take away the labels of pixels up to `reach` pixels from another label."""
    labels = batch.labels[:, None].float()
    side = 2 * int(reach) + 1
    highest = F.max_pool2d(labels, side, 1, int(reach))
    lowest = -F.max_pool2d(-labels, side, 1, int(reach))
    inner = (highest == lowest)[:, 0]
    return batch._replace(labels=torch.where(inner, batch.labels, NODATA))


# ------------------------------------------------------------------ guidance


def noise(probability: float, network: CaFE, batch: Sample, random: Random) -> Tensor:
    """Let each category of each image join the unlabelled region with this probability."""
    classes = network.architecture.classes
    drawn = random.uniform(size=(len(batch.labels), classes + 1)) < probability
    missing = torch.from_numpy(drawn).to(batch.labels.device)
    regions = batch.labels.clamp(max=classes).flatten(1)
    gone = missing.gather(1, regions).view(batch.labels.shape)
    return torch.where(gone, NODATA, batch.labels)


def predicted(probability: float, network: CaFE, batch: Sample, random: Random) -> Tensor:
    """Steer each image with this probability by what the plain path takes it for."""
    network.eval()  # or the running statistics would see each batch twice
    with torch.no_grad():
        guess = network(*batch.inputs).argmax(dim=1)
    network.train()
    drawn = random.uniform(size=(len(guess), 1, 1)) < probability
    chosen = torch.from_numpy(drawn).to(guess.device)
    return torch.where(chosen & (batch.labels != NODATA), guess, batch.labels)


# ------------------------------------------------------------------ losses


def smoothing(strength: float, outputs: TrainingOutputs, labels: Tensor) -> Tensor:
    """Give this share of every target to all classes alike, at all heads."""
    # Of (1 - s) CE + s U, with U against the even distribution, CE is in the loss already.
    terms = [
        uniform_loss(path, labels) - pyramid_loss(path, labels)
        for path in (outputs.student, outputs.teacher)
        if path is not None
    ]
    return strength * torch.stack(terms).sum()


def uniform_loss(path: list[Tensor], labels: Tensor) -> Tensor:
    """Return the cross-entropy against the even distribution, as `pyramid_loss` averages."""
    terms = []
    for logits in path:
        target = labels_at(labels, logits.shape[-2:])
        each = -logits.float().log_softmax(dim=1).mean(dim=1)
        terms.append((each * (target != NODATA)).sum() / labelled_pixels(target))
    return torch.stack(terms).mean()


def lovasz(strength: float, outputs: TrainingOutputs, labels: Tensor) -> Tensor:
    """Add Lovász-softmax (Berman et al., CVPR 2018) over the classes of the batch."""
    path = outputs.student or outputs.teacher
    if path is None:
        raise ConfigError("Lovász-softmax needs a path to supervise")
    return strength * lovasz_softmax(path[-1], labels)


def lovasz_softmax(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the Lovász extension of 1 - IoU, averaged over the classes that occur."""
    known = labels != NODATA
    probability = logits.float().softmax(dim=1).movedim(1, -1)[known]
    target = labels[known]
    terms = []
    for c in torch.unique(target).tolist():
        own = (target == c).float()
        error, order = (own - probability[:, c]).abs().sort(descending=True)
        own = own[order]
        missed = own.sum() - own.cumsum(0)
        jaccard = 1 - missed / (own.sum() + (1 - own).cumsum(0))
        steps = torch.diff(jaccard, prepend=jaccard.new_zeros(1))
        terms.append((error * steps).sum())
    return torch.stack(terms).mean() if terms else logits.sum() * 0


BATCH: dict[str, BatchHook] = {"gamma": gamma, "zoom": zoom, "borders": borders}
GUIDE: dict[str, GuideHook] = {"noise": noise, "predicted": predicted}
LOSS: dict[str, LossHook] = {"smoothing": smoothing, "lovasz": lovasz}


# ------------------------------------------------------------------ tiles and weights


def balance(
    share: float, batches: Iterable[list[SampleKey]], counts: NDArray[np.int64], random: Random
) -> Iterator[list[SampleKey]]:
    """Replace a share of the tiles by ones drawn by class: first a class, then a tile that has it.

    Parameters
    ----------
    counts : ndarray of int64, (tiles, classes)
        Labelled pixels. A class draws tiles in proportion to its pixels in them.
    """
    found = counts[:, counts.any(axis=0)]
    weights = found / found.sum(axis=0)
    for keys in batches:
        drawn = []
        for key in keys:
            if random.uniform() < share:
                c = random.integers(weights.shape[1])
                key = key._replace(tile=int(random.choice(len(weights), p=weights[:, c])))
            drawn.append(key)
        yield drawn


class Averaged:
    """An exponential moving average of a network's weights and running statistics."""

    def __init__(self, network: Network, decay: float) -> None:
        self.network = copy.deepcopy(network)
        self._decay, self._steps = decay, 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Take in the weights after a step; the first ones are forgotten sooner."""
        self._steps += 1
        decay = min(self._decay, self._steps / (9 + self._steps))
        pairs = zip(_state(self.network), _state(network), strict=True)
        for mean, now in pairs:
            if mean.is_floating_point():
                mean.lerp_(now, 1 - decay)
            else:
                mean.copy_(now)


def _state(network: nn.Module) -> Sequence[Tensor]:
    return list(network.state_dict().values())
