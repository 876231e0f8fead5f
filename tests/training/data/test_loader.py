import gc
import threading
from contextlib import closing, contextmanager
from itertools import count

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cafe_cli.config.schema import AugmentSettings, Config, TrainSettings
from cafe_cli.errors import ConfigError, InputError
from cafe_cli.model.inputs import Inputs, Sample
from cafe_cli.tilesets import cache
from cafe_cli.tilesets.tile_rasters import read_tile
from cafe_cli.tilesets.tileset import load_tileset
from cafe_cli.training.data.dataset import TileDataset
from cafe_cli.training.data.loader import Loader
from cafe_cli.training.data.sampler import BatchSampler, SampleKey, batches_in_order
from tests.support.engines import equal
from tests.support.pretended_gpu import PretendedGpu

pytest_plugins = ["tests.support.fixtures"]

CPU = torch.device("cpu")
AUGMENT = Config(train=TrainSettings(crop=32), augment=AugmentSettings(height_dropout=0.5, jpeg=0))


@pytest.fixture(scope="module")
def info(tileset):
    return load_tileset(tileset)


@pytest.fixture(scope="module")
def kept(tileset, info):
    return cache.prepare(tileset, info)


@pytest.fixture(scope="module")
def training(tileset, info, kept):
    return TileDataset(tileset, info, "train", AUGMENT, kept)


@pytest.fixture(autouse=True)
def no_stragglers():
    """No thread outlives a test."""
    before = threading.active_count()
    yield
    assert threading.active_count() <= before


def item(sample: Sample, number: int) -> Sample:
    return Sample(Inputs(*(values[number] for values in sample.inputs)), sample.labels[number])


def close(one: Sample, other: Sample) -> bool:
    """Whether two samples are the same but for rounding, which depends on the size of a batch."""
    pairs = zip([*one.inputs, one.labels], [*other.inputs, other.labels], strict=True)
    return all(torch.allclose(a.float(), b.float(), atol=0.01) for a, b in pairs)


keys = st.builds(SampleKey, st.integers(0, 5), st.integers(0, 2**62))


@settings(max_examples=20)
@given(
    st.lists(st.lists(keys, min_size=1, max_size=4), max_size=5), st.sampled_from([None, 0, 1, 3])
)
def test_batches_hold_the_samples_of_their_keys(training, asked, threads):
    batches = list(Loader(training, CPU, threads).batches(asked))
    assert [batch.keys for batch in batches] == asked
    for batch in batches:
        for number, key in enumerate(batch.keys):
            assert close(item(batch.sample, number), training[key])


def test_an_epoch(training):
    order = BatchSampler(6, 4, seed=3)
    (batch,) = Loader(training, CPU).batches(order)
    assert batch.keys == next(iter(order))
    assert [(tuple(t.shape), t.dtype) for t in (*batch.sample.inputs, batch.sample.labels)] == [
        ((4, 3, 32, 32), torch.float32),
        ((4, 32, 32), torch.bool),
        ((4, 1, 32, 32), torch.float32),
        ((4, 32, 32), torch.bool),
        ((4, 32, 32), torch.int64),
    ]


def test_validation_shows_the_tiles(tileset, info, kept):
    data = TileDataset(tileset, info, "validation", decoded=kept)
    batches = list(Loader(data, CPU).batches(batches_in_order(5, 2)))
    shown = [item(b.sample, n) for b in batches for n in range(len(b.keys))]
    assert len(shown) == 5
    for sample, tile in zip(shown, info.of("validation"), strict=True):
        patch, labels = read_tile(tileset, tile, info.size)
        assert np.array_equal(sample.inputs.optical, patch.optical)
        assert np.array_equal(sample.inputs.height[0], patch.height)
        assert np.array_equal(sample.inputs.height_valid, patch.height_valid)
        assert np.array_equal(sample.labels, labels)


@pytest.mark.parametrize("augment", [None, AUGMENT])
def test_batches_share_no_memory(tileset, info, kept, augment):
    """The buffers are used again; what was yielded stays as it was."""
    data = TileDataset(tileset, info, "train", augment, kept)
    batches = list(Loader(data, CPU).batches([[SampleKey(n % 6, n)] for n in range(9)]))
    for batch in batches:
        assert equal(item(batch.sample, 0), data[batch.keys[0]])


