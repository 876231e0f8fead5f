"""A training run: its network and optimiser, its place in time, and its folder."""

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path

import torch

from cafe_cli.config.load import dump_config
from cafe_cli.config.schema import Config
from cafe_cli.errors import CafeError, ModelFileError, OutputError, TrainingError
from cafe_cli.evaluation.metrics import Confusion, Scores, compute_scores
from cafe_cli.model import model_file
from cafe_cli.model.cafe import CaFE
from cafe_cli.model.model_file import ModelCard
from cafe_cli.system.atomic_write import make_empty_folder, write_text
from cafe_cli.tilesets import cache
from cafe_cli.tilesets.tileset import TileSet
from cafe_cli.training import nonfinite
from cafe_cli.training.build import build_network, optimizer_tensors, restore_optimizer
from cafe_cli.training.curves import write_history
from cafe_cli.training.data.augment import crop_side
from cafe_cli.training.data.dataset import TileDataset
from cafe_cli.training.data.loader import Batch, Loader
from cafe_cli.training.data.sampler import BatchSampler, batches_in_order
from cafe_cli.training.distributed.processes import Processes
from cafe_cli.training.history import MEAN_SCORES, EpochRecord
from cafe_cli.training.report import examples, tile_scores
from cafe_cli.training.report.page import write_report
from cafe_cli.training.report.run import BEST, SCORES
from cafe_cli.training.signals import GO_ON
from cafe_cli.training.state import TrainState, fixed_settings
from cafe_cli.training.step import LossModule, NotFiniteError, PendingStep, Step
from cafe_cli.training.validation import ValidationAccumulator, validate

log = logging.getLogger("cafe")

LAST = "last.safetensors"


