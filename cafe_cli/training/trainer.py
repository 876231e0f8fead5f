"""`TrainingRun`: the network, the optimiser, the state and the folder of a training run."""

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import replace

import torch

from cafe_cli.config.load import dump_config
from cafe_cli.errors import CafeError, InputError, ModelFileError, OutputError, TrainingError
from cafe_cli.evaluation.metrics import Confusion, Scores, compute_scores
from cafe_cli.model import model_file
from cafe_cli.model.cafe import CaFE
from cafe_cli.model.card import ModelCard
from cafe_cli.redaction import redact_all
from cafe_cli.system.atomic_write import make_empty_folder, write_text
from cafe_cli.system.malloc import keep_memory
from cafe_cli.text import first_line
from cafe_cli.tilesets import cache
from cafe_cli.training import fine_tuning, nonfinite
from cafe_cli.training.curves import write_history
from cafe_cli.training.data.augment import crop_side
from cafe_cli.training.data.dataset import TileDataset
from cafe_cli.training.data.loader import Batch, Loader
from cafe_cli.training.data.sampler import BatchSampler, balance_classes, batches_in_order
from cafe_cli.training.distributed.processes import Processes
from cafe_cli.training.history import MEAN_SCORES, EpochRecord
from cafe_cli.training.plan import LAST, TrainPlan
from cafe_cli.training.report import examples, tile_scores
from cafe_cli.training.report.page import write_report
from cafe_cli.training.report.run import BEST, FINAL, SCORES
from cafe_cli.training.signals import StopReason
from cafe_cli.training.state import TrainState, fixed_settings
from cafe_cli.training.step import LossModule, NotFiniteError, PendingStep, Step
from cafe_cli.training.validation import ValidationAccumulator, validate

log = logging.getLogger("cafe")


