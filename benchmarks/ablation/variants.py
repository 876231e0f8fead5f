"""The tables of the study as data: variants by name, and what a table compares with what.

What a variant does not say is as in the config: guidance, too, so that the tables other than
`inputs` and `guidance` vary one thing around whatever the config (or ``--set``) makes the base.
Variants that come to the same settings are the same runs, whatever their names.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Network = Literal["cafe", "cafe_rgb", "unet", "unet_rgb"]
"""CaFE, CaFE without heights, a U-Net that gets the heights as bands, a U-Net without them."""


@dataclass(frozen=True)
class Variant:
    """One way to train.

    Attributes
    ----------
    title : str
        For the tables.
    config : dict
        Dotted keys of the config and their values.
    recipe : dict of str to float
        Hooks of `recipe` by name, and their strengths.
    network : Network
    """

    title: str
    config: Mapping[str, object] = field(default_factory=dict)
    recipe: Mapping[str, float] = field(default_factory=dict)
    network: Network = "cafe"


class Entry(NamedTuple):
    """A row of a table: a variant, and the pass over the validation ground that is looked at."""

    variant: str
    path: str = "plain"


class Table(NamedTuple):
    """What is compared: rows, and the row that all are compared with."""

    title: str
    reference: Entry
    entries: tuple[Entry, ...]


def _guidance(kind: str) -> dict[str, object]:
    return {"model.guidance": kind}


def _distilled(weight: float) -> dict[str, object]:
    return {**_guidance("distill"), "train.distill_weight": weight}


_NONE, _LABELS, _DISTILL = (_guidance(kind) for kind in ("none", "labels", "distill"))

VARIANTS: dict[str, Variant] = {
    "base": Variant("base"),
    # inputs
    "rgb": Variant("RGB only, one stream", _NONE, network="cafe_rgb"),
    "unet_rgb": Variant("RGB only, smp.Unet", _NONE, network="unet_rgb"),
    "unet": Variant("early fusion, smp.Unet", _NONE, network="unet"),
    "none": Variant("two streams, no guidance", _NONE),
    # guidance
    "labels": Variant("guided by labels", _LABELS),
    "distill": Variant("guided path teaches, weight 1", _distilled(1.0)),
    "distill_0.3": Variant("guided path teaches, weight 0.3", _distilled(0.3)),
    "distill_0": Variant("both paths, no teaching", _distilled(0.0)),
    "labels_noisy": Variant("by labels, half of the masks missing", _LABELS, {"noise": 0.5}),
    "labels_half": Variant("by labels, every other batch", _LABELS, {"guided": 0.5}),
    "distill_noisy": Variant("teaches, half of the masks missing", _distilled(1.0), {"noise": 0.5}),
    "distill_noisier": Variant("teaches, 4 of 5 masks missing", _distilled(1.0), {"noise": 0.8}),
    "distill_predicted": Variant(
        "teaches, half of the masks predicted", _distilled(1.0), {"predicted": 0.5}
    ),
    # enhancement and fusion
    "cel_none": Variant("CEL off", {**_DISTILL, "model.enhancement": "none"}),
    "cel_1-p": Variant("CEL 1 - p", {**_DISTILL, "model.enhancement": "1-p"}),
    "cel_exp": Variant("CEL exp(-p)", {**_DISTILL, "model.enhancement": "exp"}),
    "cel_inverse": Variant("CEL 1 / p, clipped", {**_DISTILL, "model.enhancement": "inverse"}),
    "sum": Variant("fusion: sum", {**_DISTILL, "model.fusion": "sum"}),
    "gated": Variant("fusion: gated", {**_DISTILL, "model.fusion": "gated"}),
    "pyramid": Variant("pyramid loss", {**_DISTILL, "model.pyramid": True}),
    "no_pyramid": Variant("no pyramid loss", {**_DISTILL, "model.pyramid": False}),
    # recipes
    "dice_0": Variant("Dice 0", {"train.dice": 0.0}),
    "dice_0.5": Variant("Dice 0.5", {"train.dice": 0.5}),
    "lovasz": Variant("Lovász 0.5 in place of Dice", {"train.dice": 0.0}, {"lovasz": 0.5}),
    "smoothing": Variant("label smoothing 0.1", recipe={"smoothing": 0.1}),
    "borders": Variant("labels within 2 px of a boundary ignored", recipe={"borders": 2}),
    "balanced": Variant("half of the tiles by class, evenly", recipe={"balanced": 0.5}),
    "averaged": Variant("averaged weights (EMA 0.99)", recipe={"averaged": 0.99}),
    "dropout_0": Variant("height dropout 0", {"train.height_dropout": 0.0}),
    "dropout_0.1": Variant("height dropout 0.1", {"train.height_dropout": 0.1}),
    "dropout_0.3": Variant("height dropout 0.3", {"train.height_dropout": 0.3}),
    "dropout_0.5": Variant("height dropout 0.5", {"train.height_dropout": 0.5}),
    "width_32": Variant("decoder width 32", {"model.width": 32}),
    "width_128": Variant("decoder width 128", {"model.width": 128}),
    "light_heights": Variant(
        "height encoder RegNetX-002", {"model.height_encoder": "tu-regnetx_002"}
    ),
    "attention_64": Variant("attention over 64 px", {"model.attention": 64}),
    "attention_128": Variant("attention over 128 px", {"model.attention": 128}),
    "color_0": Variant("colour jitter 0", {"train.color_jitter": 0.0}),
    "color_0.3": Variant("colour jitter 0.3", {"train.color_jitter": 0.3}),
    "gamma": Variant("gamma jitter, exp(±0.3)", recipe={"gamma": 0.3}),
    "zoom": Variant("zoom jitter, exp(±0.3)", recipe={"zoom": 0.3}),
}


def _entries(*names: str) -> tuple[Entry, ...]:
    """Make rows of ``variant`` or ``variant@pass``."""
    return tuple(Entry(*name.split("@")) for name in names)


_DROPOUTS = ("dropout_0", "dropout_0.1", "dropout_0.3", "dropout_0.5")

TABLES: dict[str, Table] = {
    "inputs": Table(
        "What the heights bring", Entry("none"), _entries("unet_rgb", "rgb", "unet", "none")
    ),
    "guidance": Table(
        "Guidance by category",
        Entry("none"),
        _entries(
            "none", "labels", "distill", "distill_0.3", "distill_0", "labels_noisy", "labels_half",
            "distill_noisy", "distill_noisier", "distill_predicted",
        ),
    ),
    "enhancement": Table(
        "Enhancement, fusion, pyramid loss",
        Entry("distill"),  # CEL is part of the guided path
        _entries(
            "distill", "cel_none", "cel_1-p", "cel_exp", "cel_inverse", "sum", "gated", "pyramid",
            "no_pyramid",
        ),
    ),
    "recipes": Table(
        "Recipes",
        Entry("base"),
        _entries(
            "base", "base@d4", "dice_0", "dice_0.5", "lovasz", "smoothing", "borders", "balanced",
            "averaged", *_DROPOUTS, "width_32", "width_128", "light_heights", "attention_64",
            "attention_128", "color_0", "color_0.3", "gamma", "zoom",
        ),
    ),
    "heights": Table(
        "Heights that are missing where the map is made",
        Entry("rgb"),
        _entries("rgb", *(f"{d}@{p}" for p in ("plain", "void30", "void100") for d in _DROPOUTS)),
    ),
}  # fmt: skip


def variants_of(tables: Iterable[str]) -> list[str]:
    """Return the variants of some tables, each once."""
    return list(dict.fromkeys(e.variant for t in tables for e in TABLES[t].entries))


def passes_of(variants: Iterable[str]) -> list[str]:
    """Return the passes over the validation ground that some table wants of one of the variants."""
    names = set(variants)
    rows = (e for t in TABLES.values() for e in t.entries if e.variant in names)
    return list(dict.fromkeys(["plain", *(e.path for e in rows)]))
