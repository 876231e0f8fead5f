"""The training loss: pyramid loss supervision of each path, distillation, Dice, auxiliary terms.

All losses are float32, ignore pixels without a label (255) and are means over the labelled pixels
of the batch, so that every such pixel has the same weight. Without a single label they are 0, and
so are their gradients.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from cafe_cli.classes import NODATA
from cafe_cli.model.cafe import TrainingOutputs, labels_at

_TEMPERATURE = 0.1


def training_loss(
    outputs: TrainingOutputs,
    labels: Tensor,
    distill_weight: float = 1.0,
    dice: float = 0.0,
    smoothing: float = 0.0,
    stream_heads: float = 0.0,
    category_contrast: float = 0.0,
) -> dict[str, Tensor]:
    """Return the loss of a training step and its parts.

    Parameters
    ----------
    outputs : TrainingOutputs
        Result of `CaFE.training_outputs`.
    labels : Tensor
        (B, H, W) int64, 255 where there is none.
    distill_weight, dice : float
        Weights of `distillation_loss` (with both paths) and of `dice_loss` (of each path).
    smoothing : float
        Label smoothing of the cross-entropy of each path.
    stream_heads, category_contrast : float
        Weights of the cross-entropy of the heads on the streams, and of `contrast_loss`.

    Returns
    -------
    dict of str to Tensor
        Scalars: the parts by name as they enter the sum, and the sum, "total".
    """
    student, teacher = outputs.student, outputs.teacher
    parts: dict[str, Tensor] = {}
    for name, path in (("student", student), ("teacher", teacher)):
        if path is None:
            continue
        parts[name] = pyramid_loss(path, labels, smoothing)
        if dice:
            parts[f"{name}_dice"] = dice * dice_loss(path[-1], labels)
    if student is not None and teacher is not None:
        distillation = distillation_loss(student[-1], teacher[-1], labels)
        parts["distillation"] = distill_weight * distillation
    if stream_heads and outputs.streams:
        parts["stream_heads"] = stream_heads * pyramid_loss(outputs.streams, labels)
    if category_contrast and outputs.finest is not None:
        contrast = contrast_loss(outputs.finest, labels)
        parts["category_contrast"] = category_contrast * contrast
    return {**parts, "total": torch.stack(list(parts.values())).sum()}


def pyramid_loss(
    outputs: list[Tensor],
    labels: Tensor,
    smoothing: float = 0.0,
) -> Tensor:
    """Supervise each head at its own scale (PLS): the mean of their cross-entropies.

    Parameters
    ----------
    outputs : list of Tensor
        Logits (B, K, h, w), each at the scale of its head, see `CaFE.training_outputs`.
    labels : Tensor
        (B, H, W) int64, 255 where there is none; sampled at the pixel centres of each scale.
    smoothing : float
        Share of a pixel's label that is spread evenly over all classes (label smoothing, Szegedy et
        al. 2016).

    Returns
    -------
    Tensor
        Scalar.
    """
    terms = []
    for logits in outputs:
        target = labels_at(labels, logits.shape[-2:])
        total = F.cross_entropy(
            logits.float(), target, ignore_index=NODATA, reduction="sum",
            label_smoothing=smoothing,
        )  # fmt: skip
        terms.append(total / labelled_pixels(target))
    return torch.stack(terms).mean()


def distillation_loss(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """Return the KL divergence of the student from the detached teacher.

    Parameters
    ----------
    student, teacher : Tensor
        Logits (B, K, H, W).
    labels : Tensor
        (B, H, W) int64; only labelled pixels count: elsewhere nothing guided the teacher.

    Returns
    -------
    Tensor
        Scalar, the mean KL divergence of the student from the teacher, sum of t log(t / s), in
        nats (Hinton et al. 2015, at temperature 1).
    """
    divergence = F.kl_div(
        student.float().log_softmax(dim=1),
        teacher.detach().float().log_softmax(dim=1),
        reduction="none",
        log_target=True,
    )
    labelled = labels != NODATA
    return (divergence.sum(dim=1) * labelled).sum() / labelled_pixels(labels)


def dice_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return 1 - soft Dice, averaged over the classes that the labels of the batch contain.

    Parameters
    ----------
    logits : Tensor
        (B, K, H, W).
    labels : Tensor
        (B, H, W) int64, 255 where there is none.

    Returns
    -------
    Tensor
        Scalar, 0 to 1 (Milletari et al. 2016, with plain instead of squared sums).
    """
    ids = torch.arange(logits.shape[1], device=labels.device)
    target = (labels[:, None] == ids[:, None, None]).float()
    probability = logits.float().softmax(dim=1) * (labels != NODATA)[:, None]
    overlap = (probability * target).sum(dim=(0, 2, 3))
    area = target.sum(dim=(0, 2, 3))
    total = probability.sum(dim=(0, 2, 3)) + area
    present = (area > 0).float()
    loss = 1 - 2 * overlap / total.clamp(min=1e-6)
    return (loss * present).sum() / present.sum().clamp(min=1)


def contrast_loss(features: Tensor, labels: Tensor) -> Tensor:
    """Tell pixels apart by their similarity to the mean features of the categories.

    Each category that the labels of the batch contain is represented by the mean, over its pixels,
    of their features of length 1. A pixel's logits are its cosines to these means, divided by a
    temperature of 0.1. The features of a category are drawn together, and away from the others.

    Parameters
    ----------
    features : Tensor
        (B, C, h, w).
    labels : Tensor
        (B, H, W) int64, 255 where there is none; sampled at the pixel centres of the features.

    Returns
    -------
    Tensor
        Scalar, the mean cross-entropy of the labelled pixels.
    """
    target = labels_at(labels, features.shape[-2:])
    labelled = target != NODATA
    if not labelled.any():
        return features.sum() * 0.0
    with torch.autocast(features.device.type, enabled=False):
        x = F.normalize(features.float(), dim=1).movedim(1, -1)[labelled]
        member = F.one_hot(target[labelled]).to(x.dtype)
        member = member[:, member.any(dim=0)]  # of the categories that occur
        means = F.normalize(member.T @ x, dim=1)
        return F.cross_entropy(x @ means.T / _TEMPERATURE, member)


def without_borders(labels: Tensor, width: int) -> Tensor:
    """Return labels (B, H, W) int64 with 255 within `width` pixels of a pixel of another class."""
    if not width:
        return labels
    known, values = labels != NODATA, labels.float()
    side = 2 * width + 1
    highest = F.max_pool2d(values.masked_fill(~known, -1.0), side, 1, width)
    lowest = -F.max_pool2d((-values).masked_fill(~known, -float(NODATA)), side, 1, width)
    return labels.masked_fill(known & (highest > lowest), NODATA)


def labelled_pixels(labels: Tensor) -> Tensor:
    """Count the pixels that have a label; 1 where there are none, for use as a divisor."""
    return (labels != NODATA).sum().clamp(min=1)
