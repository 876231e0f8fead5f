"""Take the weights of a model into another network: by name and shape, bands and classes by name.

What the network knew, it still knows: a new band enters the first convolution with weights of 0, so
that the features are at first those without it, and the row of a new class is the mean of the rows
that were taken, which no pixel prefers to all of them. Both then learn like any other weight.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cafe_cli.model.architecture import Architecture
from cafe_cli.model.cafe import CaFE
from cafe_cli.model.encoders import build_encoder
from cafe_cli.text import list_some

_PARTS = {
    "optical_encoder": "image encoder", "height_encoder": "height encoder",
    "align": "fusion", "fusions": "fusion", "decoder": "decoder", "head": "head",
    "pyramid_heads": "heads of the pyramid", "stream_heads": "heads on the streams",
}  # fmt: skip
"""Parts in the table of what was taken, by the module that a tensor's name begins with."""

_PER_CLASS = re.compile(r"head\.3\.|pyramid_heads\.\d+\.3\.|stream_heads\.\d+\.")
"""Tensors with a row per class; the fusion has none, since guidance adds no parameters."""


_HEIGHT_CHANNELS = ("height", "validity", "height above the valley floor")


@dataclass(frozen=True)
class TakenPart:
    """A row of the table of what was taken from a model.

    Attributes
    ----------
    name : str
    taken, tensors : int
        Tensors taken at least in part, and all of the part.
    note : str
        What is new, or left out; empty if there is nothing to say.
    """

    name: str
    taken: int
    tensors: int
    note: str = ""


@dataclass(frozen=True)
class Matching:
    """Which entry of one list each entry of another is, by name.

    Attributes
    ----------
    places : tuple of (int or None)
        For each new name the place of the old one, from 0; None if there is none.
    taken, added, left_out : tuple of str
        Names in both lists and in the new one alone, as written there; in the old one alone.
    """

    places: tuple[int | None, ...]
    taken: tuple[str, ...]
    added: tuple[str, ...]
    left_out: tuple[str, ...]

    @classmethod
    def of(
        cls, new: Sequence[str], old: Sequence[str], key: Callable[[str], str] | None = None
    ) -> "Matching":
        """Match names, each old one at most once: equal ones first, then those of equal `key`.

        The key is by default the name in lower case, where underscores, hyphens and spaces are the
        same.
        """
        key = key or plain_name
        found: list[int | None] = [None] * len(new)
        for same in (str, key):
            free = {}
            for place in reversed(range(len(old))):  # of equal old names, the first
                if place not in found:
                    free[same(old[place])] = place
            for number, name in enumerate(new):
                if found[number] is None:
                    found[number] = free.pop(same(name), None)
        return cls(
            tuple(found),
            tuple(name for name, place in zip(new, found, strict=True) if place is not None),
            tuple(name for name, place in zip(new, found, strict=True) if place is None),
            tuple(name for place, name in enumerate(old) if place not in found),
        )

    @property
    def same(self) -> bool:
        """Whether both lists are the same, in the same order."""
        return not self.left_out and self.places == (*range(len(self.places)),)

    def describe(self, many: str) -> str:
        """Say in words what was matched; `many` is what the names are, such as ``classes``."""
        if self.same:
            return ""
        parts = [("taken", self.taken), ("new", self.added), ("left out", self.left_out)]
        said = "; ".join(f"{list_some(names, 6)} {how}" for how, names in parts if names)
        return f"{many}: {said}"


def plain_name(name: str) -> str:
    """Return a name in lower case, where underscores, hyphens and spaces are one space."""
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def take_weights(
    network: CaFE, source: CaFE, bands: Matching, classes: Matching, temperature: float = 1.0
) -> list[TakenPart]:
    """Copy the weights of `source` that fit into `network`; others stay as they are.

    An encoder is taken only if it is of the same name, even where its tensors would fit. Heads of
    the pyramid that `source` lacks, as a model for inference does, begin as its finest head. The
    statistics of the inputs are not weights, and are not copied.

    Parameters
    ----------
    network, source : CaFE
    bands, classes : Matching
        Bands and classes of `network` in those of `source`.
    temperature : float
        What the logits of `source` have been divided by; this is undone.

    Returns
    -------
    list of TakenPart
        A row per part of the network, and one per part of `source` that the network lacks.
    """
    old, unfit = _stored(source, temperature), _other_encoders(network, source)
    channels = {"optical_encoder": bands, "height_encoder": _match_planes(network, source)}
    changed = {
        name: channels[module]
        for module in encoder_names(network.architecture)
        if module not in unfit and not channels[module].same
        for name in _per_channel(source.architecture, module)
    }
    state = {n: t for n, t in network.state_dict().items() if _part(n)}
    taken = set()
    with torch.no_grad():
        for name, own in state.items():
            stored = old.get(name, old.get(re.sub(r"^pyramid_heads\.\d", "head", name)))
            if stored is None or name.partition(".")[0] in unfit:
                continue
            if _PER_CLASS.match(name):
                stored = _rows(stored, classes)
            elif name in changed:
                stored = _channels(stored, changed[name])
            if stored is not None and stored.shape == own.shape:
                own.copy_(stored)
                taken.add(name)
    return [*_table(state, taken, _notes(network, source, bands, classes))]


