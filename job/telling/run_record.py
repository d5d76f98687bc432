"""`run.json`: what differs from run to run, and where a run's time went."""

import contextlib
import platform
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec

from job.corpus.memory import peak_memory


class StageRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One stage of a run."""

    seconds: float
    peak_memory: int
    """The most bytes of memory that the process had held when the stage ended."""


class EpochRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One epoch of training."""

    loss: float
    """Mean NLL over the training rows, each times its weight, in nats."""
    validation_accuracy: float | None


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What `run.json` holds."""

    started: str
    """ISO 8601, UTC."""
    seconds: float
    host: str
    machine: str
    python: str
    device: str
    """The device that training ran on."""
    device_name: str
    device_requested: str
    device_reason: str | None
    """Why the requested device was not used; None when it was."""
    num_threads: int
    settings: dict[str, str | int | float | bool | None]
    """Those that do not shape the model: paths, names, limits."""
    num_rows: int
    """Rows trained on."""
    num_tokens: int
    """Known words trained on, in one epoch."""
    tokens_per_second: float
    """Of the training loop."""
    epochs: list[EpochRecord]
    """Those that ran: with BOW_PATIENCE perhaps not all that were planned."""
    best_epoch: int | None
    """The one whose weights the model has, from 1; None without BOW_PATIENCE: the last."""
    stages: dict[str, StageRecord]
    """In the order in which they ran."""
    peak_memory: int
    """Bytes."""
    peak_device_memory: int | None
    """Bytes of tensors on the GPU; None without one."""

    def to_json(self) -> bytes:
        """The bytes of `run.json`."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"


class StageClock:
    """Measures the stages of a run."""

    def __init__(self) -> None:
        self.started = datetime.now(UTC).isoformat(timespec="seconds")
        self.stages: dict[str, StageRecord] = {}
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Since the run began."""
        return time.perf_counter() - self._start

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measures what runs inside."""
        start = time.perf_counter()
        yield
        self.stages[name] = StageRecord(
            seconds=round(time.perf_counter() - start, 6), peak_memory=peak_memory()
        )


def host_facts() -> dict[str, str]:
    """The host's name, its architecture and system, and the Python version."""
    return {
        "host": socket.gethostname(),
        "machine": f"{platform.machine()} {platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }
