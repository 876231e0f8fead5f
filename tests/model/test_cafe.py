import inspect
import json
from dataclasses import asdict, replace

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from cafe_cli.config.load import parse_config
from cafe_cli.errors import ConfigError
from cafe_cli.model.cafe import (
    Architecture,
    CaFE,
    CategoryFusion,
    Regions,
    eca_kernel,
    enhancement_weights,
    frozen_statistics,
    labels_at,
)
from cafe_cli.training.losses import training_loss
from tests.support.small_network import SMALL, K, build, scene


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Networks this small lose more time in waiting for a second thread than they gain."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def regions_by_loop(x, labels):
    """Pool as the words say it: image by image, region by region."""
    means = torch.zeros(x.shape[0], K + 1, x.shape[1])
    for b in range(x.shape[0]):
        for k, value in enumerate([*range(K), 255]):
            if (labels[b] == value).any():
                means[b, k] = x[b][:, labels[b] == value].mean(dim=1)
    return means


# --- CFF, CEL, CA ---------------------------------------------------------------------------------


def test_pooling_and_spreading_agree_with_a_loop_over_categories():
    x = torch.randn(2, 5, 6, 7)
    labels = torch.tensor([0, 1, 255]).repeat(28).view(2, 6, 7)  # category 2 is nowhere
    regions = Regions.of(labels, K)
    means = regions_by_loop(x, labels)
    torch.testing.assert_close(regions.pool(x), means)
    spread = regions.spread(means)
    for b, i, j in [(0, 0, 0), (0, 3, 4), (1, 5, 6)]:
        k = min(int(labels[b, i, j]), K)
        torch.testing.assert_close(spread[b, :, i, j], means[b, k])


@pytest.mark.parametrize("fusion", ["sum", "gated"])
def test_guided_fusion_by_hand(fusion):
    fuse = CategoryFusion(16, replace(SMALL, fusion=fusion))
    r, d = torch.randn(2, 2, 16, 4, 4)
    labels = torch.randint(0, K, (2, 4, 4))
    labels[0, 0] = 255
    both = torch.cat([r, d], dim=1) if fusion == "gated" else r + d
    attention = fuse.attention(regions_by_loop(both, labels))
    shares = torch.stack([(labels == k).sum((1, 2)) for k in range(K)], 1).float()
    shares /= shares.sum(1, keepdim=True)
    weights = enhancement_weights(shares, "1-p")
    fused = fuse([r, d], Regions.of(labels, K))
    for b, i, j in [(0, 0, 0), (0, 2, 1), (1, 3, 3)]:
        k = min(int(labels[b, i, j]), K)
        weight = 1.0 if k == K else weights[b, k]
        x = both[b, :, i, j] * attention[b, k]
        expected = (x[:16] + x[16:] if fusion == "gated" else x) * weight
        torch.testing.assert_close(fused[b, :, i, j], expected)


@pytest.mark.parametrize("fusion", ["sum", "gated"])
@pytest.mark.parametrize("kind", ["none", "1-p", "exp", "inverse"])
@pytest.mark.parametrize("label", [1, 255])
def test_one_region_is_the_plain_path(fusion, kind, label):
    fuse = CategoryFusion(16, replace(SMALL, fusion=fusion, enhancement=kind))
    streams = list(torch.randn(2, 2, 16, 8, 8))
    regions = Regions.of(torch.full((2, 8, 8), label), K)
    torch.testing.assert_close(fuse(streams, regions), fuse(streams))


@pytest.mark.parametrize("fusion", ["sum", "gated"])
@pytest.mark.parametrize("stride", [4, 32])
def test_attention_over_a_neighbourhood_by_hand(fusion, stride):
    fuse = CategoryFusion(16, replace(SMALL, fusion=fusion, attention=128), stride)
    n = 32 // stride  # pixels of this level along a cell
    r, d = torch.randn(2, 2, 16, 7 * n, 5 * n)
    both = torch.cat([r, d], dim=1) if fusion == "gated" else r + d
    fused = fuse([r, d])
    for i, j in [(0, 0), (3, 2), (6, 4)]:  # in cells, of which two on each side count
        rows, columns = (slice(max(k - 2, 0) * n, (k + 3) * n) for k in (i, j))
        weights = fuse.attention(both[:, None, :, rows, columns].mean((3, 4)))[:, 0]
        cell = slice(i * n, (i + 1) * n), slice(j * n, (j + 1) * n)
        x = both[..., *cell] * weights[..., None, None]
        expected = x[:, :16] + x[:, 16:] if fusion == "gated" else x
        torch.testing.assert_close(fused[..., *cell], expected)


