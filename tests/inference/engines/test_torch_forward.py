"""How models are brought to a device, where a GPU would be asked for."""

import pytest

from cafe_cli.config.schema import PredictSettings
from cafe_cli.inference.engines import torch as engine
from cafe_cli.inference.engines.cuda_graphs import GraphedNetwork
from cafe_cli.inference.ensemble import Ensemble
from cafe_cli.inference.forward import TTATransform
from cafe_cli.inference.tiling import WindowGrid
from tests.support.engines import card_of, ensemble_of, tiny_model


@pytest.fixture
def sized(monkeypatch):
    """Let models stay where they are, and five windows fit; return what was asked for."""
    asked = []

    def fits(device, run_one):
        asked.append(str(device))
        return 5

    monkeypatch.setattr(engine, "prepare_network", lambda model, device: model)
    monkeypatch.setattr(engine, "windows_that_fit", fits)
    return asked


def build(device, batch_size, graphs=False):
    models = [tiny_model(seed) for seed in (0, 1)]
    return engine.build_forward(models, device, batch_size, [TTATransform()], 64, graphs)


@pytest.mark.parametrize(
    ("device", "asked", "batch", "measured"),
    [("cuda:1", None, 5, ["cuda:1"]), ("cuda", 3, 3, []), ("cpu", None, 1, []), ("cpu", 4, 4, [])],
)
def test_batches_are_as_large_as_fits_unless_asked_for(sized, device, asked, batch, measured):
    forward = build(device, asked)
    assert (forward.batch_size, sized) == (batch, measured)
    assert forward.arrays.device == device
    assert len(forward.networks) == 2


@pytest.mark.parametrize(
    ("device", "graphs", "kind"),
    [
        ("cuda", True, GraphedNetwork),
        ("cuda", False, engine.TorchNetwork),
        ("cpu", True, engine.TorchNetwork),
    ],
)
def test_cuda_graphs_are_for_gpus_that_are_asked_for(sized, device, graphs, kind):
    assert {type(network) for network in build(device, None, graphs).networks} == {kind}


@pytest.mark.parametrize("graphs", [True, False])
def test_the_setting_arrives(monkeypatch, graphs):
    seen = []
    monkeypatch.setattr(engine, "build_forward", lambda *arguments: seen.append(arguments[-1]))
    monkeypatch.setattr(Ensemble, "_torch_models", [])
    settings = PredictSettings(cuda_graphs=graphs)
    ensemble_of(card_of(tiny_model())).prepare(settings, WindowGrid(64, 32), "cuda", "torch")
    assert seen == [graphs]
