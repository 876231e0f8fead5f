import copy

import pytest
import torch
from timm.layers.norm_act import convert_sync_batchnorm
from torch import nn

from cafe_cli.config.schema import TrainSettings
from cafe_cli.errors import ConfigError
from cafe_cli.model.cafe import CaFE
from cafe_cli.model.encoders import build_encoder
from cafe_cli.model.inputs import Inputs, Sample
from cafe_cli.training import activation_checkpointing, step
from cafe_cli.training.distributed import processes
from cafe_cli.training.distributed.sync_batchnorm import batch_statistics
from cafe_cli.training.nonfinite import find_nonfinite_losses
from cafe_cli.training.step import LossModule, NotFiniteError, Step, encoders, split_batch
from tests.support.engines import settings, tiny_model


def batch(tiles: int, side: int = 64, seed: int = 0) -> Sample:
    torch.manual_seed(seed)
    valid = torch.ones(tiles, side, side, dtype=torch.bool)
    optical = torch.rand(tiles, 3, side, side) * 255
    height = torch.rand(tiles, 1, side, side) * 10
    labels = torch.randint(3, (tiles, side, side))
    return Sample(Inputs(optical, valid, height, valid), labels)


def a_step(network=None, pretrained=(), **changes) -> Step:
    changes = {"optimizer": "sgd", "learning_rate": 0.1, "momentum": 0, "weight_decay": 0} | changes
    chosen = TrainSettings(warmup=0, **changes)
    alone = processes.launch(processes.plan("cpu", chosen), chosen)
    made = Step(network or tiny_model(), chosen, alone, 10, pretrained)
    made.begin_epoch(0)
    return made


def weights(made: Step) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in made.network.parameters()])


def buffers(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.named_buffers()}


def without_batch_norm(module: nn.Module) -> nn.Module:
    for name, part in module.named_children():
        if isinstance(part, nn.BatchNorm2d):
            setattr(module, name, nn.GroupNorm(1, part.num_features))
        else:
            without_batch_norm(part)
    return module


# --- parts of a step ---------------------------------------------------------------------------


@pytest.mark.parametrize(("tiles", "parts"), [(6, 3), (5, 4), (3, 1)])
def test_split(tiles, parts):
    whole = batch(tiles, 8)
    found = split_batch(whole, parts)
    assert len(found) == parts
    assert {len(part.labels) for part in found} <= {tiles // parts, -(-tiles // parts)}
    assert torch.equal(torch.cat([part.labels for part in found]), whole.labels)
    for place, values in enumerate(whole.inputs):
        assert torch.equal(torch.cat([part.inputs[place] for part in found]), values)


@pytest.mark.slow
def test_parts_count_by_their_labelled_pixels():
    tiles = batch(3)
    tiles.labels[0, 10:] = 255
    tiles.labels[2] = 255
    network = without_batch_norm(tiny_model(pyramid=False))
    made = [a_step(copy.deepcopy(network), accumulate=parts) for parts in (1, 2, 3)]
    before = weights(made[0])
    losses = [one(tiles, 0) for one in made]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    assert losses[2] == pytest.approx(losses[0], rel=1e-4)
    moves = [weights(one) - before for one in made]
    assert moves[0].norm() > 1e-3
    for move in moves[1:]:
        assert (move - moves[0]).norm() < 1e-4 * moves[0].norm()


def test_nothing_labelled_moves_nothing():
    tiles = batch(2)
    tiles.labels[:] = 255
    made = a_step(accumulate=2)
    before = weights(made)
    assert made(tiles, 0)["loss"] == 0
    assert torch.equal(weights(made), before)


@pytest.mark.slow
@pytest.mark.parametrize("limit", [1e-3, 1e3])
def test_clip(limit):
    made, free = a_step(clip=limit), a_step()
    before = weights(made)
    made(batch(2), 0)
    free(batch(2), 0)
    lengths = [float((weights(one) - before).norm()) for one in (made, free)]
    assert lengths[0] == pytest.approx(min(0.1 * limit, lengths[1]), rel=1e-3)


def test_the_learning_rate_of_a_pretrained_encoder_is_a_share():
    network, tiles = tiny_model(), batch(2)
    made = [
        a_step(copy.deepcopy(network), kind, encoder_learning_rate=0.3)
        for kind in ((), ("height_encoder",))
    ]
    for one in made:
        one(tiles, 0)
    moves = [
        {k: v - network.get_parameter(k) for k, v in one.network.named_parameters()} for one in made
    ]
    for name, whole in moves[0].items():
        factor = 0.3 if name.startswith("height_encoder.") else 1
        torch.testing.assert_close(moves[1][name], factor * whole, rtol=1e-3, atol=1e-6)
    assert any(move.abs().max() > 1e-3 for name, move in moves[1].items() if "height_enc" in name)


@pytest.mark.slow
def test_dropout_is_a_function_of_the_step():
    draws = []
    for number in (3, 4, 3):
        a_step()(batch(2), number)
        draws.append(float(torch.rand(())))
    assert draws[0] == draws[2] != draws[1]


# --- precision ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "within"), [("32-true", torch.float32), ("bf16-mixed", torch.bfloat16)]
)
def test_inputs_keep_their_precision(monkeypatch, precision, within):
    """Raw values: 8 bits of 420.3 m are 420 m."""
    seen, network = [], tiny_model()
    real = CaFE.encode

    def noting(self, optical, valid, height, known):
        seen.extend([optical.dtype, height.dtype])
        return real(self, optical, valid, height, known)

    monkeypatch.setattr(CaFE, "encode", noting)
    network.decoder.lateral[0].register_forward_hook(lambda *args: seen.append(args[-1].dtype))
    a_step(network, precision=precision)(batch(2), 0)
    assert set(seen[:2]) == {torch.float32}
    assert set(seen[2:]) == {within}