def test_a_neighbourhood_beyond_the_window_is_the_window():
    streams = [x.to(memory_format=torch.channels_last) for x in torch.randn(2, 2, 16, 24, 40)]
    whole, near = (CategoryFusion(16, replace(SMALL, attention=n), 4) for n in (0, 320))
    near.load_state_dict(whole.state_dict())
    torch.testing.assert_close(near(streams), whole(streams))
    assert near(streams).is_contiguous(memory_format=torch.channels_last)


def test_enhancement_weights_by_hand():
    shares = torch.tensor([0.5, 0.3, 0.2])
    raw = torch.tensor([0.5, 0.7, 0.8])  # mean 0.25 + 0.21 + 0.16 = 0.62
    torch.testing.assert_close(enhancement_weights(shares, "1-p"), raw / 0.62)
    inverse = torch.tensor([2.0, 10 / 3, 5.0])  # mean 1 + 1 + 1
    torch.testing.assert_close(enhancement_weights(shares, "inverse"), inverse / 3)
    torch.testing.assert_close(enhancement_weights(shares, "none"), torch.ones(3))
    exp = enhancement_weights(shares, "exp")
    torch.testing.assert_close(exp[0] / exp[2], torch.tensor(-0.3).exp())


@pytest.mark.parametrize("kind", ["none", "1-p", "exp", "inverse"])
def test_enhancement_weights_stay_in_bounds(kind):
    shares = torch.tensor([[1.0, 0, 0], [1 - 1e-5, 1e-5, 0], [0.6, 0.4, 0], [0, 0, 0]])
    weights = enhancement_weights(shares, kind)
    assert weights.isfinite().all()
    torch.testing.assert_close((shares * weights).sum(1), torch.tensor([1.0, 1, 1, 0]))
    assert weights[0, 0] == pytest.approx(1)
    present = weights[1, :2]
    assert present[1] <= 20 * present[0]


def test_eca_kernels_of_the_paper():
    assert [eca_kernel(c) for c in (64, 256, 512, 1024, 2048)] == [3, 5, 5, 5, 7]


def test_labels_are_sampled_at_pixel_centres():
    labels = torch.arange(64).view(1, 8, 8) % 7
    assert labels_at(labels, (8, 8)) is labels
    padded = nn.functional.pad(labels, (0, 24, 0, 24), value=255)
    assert labels_at(labels, (8, 8)).equal(labels)
    assert labels_at(labels, (4, 4))[0, 0, 0] == labels[0, 4, 4]  # stride 8 on 32 x 32
    assert labels_at(labels, (16, 16)).equal(padded[:, 1::2, 1::2])
    assert (labels_at(labels, (1, 1)) == 255).all()


# --- inference ------------------------------------------------------------------------------------


def test_forward_takes_no_labels():
    names = ["self", "optical", "optical_valid", "height", "height_valid"]
    assert list(inspect.signature(CaFE.forward).parameters) == names


@pytest.mark.slow
@pytest.mark.parametrize("size", [(1, 1), (33, 70), (64, 32)])
@pytest.mark.parametrize(("heights", "attention"), [(True, 0), (True, 64), (False, 0)])
def test_any_size(size, heights, attention):
    network = build(heights=heights, attention=attention).eval()
    inputs, _ = scene(*size)
    logits = network(*(inputs if heights else (*inputs[:2], None, None)))
    assert logits.shape == (2, K, *size)
    assert logits.dtype == torch.float32
    assert logits.isfinite().all()


def test_without_heights_there_is_no_height_encoder():
    network = build(heights=False)
    assert not hasattr(network, "height_encoder")
    with pytest.raises(ConfigError, match="needs heights"):
        build()(*scene()[0][:2], None, None)