class TrainingRun:
    """All that changes while training, and how it is saved.

    Parameters
    ----------
    folder : Path
        Of the tile set.
    tileset : TileSet
    output : Path
        Folder of the run.
    config : Config
        With a number for `batch_size`.
    processes : Processes
        That share the run; each of them has its own of these.
    weights : str
        Of the encoders to begin with, see `ModelSettings`.
    """

    def __init__(
        self,
        folder: Path,
        tileset: TileSet,
        output: Path,
        config: Config,
        processes: Processes,
        weights: str,
    ) -> None:
        self.folder, self.tileset, self.output, self.config = folder, tileset, output, config
        self.processes, self.progress = processes, TrainState()
        self._classes = tileset.classes
        self._tiles, self._validation_tiles = tileset.of("train"), tileset.of("validation")
        settings = config.train
        size = batch_size(config)
        ranks = (processes.rank, processes.world)
        self._batches = BatchSampler(len(self._tiles), size, settings.seed, *ranks)
        # As many at a time as training has, on a device whose memory the batch size was chosen for.
        share = max(size // (processes.world * settings.accumulate), 1)
        self._order = batches_in_order(len(self._validation_tiles), share, *ranks)
        self._watched = examples.choose_watched(len(self._validation_tiles), processes.world)
        self._tiles_a_step = min(size, len(self._tiles))
        self.total = len(self._batches) * settings.epochs
        torch.manual_seed(settings.seed)
        self.network = build_network(tileset, config, weights)
        decoded = cache.prepare(folder, tileset, settings.cache)
        device = processes.fabric.device
        training = TileDataset(folder, tileset, "train", settings, decoded)
        validation = TileDataset(folder, tileset, "validation", None, decoded)
        self._loader = Loader(training, device, settings.workers)
        self._validation = Loader(validation, device, settings.workers)
        self.step = Step(self.network, settings, processes, self.total)

    @property
    def done(self) -> int:
        """How many steps are done."""
        return self.progress.epoch * len(self._batches) + self.progress.batch

    @property
    def epoch_is_over(self) -> bool:
        """Whether the epoch under way has had all its steps."""
        return self.progress.batch == len(self._batches)

    @property
    def is_over(self) -> bool:
        """Whether there is nothing left to train."""
        return self.progress.why_ended(self.config.train) is not None

    def begin(self) -> None:
        """Start a new run in an empty folder; killed in its first epoch, it can be resumed too."""
        if not self.processes.first:
            return
        try:
            make_empty_folder(self.output)
            write_text(self.output / "config.toml", dump_config(self.config))
            self.save_last()
        except OSError as error:
            raise OutputError(f"cannot create {self.output}: {error.strerror}") from error
        except OutputError:
            with suppress(OSError):  # a link, or what is mounted there, stays
                make_empty_folder(self.output)
                self.output.rmdir()
            raise

    def restore(self) -> None:
        """Take up the state of the last checkpoint."""
        path = self.output / LAST
        tensors, extra, values = model_file.load_training(path)
        try:
            self.network.load_state_dict(tensors)
            restore_optimizer(self.step.optimizer, extra)
            self.progress = TrainState.from_json(values["progress"])
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise ModelFileError(f"cannot resume: {path} is damaged: {error}") from error
        if self.processes.first and self.progress.history:
            # Killed right after the checkpoint was written, the run lacks the row of its epoch.
            write_history(self.output, self.progress.history, self._classes)

    def train_epoch(
        self, on_step: Callable[[int, int, float], None], stop: Callable[[], int]
    ) -> int:
        """Go through the rest of the epoch under way; return why it stopped before its end."""
        progress = self.progress
        self._batches.epoch, self._batches.start = progress.epoch, progress.batch
        self.step.begin_epoch(progress.epoch)
        self._loader.waited, self._started, self._first = 0.0, time.monotonic(), progress.batch
        with closing(self._loader.batches(self._batches)) as drawn:
            following = self._draw(drawn)
            while (batch := following) is not None:
                begun = self.step.begin(batch.sample, self.done)
                following = self._draw(drawn)  # while a GPU is busy with this one
                losses = self._end(begun, batch)
                progress.add(losses)
                on_step(self.done, self.total, losses["loss"])
                if reason := self.processes.largest(stop()):
                    return reason
        return GO_ON

    def _draw(self, batches: Iterator[Batch]) -> Batch | None:
        with self.processes.sync_errors():
            return next(batches, None)

    def _end(self, begun: PendingStep, batch: Batch) -> dict[str, float]:
        try:
            return self.step.end(begun)
        except NotFiniteError as error:
            said = TrainingError(f"{error}; {self._accuse(batch)}")
            raise self.processes.ending(said) from error

    def _accuse(self, batch: Batch) -> str:
        """Say which tiles made the loss no number, or what else to do."""
        spoilt = self._describe(batch, nonfinite.spoilt(batch.sample))
        if spoilt:
            return (
                f"not all valid pixels and heights of {', '.join(spoilt)} are numbers: give them a "
                "nodata value, and cut the tile set again"
            )
        losses = LossModule(self.network, self.config.train)
        places = nonfinite.find(losses, batch.sample, self.processes.fabric.autocast())
        named = self._describe(batch, places)
        if 0 < len(named) < self._tiles_a_step:
            return (
                f"so is that of {', '.join(named)} alone: look at its pixels and heights, and cut "
                "the tile set without it"
            )
        return (
            "no single tile is to blame: lower train.learning_rate (now "
            f"{self.config.train.learning_rate}), set train.clip = 1, or use train.precision = "
            "'32-true'"
        )

    def _describe(self, batch: Batch, places: Sequence[int]) -> list[str]:
        """Name tiles of the batches of all processes."""
        own = [self._tiles[batch.keys[place].tile] for place in places]
        return self.processes.gather(nonfinite.describe(own))

    def finish_epoch(self) -> tuple[EpochRecord, bool]:
        """Validate, write the history and save `last`, and `best` if it is; return both."""
        spent = max(time.monotonic() - self._started, 1e-9)
        steps = self.progress.batch - self._first
        result, tally = self.validate()
        record = replace(
            self._record(result),
            data_wait=round(min(self._loader.waited / spent, 1.0), 4),
            crops_per_second=round(steps * self._tiles_a_step / spent, 2),
            seconds=round(time.monotonic() - self._started, 2),
        )
        better = self.progress.close_epoch(record, math.nan if result is None else result.miou)
        with self.processes.sync_errors():
            if self.processes.first:
                # `best` first: a run killed before `last` is written repeats the epoch, and `best`.
                if better:
                    self.save_best(result, tally)
                self.save_last(result)
                self._write_history(tally)
        return record, better

    def _record(self, result: Scores | None) -> EpochRecord:
        """Return the losses and scores of the epoch that has just been trained."""
        batches, epoch = len(self._batches), self.progress.epoch + 1
        record = EpochRecord(
            epoch=epoch,
            step=epoch * batches,
            learning_rate=self.step.learning_rate(epoch * batches - 1),
            losses={name: value / batches for name, value in self.progress.sums.items()},
        )
        if result is None:
            return record
        names = self._classes.names
        return replace(
            record,
            **{name: getattr(result, name) for name in MEAN_SCORES},
            iou={name: result.classes[name].iou for name in names},
            f1={name: result.classes[name].f1 for name in names},
        )

    def validate(self) -> tuple[Scores | None, ValidationAccumulator]:
        """Score the network on the validation tiles; there is no score without them."""
        tally = ValidationAccumulator(self._validation_tiles, len(self._classes), self._watched)
        if not self._validation_tiles:
            return None, tally
        with closing(self._validation.batches(self._order)) as batches:
            validate(self.network, batches, tally, self.processes)
        return compute_scores(Confusion.of(tally.counts), self._classes), tally

    def save_best(self, result: Scores | None, tally: ValidationAccumulator) -> None:
        """Write the model as it is now, to predict with, and how it scored."""
        best = self.network.deployed()
        model_file.save(self.output / BEST, best, self._card(best, result))
        if result is not None:
            write_text(self.output / SCORES, json.dumps(result.as_json(), indent=1))
            path = self.output / tile_scores.VALIDATION_FILE
            tile_scores.write_tile_scores(path, tally.rows, self._validation_tiles, self._classes)

    def save_for_later(self, model: bool = False) -> None:
        """Write what it takes to go on from here, and with `model` one to predict with until then.

        It is not the best epoch, and the next one takes its place: a run that is resumed leaves
        what one in a single piece would have left.
        """
        found = self.validate() if model else None
        with self.processes.sync_errors():
            if self.processes.first:
                if found:
                    self.save_best(*found)
                self.save_last()

    def save_last(self, result: Scores | None = None) -> None:
        """Write what it takes to go on from here."""
        values = {
            "progress": self.progress.as_json(),
            "settings": fixed_settings(self.config, self.tileset),
        }
        state = optimizer_tensors(self.step.optimizer)
        card = self._card(self.network, result)
        model_file.save(self.output / LAST, self.network, card, (state, values))

    def _card(self, network: CaFE, result: Scores | None) -> ModelCard:
        tileset = self.tileset
        return ModelCard(
            architecture=network.architecture,
            classes=tileset.classes,
            band_names=tileset.band_names,
            dtype=tileset.dtype,
            gsd=tileset.gsd,
            height=tileset.height,
            window=crop_side(self.config.train, tileset.size),
            epoch=self.progress.epoch,
            scores=result.as_json() if result else None,
            config=self.config.model_dump(mode="json", exclude_none=True, exclude={"root"}),
        )

    def _write_history(self, tally: ValidationAccumulator) -> None:
        rows = self.progress.history
        pictures = {}
        if examples.is_due(len(rows), self.config.train.epochs):
            pictures = examples.draw_strips(self.folder, self.tileset, tally.watched)
        write_history(self.output, rows, self._classes, pictures)

    def write_report(self, ended: str) -> None:
        """Write ``report.html``; what goes wrong with it is told, and costs nothing else."""
        try:
            device = self.processes.fabric.device
            write_report(self.output, self.folder, device=device, ended=ended)
        except CafeError as error:
            log.warning("no report: %s", error)


def batch_size(config: Config) -> int:
    """Return the tiles of a step; ``auto`` has to have become a number."""
    size = config.train.batch_size
    if size == "auto":
        raise TypeError("batch_size is still to be found")
    return size
