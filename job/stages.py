"""Where a run's time and memory went, stage by stage."""

import contextlib
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