class TrainingRun:
    """Trains epoch by epoch, validates, and saves checkpoints. Each process has one.

    Parameters
    ----------
    planned : TrainPlan
        With a settled batch size.
    processes : Processes
        The processes that share the run.

    Attributes
    ----------
    state : TrainState
    network : CaFE
    taken : list of TakenPart
        What was taken from the model that the run starts from; empty without one, and on a resume.
    step : Step
    total : int
        Steps of the whole run.
    """

    def __init__(self, planned: TrainPlan, processes: Processes) -> None:
        self.folder, self.tileset = planned.folder, planned.tileset
        self.output, self.config = planned.output, planned.config
        tileset, config = planned.tileset, planned.config
        self.processes, self.state = processes, TrainState()
        self._classes = tileset.classes
        self._tiles, self._validation_tiles = tileset.of("train"), tileset.of("validation")
        settings = config.train
        size = planned.batch_size
        ranks = (processes.rank, processes.world)
        # Validate with the batch size that training has in memory at a time.
        share = max(size // (processes.world * settings.accumulate), 1)
        self._order = batches_in_order(len(self._validation_tiles), share, *ranks)
        self._watched = examples.choose_watched(len(self._validation_tiles), processes.world)
        self._tiles_a_step = min(size, len(self._tiles))
        torch.manual_seed(settings.seed)
        if processes.fabric.device.type == "cpu":
            keep_memory()
        # On a resume the weights come from the checkpoint.
        begun = fine_tuning.build(tileset, config, resume=planned.resume)
        self.network, self.taken = begun.network, begun.taken
        decoded = cache.prepare(self.folder, tileset, settings.cache)
        # The cache was checked when it was made, and tiles are read no more.
        self._tiles_before = None if decoded else cache.fingerprint(self.folder, tileset)
        device = processes.fabric.device
        training = TileDataset(self.folder, tileset, "train", config, decoded)
        validation = TileDataset(self.folder, tileset, "validation", None, decoded)
        balance = settings.class_balance
        weights = balance_classes(training.class_counts()) if balance else None
        self._batches = BatchSampler(
            len(self._tiles), size, settings.seed, *ranks, balance=balance, weights=weights
        )
        self.total = len(self._batches) * settings.epochs
        self._pixels = training.distribution() if processes.first else None
        self._loader = Loader(training, device, settings.workers)
        self._validation = Loader(validation, device, settings.workers)
        pretrained = config.model.pretrained
        self.step = Step(self.network, settings, processes, self.total, pretrained)

    @property
    def done(self) -> int:
        """Steps done, of `total`."""
        return self.state.epoch * len(self._batches) + self.state.batch

    @property
    def epoch_is_over(self) -> bool:
        """Whether all steps of the current epoch are done."""
        return self.state.batch == len(self._batches)

    @property
    def is_over(self) -> bool:
        """Whether there is nothing left to train."""
        return self.state.why_ended(self.config.train) is not None

    def create(self) -> None:
        """Create the folder with a checkpoint, for a run that is killed in its first epoch."""
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
        """Load the state of the last checkpoint."""
        path = self.output / LAST
        tensors, extra, values = model_file.load_training(path)
        try:
            self.network.load_state_dict(tensors)
            self.step.restore(extra)
            self.state = TrainState.from_json(values["progress"])
            if self.state.batch > len(self._batches):
                raise ValueError(f"it is at step {self.state.batch} of {len(self._batches)}")
        except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            raise ModelFileError(
                f"cannot resume: {path} is damaged: {first_line(error)}; train again with "
                "--overwrite"
            ) from error
        if self.processes.first and self.state.history:
            # A run killed right after it wrote the checkpoint lacks that epoch in history.csv.
            write_history(self.output, self.state.history, self._classes)

    def train_epoch(
        self, on_step: Callable[[int, int, float], None], stop: Callable[[], StopReason]
    ) -> StopReason:
        """Train the rest of the current epoch; return the reason if it stops before its end."""
        state = self.state
        self._batches.epoch, self._batches.start = state.epoch, state.batch
        self.step.begin_epoch(state.epoch)
        self._loader.waited, self._started, self._first = 0.0, time.monotonic(), state.batch
        with closing(self._loader.batches(self._batches)) as drawn:
            following = self._next_batch(drawn)
            while (batch := following) is not None:
                pending = self.step.backward(batch.sample, self.done)
                following = self._next_batch(drawn)  # while a GPU computes this step
                losses = self._update(pending, batch)
                state.add(losses)
                on_step(self.done, self.total, losses["loss"])
                if reason := self.processes.max(stop()):
                    return StopReason(reason)
        return StopReason.NONE

    def _next_batch(self, batches: Iterator[Batch]) -> Batch | None:
        with self.processes.sync_errors():
            return next(batches, None)

    def _update(self, pending: PendingStep, batch: Batch) -> dict[str, float]:
        try:
            return self.step.update(pending)
        except NotFiniteError as error:
            explained = TrainingError(f"{error}; {self._explain_nonfinite(batch)}")
            raise self.processes.ending(explained) from error

    def _explain_nonfinite(self, batch: Batch) -> str:
        """Return the tiles that made the loss NaN or infinite, or else remedies, for a message."""
        wrong = self._describe(batch, nonfinite.find_nonfinite_inputs(batch.sample))
        if wrong:
            return (
                f"pixels or heights of {', '.join(wrong)} are NaN or infinite: declare these "
                "values as nodata, and cut the tile set again"
            )
        losses = LossModule(self.network, self.config.train)
        autocast = self.processes.fabric.autocast()
        found = nonfinite.find_nonfinite_losses(losses, batch.sample, autocast)
        named = self._describe(batch, found)
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

    def _describe(self, batch: Batch, positions: Sequence[int]) -> list[str]:
        """Describe tiles, given by position in this process's batch; gather from all processes."""
        own = [self._tiles[batch.keys[position].tile] for position in positions]
        return self.processes.gather(nonfinite.describe_tiles(own))

    def finish_epoch(self, stop: Callable[[], StopReason]) -> tuple[EpochRecord, bool]:
        """Validate and save; return the record of the epoch and whether it is the best so far.

        Raises
        ------
        StopRequestedError
            See `validate`.
        """
        spent = max(time.monotonic() - self._started, 1e-9)
        steps = self.state.batch - self._first
        result, counted = self.validate(stop)
        record = replace(
            self._record(result),
            data_wait=round(min(self._loader.waited / spent, 1.0), 4),
            crops_per_second=round(steps * self._tiles_a_step / spent, 2),
            seconds=round(time.monotonic() - self._started, 2),
        )
        better = self.state.close_epoch(record, math.nan if result is None else result.miou)
        with self.processes.sync_errors():
            if self.processes.first:
                self._check_tiles()
                # Models first: a run killed before its checkpoint is written repeats the epoch.
                if better:
                    self.save_best(result, counted)
                self._save_model(FINAL, result, counted)
                self.save_last(result)
                self._write_history(counted)
        return record, better

    def _check_tiles(self) -> None:
        """Refuse to save an epoch whose tiles were changed while they were read."""
        before = self._tiles_before
        if before is not None and cache.fingerprint(self.folder, self.tileset) != before:
            raise InputError(
                f"tiles of {self.folder} were changed since training began, so this epoch is not "
                "saved; train again when they no longer change"
            )

    def _record(self, result: Scores | None) -> EpochRecord:
        """Return the record of the epoch that has just been trained."""
        batches, epoch = len(self._batches), self.state.epoch + 1
        record = EpochRecord(
            epoch=epoch,
            step=epoch * batches,
            learning_rate=self.step.learning_rate(epoch * batches - 1),
            losses={name: value / batches for name, value in self.state.sums.items()},
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

    def validate(
        self, stop: Callable[[], StopReason]
    ) -> tuple[Scores | None, ValidationAccumulator]:
        """Score the network on the validation tiles; None without such tiles.

        Raises
        ------
        StopRequestedError
            A process received a signal; nothing is lost but the scores.
        """
        counted = ValidationAccumulator(self._validation_tiles, len(self._classes), self._watched)
        if not self._validation_tiles:
            return None, counted
        with closing(self._validation.batches(self._order)) as batches:
            rounds = self.processes.max(len(self._order))
            validate(self.step.result, batches, counted, self.processes, rounds, stop)
        return compute_scores(Confusion.of(counted.counts), self._classes), counted

    def save_best(self, result: Scores | None, counted: ValidationAccumulator) -> None:
        """Write the best model so far and its scores."""
        self._save_model(BEST, result, counted)
        if result is not None:
            write_text(self.output / SCORES, json.dumps(result.as_json(), indent=1))
            path = self.output / tile_scores.VALIDATION_FILE
            tile_scores.write_tile_scores(path, counted.rows, self._validation_tiles, self._classes)

    def save_for_later(self, stop: Callable[[], StopReason] | None = None) -> None:
        """Write a checkpoint in the middle of an epoch; with `stop` models for inference, too.

        They are not recorded as the best, so the next epoch replaces them: a resumed run leaves
        the same files as an uninterrupted run.
        """
        found = self.validate(stop) if stop else None
        with self.processes.sync_errors():
            if self.processes.first:
                if found:
                    self.save_best(*found)
                    self._save_model(FINAL, *found)
                self.save_last()

    def save_last(self, result: Scores | None = None) -> None:
        """Write the checkpoint that ``--resume`` reads."""
        values = {
            "progress": self.state.as_json(),
            "settings": fixed_settings(self.config, self.tileset),
        }
        card = self._card(self.network, result)
        model_file.save(self.output / LAST, self.network, card, (self.step.tensors(), values))

    def _save_model(self, name: str, result: Scores | None, counted: ValidationAccumulator) -> None:
        """Write a model for inference: the network as it is, calibrated."""
        calibration = counted.calibration.fit()
        network = self.step.result.deployed(calibration.temperature if calibration else 1.0)
        card = self._card(network, result).model_copy(update={"calibration": calibration})
        model_file.check_finite(self.output / name, network.state_dict())
        model_file.save(self.output / name, network, card)

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
            epoch=self.state.epoch,
            scores=result.as_json() if result else None,
            config=redact_all(
                self.config.model_dump(mode="json", exclude_none=True, exclude={"root"})
            ),
            training_pixels=self._pixels,
        )

    def _write_history(self, counted: ValidationAccumulator) -> None:
        rows = self.state.history
        pictures = {}
        if examples.is_due(len(rows), self.config.train.epochs):
            pictures = examples.draw_strips(self.folder, self.tileset, counted.watched)
        write_history(self.output, rows, self._classes, pictures)

    def write_report(self, ended: str) -> None:
        """Write ``report.html``; an error is logged and does not fail the run."""
        try:
            device = self.processes.fabric.device
            write_report(self.output, self.folder, device=device, ended=ended)
        except CafeError as error:
            log.warning("no report: %s", error)
