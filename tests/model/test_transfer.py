import pytest
import torch

from cafe_cli.model.transfer import Matching, take_weights
from tests.support.small_network import build, scene

RGBN = ("red", "green", "blue", "nir")
CLASSES = ("ground", "building", "tree")


def features(network, inputs):
    with torch.no_grad():
        return network.eval().encode(*inputs)


def logits(network, inputs):
    with torch.no_grad():
        return network.eval()(*inputs)


def take(new, old, bands=RGBN, classes=CLASSES, old_bands=RGBN, old_classes=CLASSES, **options):
    return take_weights(
        new, old, Matching.of(bands, old_bands), Matching.of(classes, old_classes), **options
    )


def by_name(parts):
    return {part.name: part for part in parts}


def other(**changes):
    """A network with other weights than those of `build`."""
    network = build(**changes)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter))
    return network


@pytest.mark.parametrize(
    ("new", "old", "places", "left_out"),
    [
        (("Building", "low_vegetation"), ("low vegetation", "building"), (1, 0), ()),
        (("a", "b"), ("a", "b"), (0, 1), ()),
        (("a ", "c"), ("A", "b"), (0, None), ("b",)),
        (("A", "a"), ("a", "b"), (None, 0), ("b",)),  # equal names come first
        (("x",), ("a", "b"), (None,), ("a", "b")),
        (("High-Vegetation",), ("ground", "HIGH  VEGETATION"), (1,), ("ground",)),
    ],
)
def test_matching(new, old, places, left_out):
    found = Matching.of(new, old)
    assert (found.places, found.left_out) == (places, left_out)


def test_all_of_the_same_network():
    new, old = other(), build()
    parts = take(new, old)
    assert all(part.taken == part.tensors and not part.note.startswith("new") for part in parts)
    inputs = scene()[0]
    assert torch.equal(logits(new, inputs), logits(old, inputs))


def test_a_deployed_model_gives_its_head_to_the_pyramid():
    new, old = other(), build()
    parts = by_name(take(new, old.deployed(2.0), temperature=2.0))
    assert parts["heads of the pyramid"].note == "start as copies of the head: the model has none"
    inputs = scene()[0]
    assert torch.allclose(logits(new, inputs), logits(old, inputs), atol=1e-5)
    for head in new.pyramid_heads:
        assert torch.allclose(head[-1].weight, old.head[-1].weight)


@pytest.mark.parametrize(
    "bands", [("blue", "green", "red", "nir"), ("nir", "red", "green", "blue")]
)
def test_bands_in_another_order(bands):
    new, old = other(), build()
    take(new, old, bands=bands)
    inputs = scene()[0]
    order = [RGBN.index(band) for band in bands]
    found = features(new, (inputs[0][:, order], *inputs[1:]))
    assert all(
        torch.allclose(a, b, atol=1e-5)
        for level, wanted in zip(found, features(old, inputs), strict=True)
        for a, b in zip(level, wanted, strict=True)
    )


def test_a_new_band_changes_nothing_at_first():
    new, old = other(), build(optical_bands=3)
    parts = by_name(take(new, old, old_bands=RGBN[:3]))
    assert parts["image encoder"].note == "bands: red, green, blue taken; nir new"
    (optical, *rest), _ = scene()
    wanted = logits(old, (optical[:, :3], *rest))
    assert torch.allclose(logits(new, (optical, *rest)), wanted, atol=1e-5)


def test_a_second_plane_of_heights_changes_nothing_at_first():
    new, old = other(height_planes=2), build()
    parts = by_name(take(new, old))
    assert parts["height encoder"].taken == parts["height encoder"].tensors
    assert parts["height encoder"].note.endswith("taken; height above the valley floor new")
    (*image, metres, valid), _ = scene()
    both = torch.cat([metres, torch.rand_like(metres)], dim=1)
    wanted = logits(old, (*image, metres, valid))
    assert torch.allclose(logits(new, (*image, both, valid)), wanted, atol=1e-5)
    again = other()
    take(again, new)
    assert torch.allclose(logits(again, (*image, metres, valid)), wanted, atol=1e-5)


def test_bands_that_the_tiles_lack():
    new, old = other(optical_bands=2), build()
    parts = by_name(take(new, old, bands=("nir", "green")))
    assert parts["image encoder"].note == "bands: nir, green taken; red, blue left out"
    ours, theirs = (n.optical_encoder.state_dict() for n in (new, old))
    first = next(name for name, value in ours.items() if value.shape != theirs[name].shape)
    assert torch.equal(ours[first], theirs[first][:, [3, 1]])


def test_no_band_in_common():
    new, old = other(optical_bands=1), build()
    before = next(iter(new.optical_encoder.state_dict().values())).clone()
    parts = by_name(take(new, old, bands=("swir",)))
    image = parts["image encoder"]
    assert image.taken == image.tensors - 1
    assert torch.equal(next(iter(new.optical_encoder.state_dict().values())), before)


@pytest.mark.parametrize(
    ("classes", "note"),
    [
        (("Tree", "ground", "BUILDING"), "classes: Tree, ground, BUILDING taken"),
        (
            ("water", "tree", "ground", "building"),
            "classes: tree, ground, building taken; water new",
        ),
        (("tree", "building"), "classes: tree, building taken; ground left out"),
    ],
)
def test_classes_by_name(classes, note):
    new, old = other(classes=len(classes), stream_heads=True), build(stream_heads=True)
    parts = by_name(take(new, old, classes=classes))
    assert parts["head"].note == note
    inputs = scene()[0]
    found, wanted = logits(new, inputs), logits(old, inputs)
    places = [CLASSES.index(c.lower()) if c.lower() in CLASSES else None for c in classes]
    for number, place in enumerate(places):
        expected = wanted.mean(dim=1) if place is None else wanted[:, place]
        assert torch.allclose(found[:, number], expected, atol=1e-4)
    rows = new.stream_heads[5].weight, old.stream_heads[5].weight
    known = [(n, p) for n, p in enumerate(places) if p is not None]
    assert all(torch.equal(rows[0][n], rows[1][p]) for n, p in known)


def test_no_class_in_common():
    new, old = other(classes=2), build()
    before = new.head[-1].weight.clone()
    parts = by_name(take(new, old, classes=("x", "y")))
    assert parts["head"].taken == parts["head"].tensors - 2
    assert torch.equal(new.head[-1].weight, before)


@pytest.mark.parametrize(
    ("changes", "part", "note"),
    [
        ({"optical_encoder": "resnet18"}, "image encoder", "new: resnet18, the model has mobile"),
        ({"height_encoder": "resnet18"}, "height encoder", "new: resnet18, the model has mobile"),
        ({"width": 16}, "decoder", "new: 16 channels wide, the model has 8"),
        ({"heights": False}, "height encoder", "left out: the tiles have no heights"),
    ],
)
def test_another_architecture(changes, part, note):
    new, old = other(**changes), build()
    found = by_name(take(new, old))[part]
    assert found.note.startswith(note)
    if note.startswith("new"):
        assert found.taken < found.tensors


def test_a_model_without_heights():
    new, old = other(), build(heights=False)
    found = by_name(take(new, old))["height encoder"]
    assert (found.taken, found.note) == (0, "new: mobilenet_v2, the model has no heights")
