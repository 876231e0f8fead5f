"""One run of the study, in a process of its own: train for so many steps, score, leave a line.

python -m benchmarks.ablation.run OUT VARIANT FOLD SEED STEPS DEVICE
"""

import math
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.ablation import records
from benchmarks.ablation.baselines import Network, mixed
from benchmarks.ablation.package import Sample, SampleKey, Tiles, batch_size, build, epochs
from benchmarks.ablation.recipe import Averaged, Recipe, balance
from benchmarks.ablation.records import Row, Study
from benchmarks.ablation.scoring import score
from benchmarks.ablation.variants import VARIANTS, passes_of
from cafe_cli import __version__
from cafe_cli.config.schema import Config
from cafe_cli.errors import CafeError, TrainingError
from cafe_cli.model.cafe import CaFE
from cafe_cli.model.device import choose_device
from cafe_cli.tilesets.tileset import load_tileset
from cafe_cli.training.build import build_optimizer, learning_rate
from cafe_cli.training.losses import training_loss

PRINT_EVERY = 25  # steps


def main(folder: str, name: str, fold: str, seed: str, steps: str, device: str) -> None:
    torch.set_num_threads(1)
    row = run(
        records.load(Path(folder)), name, int(fold), int(seed), int(steps), choose_device(device)
    )
    records.append(Path(folder) / "runs.jsonl", row)
    mious = {kind: result["miou"] for kind, result in row["scores"].items()}
    print(", ".join(f"{k} {100 * v:.1f}" for k, v in mious.items() if v is not None))


def run(study: Study, name: str, fold: int, seed: int, steps: int, device: torch.device) -> Row:
    """Train and score a variant; return the row of ``runs.jsonl``."""
    variant = VARIANTS[name]
    config = study.config(variant, seed)
    recipe = Recipe.of(variant.recipe)
    folder = study.tiles(fold)
    tileset = load_tileset(folder)
    training = Tiles(folder, tileset, "train", config)
    torch.manual_seed(seed)
    network = build(variant.network, tileset, config)
    network.to(device).to(memory_format=torch.channels_last)
    start, cpu = time.perf_counter(), time.process_time()
    loop = Loop(network, config, recipe, steps, device)
    scored = loop.train(training, len(tileset.classes))
    budget = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
    identity = study.identity(variant)
    return {
        "identity": identity,
        "variant": name,
        "fold": fold,
        "seed": seed,
        "steps": steps,
        "batch_size": batch_size(config.train),
        **{key: round(value, 1) for key, value in budget.items()},
        "parameters": sum(p.numel() for p in network.parameters()),
        "scores": score(scored, study, fold, tileset, _passes(study, identity, scored), device),
        "losses": [round(value, 4) for value in loop.losses],
        "settings": {**variant.config, **variant.recipe, "network": variant.network},
        **_circumstances(device),
    }


# ------------------------------------------------------------------ training


class Loop:
    """The training loop that all variants go through."""

    def __init__(
        self, network: Network, config: Config, recipe: Recipe, steps: int, device: torch.device
    ) -> None:
        self.network, self.recipe, self.steps, self.device = network, recipe, steps, device
        self.settings = config.train
        self.optimizer = build_optimizer(network, config.train)
        self.averaged = Averaged(network, recipe.averaged) if recipe.averaged else None
        self.losses: list[float] = []
        """Means over `PRINT_EVERY` steps each."""

    def train(self, training: Tiles, classes: int) -> Network:
        """Take all steps, and return the network to be scored."""
        self.network.train()
        keys = self._keys(training, classes)
        start, since = time.perf_counter(), torch.zeros((), device=self.device)
        with closing(training.batches(keys, self.device)) as drawn:
            for step, batch in enumerate(drawn):
                since += self._step(step, batch)
                if (step + 1) % PRINT_EVERY == 0 or step + 1 == self.steps:
                    self._print_progress(step + 1, since.item() / (step % PRINT_EVERY + 1), start)
                    since.zero_()
        return self.averaged.network if self.averaged else self.network

    def _keys(self, training: Tiles, classes: int) -> Iterator[list[SampleKey]]:
        stream = epochs(len(training), self.settings)
        if self.recipe.balanced:
            random = np.random.default_rng([self.settings.seed, 1])
            stream = balance(self.recipe.balanced, stream, training.counts(classes), random)
        return (keys for _, keys in zip(range(self.steps), stream, strict=False))

    def _step(self, step: int, batch: Sample) -> Tensor:
        random = np.random.default_rng([self.settings.seed, 2, step])
        torch.manual_seed(self.settings.seed * 1_000_003 + step)
        for change in self.recipe.batch:
            batch = change(batch, random)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, self.steps, self.settings)
        with mixed(self.device):
            outputs = self.recipe.outputs(self.network, batch, random)
        weights = self.settings.distill_weight, self.settings.dice
        loss = training_loss(outputs, batch.labels, *weights)["total"]
        for term in self.recipe.loss:
            loss = loss + term(outputs, batch.labels)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        if self.averaged:
            self.averaged.update(self.network)
        return loss.detach()

    def _print_progress(self, step: int, loss: float, start: float) -> None:
        if not math.isfinite(loss):
            raise TrainingError(f"the loss is {loss} in the steps up to {step}")
        self.losses.append(loss)
        print(f"step {step}: loss {loss:.4f}, {time.perf_counter() - start:.0f} s", flush=True)


# ------------------------------------------------------------------ what is told of a run


def _passes(study: Study, identity: str, network: Network) -> list[str]:
    """Return the passes that the tables want of this run, under whatever names."""
    same = [name for name, other in study.identities().items() if other == identity]
    wanted = passes_of(same)
    if isinstance(network, CaFE) and network.architecture.guidance != "none":
        wanted.append("guided")
    return wanted


def _circumstances(device: torch.device) -> Row:
    on_gpu = device.type == "cuda"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else "cpu",
        "peak_mb": round(torch.cuda.max_memory_allocated(device) / 1e6 if on_gpu else peak),
        "versions": {
            "cafe": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
        },
        "commit": _commit(),
        "code": records.code_digest(),
        "finished": time.strftime("%Y-%m-%d %H:%M:%S"),
    }


def _commit() -> str | None:
    """Return the commit that is checked out; None for a copy without a history."""
    root = Path(__file__).parents[2]
    command = ["git", "-C", str(root), "describe", "--always", "--dirty"]
    if not (root / ".git").exists():
        return None
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or None


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except CafeError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        os._exit(130)