def test_what_is_not_valid_does_not_matter():
    network = build().eval()
    (optical, optical_valid, height, height_valid), _ = scene()
    expected = network(optical, optical_valid, height, height_valid)
    optical = optical.where(optical_valid[:, None], torch.nan)
    height = height.where(height_valid[:, None], torch.nan)
    assert network(optical, optical_valid, height, height_valid).equal(expected)


def test_a_spike_in_the_heights_is_cut():
    network = build().eval()
    (optical, optical_valid, height, height_valid), _ = scene()
    height_valid[:] = True
    height[:, :, 5, 5] = 10 + 10 * 5
    expected = network(optical, optical_valid, height, height_valid)
    height[:, :, 5, 5] = 1e6
    assert network(optical, optical_valid, height, height_valid).equal(expected)


def strip(width, bright):
    """Return the inputs of a strip of 32 x `width` pixels whose first `bright` are bright."""
    (optical, *_, height_valid), _ = scene(32, width, batch=1)
    optical[..., :bright] += 200
    valid = torch.ones_like(height_valid)
    return optical, valid, torch.zeros_like(optical[:, :1]), valid


@pytest.mark.slow
@pytest.mark.parametrize("attention", [0, 64])
@pytest.mark.parametrize("encoder", ["resnet18", "tu-tf_efficientnet_lite0"])
def test_windows_agree_if_attention_is_bounded(encoder, attention):
    network = build(optical_encoder=encoder, attention=attention).eval()
    inputs = strip(1728, bright=128)
    with torch.inference_mode():
        left = network(*(x[..., :1600] for x in inputs))
        right = network(*(x[..., 128:] for x in inputs))
    # 704 pixels from the window's ends: beyond what the encoder, the decoder and 64 pixels reach.
    left, right = left[..., 832:896], right[..., 704:768]
    assert torch.allclose(left, right, rtol=0, atol=1e-5) == (attention > 0)


@pytest.mark.slow
@pytest.mark.parametrize(("fusion", "attention"), [("sum", 0), ("gated", 0), ("sum", 64)])
def test_guidance_costs_nothing_in_inference(fusion, attention):
    plain = build(guidance="none", pyramid=False, fusion=fusion, attention=attention).eval()
    inputs, _ = scene()
    with FlopCounterMode(display=False) as flops:
        plain(*inputs)
    for guidance in ("none", "labels", "distill"):
        trained = build(guidance=guidance, fusion=fusion, attention=attention).eval()
        with FlopCounterMode(display=False) as own:
            logits = trained(*inputs)
        assert own.get_total_flops() == flops.get_total_flops()
        deployed = trained.deployed()
        assert shapes(deployed) == shapes(plain)
        plain.load_state_dict(deployed.state_dict())
        assert plain(*inputs).equal(logits)
        assert deployed(*inputs).equal(logits)
        assert not deployed.architecture.pyramid


def shapes(network):
    return {name: p.shape for name, p in network.state_dict().items()}


def test_attention_over_a_neighbourhood_has_the_same_weights():
    assert shapes(build(attention=256)) == shapes(build())


def test_an_architecture_stored_before_there_was_a_choice_attends_to_the_window():
    stored = {k: v for k, v in asdict(SMALL).items() if k != "attention"}
    assert Architecture(**stored).attention == 0


@pytest.mark.parametrize("attention", [0, 64])
def test_a_stored_model_is_built_again_from_its_architecture(attention):
    network = build(attention=attention).eval()
    again = CaFE(Architecture(**json.loads(json.dumps(asdict(network.architecture))))).eval()
    again.load_state_dict(network.state_dict())
    inputs, _ = scene()
    assert again(*inputs).equal(network(*inputs))


def test_statistics_are_checked():
    network = build()
    network.set_statistics([1, 2, 3, 4], [1, 0, 1, 1])
    assert network.optical_std.tolist() == [1, 1, 1, 1]
    with pytest.raises(ConfigError, match="give 4 finite"):
        network.set_statistics([1, 2, 3], [1, 1, 1, 1])
    with pytest.raises(ConfigError, match="height_std"):
        network.set_statistics([1] * 4, [1] * 4, [0], [float("nan")])


