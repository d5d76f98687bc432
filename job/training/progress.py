"""How training is going: a bar on a terminal, log events elsewhere."""

import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import structlog
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeRemainingColumn

from job.training.batch_stores import AnyBatch
from job.training.train_state import EpochResult

LOG_EVERY = 30.0
"""Seconds between two events within an epoch."""
MAX_EPOCH_EVENTS = 10
"""Epochs that have an event of their own, and the last one; where there are more, each stands for some."""
DRAW_EVERY = 0.1
"""Seconds between two moves of the bar: moving it costs as much as a small update."""


@dataclass
class Meter:
    """Counts tokens and steps, and tells the speed and the remaining time."""

    num_steps: int
    """In the whole run."""
    start: float = field(default_factory=lambda: time.perf_counter())
    steps: int = 0
    tokens: int = 0

    def add(self, batch: AnyBatch) -> None:
        """Counts one update."""
        self.steps += 1
        self.tokens += batch.num_tokens

    @property
    def seconds(self) -> float:
        """Since training began."""
        return time.perf_counter() - self.start

    @property
    def tokens_per_second(self) -> float:
        """Over the whole of training so far."""
        return self.tokens / max(self.seconds, 1e-9)

    @property
    def remaining(self) -> float:
        """Seconds that the remaining steps will take at the speed so far."""
        return self.seconds * (self.num_steps - self.steps) / max(self.steps, 1)


class LoggedProgress:
    """An event an epoch, and every `LOG_EVERY` seconds within one."""

    def __init__(self, num_steps: int, num_epochs: int) -> None:
        self._meter = Meter(num_steps)
        self._num_epochs = num_epochs
        self._last = self._meter.start
        self._log = structlog.get_logger()

    def on_step(self, batch: AnyBatch) -> None:
        """Counts one update."""
        self._meter.add(batch)
        now = time.perf_counter()
        if now - self._last >= LOG_EVERY:
            self._last = now
            self._log.info(
                "training", step=self._meter.steps, num_steps=self._meter.num_steps, **self._speed()
            )

    def on_epoch(self, result: EpochResult) -> None:
        """Says what an epoch came to."""
        self._last = time.perf_counter()
        if result.epoch < self._num_epochs and result.epoch % -(-self._num_epochs // MAX_EPOCH_EVENTS):
            return
        validation = (
            {}
            if result.validation_accuracy is None
            else {"validation_accuracy": round(result.validation_accuracy, 4)}
        )
        self._log.info(
            "epoch",
            epoch=result.epoch,
            num_epochs=self._num_epochs,
            loss=round(result.loss, 4),
            **validation,
            **self._speed(),
        )

    def _speed(self) -> dict[str, float]:
        return {
            "tokens_per_second": round(self._meter.tokens_per_second),
            "remaining_seconds": round(self._meter.remaining, 1),
        }


class ProgressBar:
    """A bar with the loss, the validation accuracy, the speed and the remaining time."""

    def __init__(self, progress: Progress, num_steps: int, num_epochs: int) -> None:
        self._progress = progress
        self._meter = Meter(num_steps)
        self._num_epochs = num_epochs
        self._task: TaskID = progress.add_task("training", total=num_steps, facts=f"epoch 1/{num_epochs}")
        self._outcome = ""
        self._epoch = 1
        self._drawn = 0.0

    def on_step(self, batch: AnyBatch) -> None:
        """Counts one update, and moves the bar where the last move is a while ago."""
        self._meter.add(batch)
        now = time.perf_counter()
        if now - self._drawn >= DRAW_EVERY:
            self._drawn = now
            self._update()

    def on_epoch(self, result: EpochResult) -> None:
        """Shows what an epoch came to."""
        self._epoch = min(result.epoch + 1, self._num_epochs)
        self._outcome = f"  loss {result.loss:.4f}"
        if result.validation_accuracy is not None:
            self._outcome += f"  validation accuracy {result.validation_accuracy:.4f}"
        self._update()

    def _update(self) -> None:
        speed = f"{self._meter.tokens_per_second / 1e6:.2f}M tokens/s"
        facts = f"epoch {self._epoch}/{self._num_epochs}{self._outcome}  {speed}"
        self._progress.update(self._task, completed=self._meter.steps, facts=facts)


@contextlib.contextmanager
def show_progress(
    num_steps: int, num_epochs: int, *, for_people: bool
) -> Iterator[LoggedProgress | ProgressBar]:
    """What `train` tells its progress to: a bar where people look at a terminal, events elsewhere."""
    if not (for_people and sys.stderr.isatty()):
        yield LoggedProgress(num_steps, num_epochs)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[facts]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield ProgressBar(progress, num_steps, num_epochs)
