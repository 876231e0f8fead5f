"""The exponential moving average of weights, against the sum written down."""

import copy

import pytest
import torch

from cafe_cli.training.averaging import build_average
from tests.support.engines import tiny_model


@pytest.mark.parametrize("decay", [0.3, 0.99])
def test_each_update_keeps_its_share(decay):
    network = tiny_model()
    average = build_average(network, decay)
    weight, norm = network.head[-1].weight, network.optical_encoder.model.bn1
    expected = None
    for step in range(4):
        with torch.no_grad():
            weight.fill_(step + 1.0)
        norm.running_var.fill_(step + 1.0)
        norm.num_batches_tracked.fill_(step)
        average.update_parameters(network)
        share = min(decay, (1 + step) / (10 + step))
        expected = share * expected + (1 - share) * (step + 1) if step else 1.0
        own = average.module
        assert own.head[-1].weight.unique().tolist() == pytest.approx([expected])
        running = own.optical_encoder.model.bn1
        assert running.running_var.unique().tolist() == pytest.approx([expected])
        assert int(running.num_batches_tracked) == step


def test_constants_are_not_touched():
    """Statistics of the inputs, among them limits near the largest float32, stay to the bit."""
    network = tiny_model()
    before = copy.deepcopy(network)
    average = build_average(network, 0.99)
    for _ in range(5):
        average.update_parameters(network)
    for name, value in average.module.state_dict().items():
        assert value.equal(before.state_dict()[name]), name