def test_pixel_values_are_clipped_to_the_limits():
    network = build().eval()
    inputs, _ = scene()
    optical = inputs[0] * 300
    low, high = [20.0, 30.0, 0.0, 10.0], [90.0, 80.0, 200.0, 60.0]
    network.set_statistics([60.0] * 4, [20.0] * 4, optical_limits=(low, high))
    limits = (torch.tensor(v)[:, None, None] for v in (low, high))
    assert network(optical, *inputs[1:]).equal(network(optical.clamp(*limits), *inputs[1:]))
    network.set_statistics([60.0] * 4, [20.0] * 4, optical_limits=([-1e9] * 4, [1e9] * 4))
    assert not network(optical, *inputs[1:]).equal(network(optical.clamp(0, 50), *inputs[1:]))
    with pytest.raises(ConfigError, match="optical_high"):
        network.set_statistics([1] * 4, [1] * 4, optical_limits=([0] * 4, [1] * 3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fusion": "product"}, "sum, gated"),
        ({"classes": 0}, "1 to 255"),
        ({"width": 0}, "width"),
        ({"attention": 100}, "attention is 100: it has to be 0, .* or a multiple of 64 pixels"),
        ({"attention": -64}, "attention is -64"),
        ({"attention": 65536}, "below 65536"),
        ({"attention": 64.0}, r"attention is 64\.0"),
        ({"attention": "64"}, "attention is '64'"),
    ],
)
def test_architecture_is_checked(change, message):
    with pytest.raises(ConfigError, match=message):
        replace(SMALL, **change)


@pytest.mark.parametrize("attention", [100, -64, 65536, 64.5])
def test_the_config_allows_no_other_attention_than_the_architecture(attention):
    with pytest.raises(ConfigError, match=r"model\.attention"):
        parse_config({"model": {"attention": attention}}, "test")


# --- training -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("guidance", ["none", "labels", "distill"])
@pytest.mark.parametrize("pyramid", [True, False])
def test_every_guidance_trains(guidance, pyramid):
    network = build(guidance=guidance, pyramid=pyramid)
    inputs, labels = scene()
    outputs = network.training_outputs(*inputs, labels)
    assert (outputs.student is None) == (guidance == "labels")
    assert (outputs.teacher is None) == (guidance == "none")
    for path in (outputs.student, outputs.teacher):
        if path is not None:
            sizes = [2, 4, 8, 64] if pyramid else [64]
            assert [tuple(x.shape) for x in path] == [(2, K, s, s) for s in sizes]
    loss = training_loss(outputs, labels, dice=0.5)
    parts = sum(v for name, v in loss.items() if name != "total")
    torch.testing.assert_close(loss["total"], parts)
    loss["total"].backward()
    for name, p in network.named_parameters():
        assert p.grad is not None, name
        assert p.grad.isfinite().all(), name


def test_labels_steer_nothing_but_the_teacher():
    network = build().eval()
    inputs, labels = scene()
    one = network.training_outputs(*inputs, labels)
    other = network.training_outputs(*inputs, (labels + 1).clamp(max=K - 1))
    assert all(a.equal(b) for a, b in zip(one.student, other.student, strict=True))
    assert not one.teacher[-1].equal(other.teacher[-1])
    assert one.student[-1].equal(network(*inputs))


@pytest.mark.parametrize(
    ("counts", "relative"),
    [([800, 200, 1], [1, 0.25, 0.01]), ([800, 200, 0], [1, 0.25, 1]), ([0, 0, 0], [1, 1, 1])],
)
def test_the_prior_is_added_in_training_only(counts, relative):
    network = build().eval()
    inputs, labels = scene()
    before, plain = network.training_outputs(*inputs, labels), network(*inputs)
    network.set_prior(counts, 0.5)
    after = network.training_outputs(*inputs, labels)
    added = 0.5 * torch.tensor(relative).log()[:, None, None]
    pairs = zip(before.student + before.teacher, after.student + after.teacher, strict=True)
    for one, other in pairs:
        torch.testing.assert_close(other - one, added.expand_as(one), atol=1e-5, rtol=0)
    assert network(*inputs).equal(plain)
    assert not any("offset" in name for name in network.state_dict())