def _part(name: str) -> str | None:
    """Return the part of the network that a tensor belongs to; None for statistics of inputs."""
    return _PARTS.get(name.partition(".")[0])


def _stored(source: CaFE, temperature: float) -> dict[str, Tensor]:
    """Return the weights by name, the finest head's at a temperature of 1."""
    state = {name: value for name, value in source.state_dict().items() if _part(name)}
    return state | {n: t * temperature for n, t in state.items() if n.startswith("head.3.")}


def encoder_names(architecture: Architecture) -> dict[str, str]:
    """Return the names of a network's encoders, by module."""
    a = architecture
    heights = {"height_encoder": a.height_encoder or a.optical_encoder} if a.heights else {}
    return {"optical_encoder": a.optical_encoder, **heights}


def _other_encoders(network: CaFE, source: CaFE) -> set[str]:
    """Return the encoders of `network` that `source` lacks, or that are of another name there."""
    theirs = encoder_names(source.architecture)
    ours = encoder_names(network.architecture)
    return {part for part, name in ours.items() if theirs.get(part) != name}


def _match_planes(network: CaFE, source: CaFE) -> Matching:
    """Match the channels of the height encoders, which are in the order of `CaFE.encode`."""
    new, old = (_HEIGHT_CHANNELS[: n.architecture.height_planes + 1] for n in (network, source))
    return Matching.of(new, old)


def _per_channel(architecture: Architecture, module: str) -> set[str]:
    """Return the tensors of an encoder whose shape depends on the number of its channels.

    Told from an encoder of one channel more, since encoders differ in how many of their first
    convolutions see the image.
    """
    of_image, of_heights = architecture.optical_bands, architecture.height_planes + 1
    count = of_image if module == "optical_encoder" else of_heights
    name = encoder_names(architecture)[module]
    fewer, more = (build_encoder(name, n, "none").state_dict() for n in (count, count + 1))
    return {f"{module}.{n}" for n, t in fewer.items() if t.shape != more[n].shape}


def _rows(stored: Tensor, classes: Matching) -> Tensor | None:
    """Return the rows (K, ...) of a tensor in the order of the new classes."""
    known = [place for place in classes.places if place is not None]
    if not known:
        return None
    average = stored[known].mean(dim=0)
    rows = [average if place is None else stored[place] for place in classes.places]
    return torch.stack(rows)


def _channels(stored: Tensor, channels: Matching) -> Tensor | None:
    """Return kernels (n, channels, h, w) in the order of the new channels; 0 for one that is new.

    None if no channel was taken, or the tensor has others than the channels of the input.
    """
    count = len(channels.taken) + len(channels.left_out)
    if not channels.taken or stored.ndim != 4 or stored.shape[1] != count:
        return None
    none = torch.zeros_like(stored[:, 0])
    kernels = [none if place is None else stored[:, place] for place in channels.places]
    return torch.stack(kernels, dim=1)


def _notes(network: CaFE, source: CaFE, bands: Matching, classes: Matching) -> dict[str, str]:
    """Return the notes about the parts of a network, by part."""
    new, old = network.architecture, source.architecture
    notes = {"image encoder": bands.describe("bands"), "head": classes.describe("classes")}
    if new.heights and old.heights:
        notes["height encoder"] = _match_planes(network, source).describe("channels")
    theirs = encoder_names(old)
    for module, name in encoder_names(new).items():
        if theirs.get(module) != name:
            there = f"the model has {theirs.get(module, 'no heights')}"
            notes[_PARTS[module]] = f"new: {name}, {there}"
    if not old.pyramid:
        notes["heads of the pyramid"] = "start as copies of the head: the model has none"
    if not old.stream_heads:
        notes["heads on the streams"] = "new: the model has none"
    if new.width != old.width:
        notes["decoder"] = f"new: {new.width} channels wide, the model has {old.width}"
    if old.heights and not new.heights:
        notes["height encoder"] = "left out: the tiles have no heights"
    return notes


def _table(
    state: Mapping[str, Tensor], taken: set[str], notes: Mapping[str, str]
) -> Iterator[TakenPart]:
    """Yield a row for each part of the network, and for each that has a note."""
    members: dict[str, list[str]] = {part: [] for part in _PARTS.values()}
    for name in state:
        members[_part(name) or ""].append(name)
    for part, names in members.items():
        count, note = len(taken & {*names}), notes.get(part, "")
        if names and not count and not note.startswith("new"):
            note = f"new: no tensor of the model fits{note and f'; {note}'}"
        if names or note.startswith("left out"):
            yield TakenPart(part, count, len(names), note)
