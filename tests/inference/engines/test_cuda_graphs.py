"""CUDA graphs, with functions of torch.cuda that record and replay on the CPU."""

from contextlib import contextmanager, nullcontext

import pytest
import torch

from cafe_cli.inference.engines.cuda_graphs import GraphedNetwork
from tests.support import small_network


class Graph:
    """Replays what a network did while it was recorded, into the same memory."""

    recording = None

    def __init__(self):
        self.passes = []

    def replay(self):
        for run, inputs, result in self.passes:
            result.copy_(run(*inputs))


class Stream:
    def wait_stream(self, other):
        pass


@contextmanager
def graph(recorded, capture_error_mode):
    assert capture_error_mode == "thread_local"
    Graph.recording = recorded
    try:
        yield
    finally:
        Graph.recording = None


class Network:
    """A network of which a recording graph takes note."""

    def __init__(self, run):
        self.run, self.calls = run, 0

    def __call__(self, *inputs):
        self.calls += 1
        result = self.run(*inputs)
        if Graph.recording is not None:
            Graph.recording.passes.append((self.run, inputs, result))
        return result


@pytest.fixture(autouse=True)
def pretended(monkeypatch):
    fakes = {
        "CUDAGraph": Graph, "Stream": Stream, "graph": graph,
        "current_stream": Stream, "stream": lambda stream: nullcontext(),
    }  # fmt: skip
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)


def twice(*inputs):
    return 2 * inputs[0]


def test_results_are_those_of_the_network():
    network = small_network.build(guidance="none").eval()
    graphed = GraphedNetwork(Network(network))
    with torch.inference_mode():
        for seed in range(3):
            inputs, _ = small_network.scene()
            inputs = (inputs[0] + seed, *inputs[1:])
            assert torch.equal(graphed(*inputs), network(*inputs))


def test_a_shape_is_recorded_once():
    network = Network(twice)
    graphed = GraphedNetwork(network)
    for value in range(5):
        assert graphed(torch.full((4, 3), float(value)), torch.zeros(4)).eq(2 * value).all()
    assert network.calls == 4  # three before the recording, and that


def test_a_result_outlives_the_next_pass():
    graphed = GraphedNetwork(Network(twice))
    first = graphed(torch.ones(2, 2))
    graphed(torch.full((2, 2), 7.0))
    assert first.eq(2).all()


def test_inputs_are_not_changed_and_may_change():
    graphed = GraphedNetwork(Network(twice))
    one, other = torch.ones(2), torch.full((2,), 5.0)
    graphed(one)
    graphed(other)
    assert one.eq(1).all()
    assert other.eq(5).all()


def test_scales_of_one_batch_size_are_kept_other_batch_sizes_dropped():
    network = Network(twice)
    graphed = GraphedNetwork(network)
    for shape in ((8, 64), (8, 96), (8, 64), (8, 96)):
        graphed(torch.ones(shape))
    assert network.calls == 8
    graphed(torch.ones(4, 64))  # the batch was halved: memory did not suffice
    graphed(torch.ones(8, 64))
    assert network.calls == 16


def test_what_cannot_be_recorded_runs_as_it_is(monkeypatch, caplog):
    @contextmanager
    def refuse(recorded, capture_error_mode):
        yield
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(torch.cuda, "graph", refuse)
    graphed = GraphedNetwork(Network(twice))
    for value in (1, 3):
        assert graphed(torch.full((2,), float(value))).eq(2 * value).all()
    assert caplog.messages == [
        "predict.cuda_graphs has no effect: operation not permitted when stream is capturing"
    ]


def test_too_little_memory_is_passed_on():
    def fail(*inputs):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    graphed = GraphedNetwork(fail)
    for _ in range(2):  # not taken for a network that cannot be recorded
        with pytest.raises(torch.cuda.OutOfMemoryError):
            graphed(torch.ones(2))


@pytest.mark.parametrize("enabled", [True, False])
def test_autocast_stays_but_keeps_no_weights(enabled, monkeypatch):
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    torch.set_autocast_cache_enabled(True)  # a state of the process, which other tests change
    seen = []

    def look(*inputs):
        seen.append((torch.is_autocast_enabled("cuda"), torch.is_autocast_cache_enabled()))
        return inputs[0]

    with torch.autocast("cuda", torch.bfloat16, enabled=enabled):
        GraphedNetwork(look)(torch.ones(2))
        assert torch.is_autocast_cache_enabled()
    assert seen == [(enabled, False)] * 4