@pytest.mark.parametrize("heights", [True, False])
def test_heads_on_the_streams_are_for_training_only(heights):
    plain, network = (build(heights=heights, stream_heads=heads) for heads in (False, True))
    inputs, labels = scene()
    outputs = network.training_outputs(*inputs, labels)
    sizes = [size for size in (16, 8, 4, 2) for _ in range(2 if heights else 1)]
    assert [tuple(x.shape) for x in outputs.streams] == [(2, K, n, n) for n in sizes]
    assert outputs.finest.shape == (2, 8, 16, 16)
    loss = training_loss(outputs, labels, stream_heads=0.5, category_contrast=0.1)
    assert loss["stream_heads"] > 0
    assert loss["category_contrast"] > 0
    loss["total"].backward()
    assert all((p.grad != 0).any() for p in network.stream_heads.parameters())
    assert shapes(network.deployed()) == shapes(plain.deployed())
    assert not network.deployed().architecture.stream_heads


def test_training_takes_any_size():
    network = build()
    inputs, labels = scene(33, 70)
    outputs = network.training_outputs(*inputs, labels)
    assert [tuple(x.shape[2:]) for x in outputs.teacher] == [(2, 3), (4, 6), (8, 12), (33, 70)]
    assert training_loss(outputs, labels)["total"].isfinite()


def test_the_teacher_leaves_the_running_statistics_alone():
    inputs, labels = scene()
    buffers = []
    for guidance in ("none", "distill"):
        network = build(guidance=guidance)
        network.training_outputs(*inputs, labels)
        buffers.append(dict(network.named_buffers()))
        assert network.head[1].track_running_stats
    assert all(buffers[0][name].equal(buffers[1][name]) for name in buffers[0])
    assert buffers[0]["head.1.num_batches_tracked"] == 1


def test_frozen_statistics_still_normalise_by_the_batch():
    norm, x = nn.BatchNorm2d(4), torch.randn(8, 4, 5, 5) * 3 + 2
    expected = nn.BatchNorm2d(4)(x)
    with frozen_statistics(norm):
        assert norm(x).equal(expected)
    assert (norm.running_mean == 0).all()


@pytest.mark.parametrize("blank", [[1], [0, 1]])
def test_images_without_labels_are_harmless(blank):
    network = build()
    inputs, labels = scene()
    labels[blank] = 255
    loss = training_loss(network.training_outputs(*inputs, labels), labels, dice=1.0)
    loss["total"].backward()
    assert loss["total"].isfinite()
    assert all(p.grad.isfinite().all() for p in network.parameters())
    if len(blank) == 2:
        assert loss["total"] == 0
        assert all((p.grad == 0).all() for p in network.parameters())


@pytest.mark.parametrize("attention", [0, 64])
def test_mixed_precision_step(attention):
    network = build(fusion="gated", attention=attention).to(memory_format=torch.channels_last)
    inputs, labels = scene()
    with torch.autocast("cpu", torch.bfloat16):
        outputs = network.training_outputs(*inputs, labels)
        loss = training_loss(outputs, labels, dice=1.0)
    assert all(x.dtype == torch.float32 for x in [*outputs.student, *outputs.teacher])
    assert all(value.dtype == torch.float32 for value in loss.values())
    loss["total"].backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert network.eval()(*inputs).dtype == torch.float32


def test_steps_repeat_exactly():
    totals = []
    for _ in range(2):
        network = build()
        inputs, labels = scene()
        loss = training_loss(network.training_outputs(*inputs, labels), labels)["total"]
        loss.backward()
        totals.append([loss, *(p.grad for p in network.parameters())])
    assert all(a.equal(b) for a, b in zip(*totals, strict=True))


def test_temperature_divides_the_logits():
    network = build().eval()
    inputs, _ = scene()
    with torch.inference_mode():
        before, after = network(*inputs), network.deployed(2.0)(*inputs)
    assert torch.equal(after, before / 2)