# --- frozen encoders ---------------------------------------------------------------------------


def test_frozen_encoders():
    made = a_step(freeze_epochs=1)
    network = made.network
    before = {name: value.clone() for name, value in network.state_dict().items()}

    def changed() -> set[str]:
        state = network.state_dict()
        return {name.split(".")[0] for name in before if not torch.equal(state[name], before[name])}

    made(batch(2), 0)
    assert not changed() & {"optical_encoder", "height_encoder"}
    assert changed() >= {"decoder", "head", "fusions"}
    made.begin_epoch(1)
    made(batch(2), 1)
    assert changed() >= {"optical_encoder", "height_encoder"}
    running = "optical_encoder.model.bn1.running_mean"
    assert not torch.equal(network.state_dict()[running], before[running])


# --- activation checkpointing ------------------------------------------------------------------


@pytest.mark.slow
def test_checkpointing_changes_nothing():
    made = [a_step(checkpointing=twice) for twice in (False, True)]
    losses = [[one(batch(2, seed=k), k) for k in range(3)] for one in made]
    assert losses[0] == losses[1]
    assert torch.equal(weights(made[0]), weights(made[1]))
    first, second = (buffers(one.network) for one in made)
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_checkpointing_of_layers_that_processes_share():
    """As on several GPUs; alone, they normalise as ordinary ones do."""
    networks = [tiny_model(), tiny_model()]
    convert_sync_batchnorm(networks[1])
    made = [a_step(network, checkpointing=True) for network in networks]
    assert made[0](batch(2), 0) == made[1](batch(2), 0)
    first, second = (buffers(one.network) for one in made)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_checkpointing_keeps_less():
    kept = []
    for twice in (False, True):
        held = {}

        def pack(values, held=held):
            held[values.data_ptr()] = values.nbytes
            return values

        losses = LossModule(tiny_model(), TrainSettings(checkpointing=twice)).train()
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda values: values):
            alive = losses(batch(2))["total"]
        kept.append(sum(held.values()))
        alive.backward()
    assert kept[1] < 0.8 * kept[0]


def test_encoders_are_left_as_they_were():
    losses = LossModule(tiny_model(), TrainSettings(checkpointing=True)).train()
    losses(batch(2))["total"].backward()
    parts = [part for encoder in encoders(losses.network) for part in encoder.modules()]
    assert not any("forward" in vars(part) for part in parts)
    assert losses.network.deployed()


@pytest.mark.parametrize(
    ("name", "blocks"), [("resnet18", 8), ("efficientnet-b0", 18), ("mobilenet_v2", 17)]
)
def test_blocks(name, blocks):
    assert len(list(activation_checkpointing.blocks(build_encoder(name, 3, "none")))) == blocks


# --- compilers ---------------------------------------------------------------------------------


def test_compile_wants_a_compiler(monkeypatch):
    def without(function):
        def call(*args):
            raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found\nmore")

        return call

    monkeypatch.setattr(torch, "compile", without)
    with pytest.raises(
        ConfigError, match=r"needs a working compiler \(InvalidCxx.*found\): instal"
    ):
        a_step(compile=True)


def test_compile(monkeypatch):
    compiled = []
    monkeypatch.setattr(torch, "compile", lambda function: function)
    monkeypatch.setattr(nn.Module, "compile", lambda self: compiled.append(self))
    made = a_step(compile=True)
    assert compiled == encoders(made.network)


def test_compile_and_checkpointing():
    with pytest.raises(ConfigError, match="compile and checkpointing exclude each other"):
        settings(train__compile=True, train__checkpointing=True)


# --- a loss that is no number ------------------------------------------------------------------


def test_weights_stay_when_the_loss_is_no_number(monkeypatch):
    made = a_step()
    before = weights(made)
    real = step.training_loss
    infinite = lambda *args, **more: {k: v * torch.inf for k, v in real(*args, **more).items()}  # noqa: E731
    monkeypatch.setattr(step, "training_loss", infinite)
    with pytest.raises(NotFiniteError, match="the loss is inf at step 4"):
        made(batch(2), 3)
    assert torch.equal(weights(made), before)


def test_gradient_that_is_no_number(monkeypatch):
    made = a_step(clip=1.0)
    monkeypatch.setattr(nn.utils, "clip_grad_norm_", lambda *args: torch.tensor(torch.nan))
    with pytest.raises(NotFiniteError, match="the norm of the gradient is nan at step 1"):
        made(batch(2), 0)


def test_find_the_tile():
    tiles = batch(3)
    tiles.inputs.optical[1, 0, 5, 5] = torch.nan
    losses = LossModule(tiny_model(), TrainSettings())
    before = buffers(losses)
    assert find_nonfinite_losses(losses, tiles, torch.no_grad()) == [1]
    assert all(torch.equal(value, before[name]) for name, value in buffers(losses).items())


def test_find_no_tile():
    losses = LossModule(tiny_model(), TrainSettings())
    assert find_nonfinite_losses(losses, batch(2), torch.no_grad()) == []
    assert (
        find_nonfinite_losses(losses, batch(2, 32), torch.no_grad()) == []
    )  # nothing to normalise by


def test_batch_statistics():
    norm = nn.BatchNorm2d(2).eval()
    x = torch.rand(4, 2, 3, 3) + 5
    with batch_statistics(norm):
        assert norm(x).mean().item() == pytest.approx(0, abs=1e-5)
    assert norm(x).mean().item() > 1