def test_two_batches_are_read_ahead(training):
    asked = count()
    with closing(Loader(training, CPU).batches([SampleKey(0, n)] for n in asked)) as batches:
        for taken in range(1, 5):
            next(batches)
            assert next(asked) == taken + 2 + taken - 1  # `next(asked)` takes one itself


def test_closing_ends_the_threads(training):
    batches = Loader(training, CPU, 3).batches([SampleKey(0, n)] * 2 for n in count())
    next(batches)
    assert threading.active_count() > 1
    batches.close()  # no_stragglers looks for the threads


def test_forgetting_ends_the_threads(training):
    next(Loader(training, CPU).batches([SampleKey(0, n)] for n in count()))
    gc.collect()


@pytest.mark.parametrize("threads", [1, 3])
def test_errors_come_as_they_are(training, monkeypatch, threads):
    error = InputError("a tile is damaged")
    read = TileDataset.read

    def fail(self, source, key, into):
        if key.seed == 5:
            raise error
        return read(self, source, key, into)

    monkeypatch.setattr(TileDataset, "read", fail)
    batches = Loader(training, CPU, threads).batches([SampleKey(0, n)] for n in count())
    assert [next(batches).keys[0].seed for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(InputError) as caught:
        next(batches)
    assert caught.value is error


def test_errors_of_opening_come_as_they_are(training, monkeypatch):
    @contextmanager
    def fail(self):
        raise ConfigError("no such setting")
        yield

    monkeypatch.setattr(TileDataset, "opened", fail)
    with pytest.raises(ConfigError, match="no such setting"):
        list(Loader(training, CPU, 2).batches([[SampleKey(0, 0), SampleKey(1, 0)]]))


def test_what_a_thread_opens_it_closes(training, monkeypatch):
    seen = []
    opened = TileDataset.opened

    @contextmanager
    def noting(self):
        with opened(self) as source:
            seen.append(("open", threading.get_ident()))
            yield source
        seen.append(("close", threading.get_ident()))

    monkeypatch.setattr(TileDataset, "opened", noting)
    list(Loader(training, CPU, 2).batches([[SampleKey(0, n), SampleKey(1, n)] for n in range(20)]))
    for kind in ("open", "close"):
        threads = [thread for what, thread in seen if what == kind]
        assert sorted(threads) == sorted(set(threads))
        assert 1 <= len(threads) <= 2
    assert threading.get_ident() not in {thread for _, thread in seen}


def test_waiting_is_told(training, monkeypatch):
    """By a clock that only reading moves on, and what the consumer does between two batches."""
    now = 0
    read = TileDataset.read

    def slow(*arguments):
        nonlocal now
        now += 1
        return read(*arguments)

    monkeypatch.setattr(TileDataset, "read", slow)
    monkeypatch.setattr("cafe_cli.training.data.loader.time.perf_counter", lambda: now)
    loader = Loader(training, CPU)
    for _ in loader.batches([[SampleKey(0, n) for n in range(3)]]):
        now += 100
    assert loader.waited == 3
    loader.waited = 0
    list(loader.batches([[SampleKey(0, 0)]]))
    assert loader.waited == 1


def test_in_inference_mode(training):
    with torch.inference_mode():
        for batch in Loader(training, CPU).batches([[SampleKey(n, n)] for n in range(6)]):
            assert batch.sample.inputs.optical.mean() > 0


def test_a_gpu_gets_the_same_in_two_copies_a_batch(training, monkeypatch):
    """Planes and augmentation travel in one piece each, from memory that is used again."""
    keys = [*BatchSampler(len(training), 2, seed=3)] * 3
    wanted = [batch.sample for batch in Loader(training, CPU, 1).batches(keys)]
    gpu = PretendedGpu(monkeypatch)
    found = [batch.sample for batch in Loader(training, gpu, 1).batches(keys)]
    for one, other in zip(found, wanted, strict=True):
        assert all(map(torch.equal, [*one.inputs, one.labels], [*other.inputs, other.labels]))
    assert gpu.log.count("copy") == gpu.log.count("record") == 2 * len(keys)
    # Three buffers, which are read ahead, and the augmentation of each batch.
    assert gpu.log.count("pinned") == 3 + len(keys)
    assert "wait" in gpu.log
