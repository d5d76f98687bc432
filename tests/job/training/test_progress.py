import io
import json
import sys

import pytest
import torch

from job import log
from job.training.batch import Batch
from job.training.progress import LoggedProgress, Meter, show_progress
from job.training.train_state import EpochResult


def batch(num_tokens: int) -> Batch:
    some = torch.zeros(num_tokens, dtype=torch.int32)
    return Batch(ids=some, offsets=some, values=None, labels=torch.zeros(2), blocks=())


def result(epoch: int, accuracy: float | None = None) -> EpochResult:
    return EpochResult(epoch=epoch, loss=0.5 / epoch, validation_accuracy=accuracy)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands still until it is moved."""
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    return now


def events(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_the_meter_tells_speed_and_remaining_time(clock: list[float]) -> None:
    """If it failed, the remaining time would mislead whoever waits for it."""
    meter = Meter(10)
    for _ in range(4):
        meter.add(batch(50))
    clock[0] += 2
    assert meter.tokens_per_second == 100
    assert meter.remaining == 3


def test_an_epoch_is_logged_with_loss_accuracy_speed_and_remaining_time(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    """If it failed, the log of a cluster job would not tell how it is going."""
    log.configure("json")
    progress = LoggedProgress(num_steps=2, num_epochs=2)
    progress.on_step(batch(100))
    clock[0] += 4
    progress.on_epoch(result(1, 0.75))
    (event,) = events(capsys)
    assert {name: event[name] for name in event if name not in ("timestamp", "level")} == {
        "event": "epoch",
        "epoch": 1,
        "num_epochs": 2,
        "loss": 0.5,
        "validation_accuracy": 0.75,
        "tokens_per_second": 25,
        "remaining_seconds": 4.0,
    }


def test_a_long_epoch_is_heard_of(clock: list[float], capsys: pytest.CaptureFixture[str]) -> None:
    """If it failed, an epoch of hours would look like a job that hangs."""
    log.configure("json")
    progress = LoggedProgress(num_steps=1000, num_epochs=1)
    for _ in range(100):
        clock[0] += 1
        progress.on_step(batch(1))
    assert [event["step"] for event in events(capsys)] == [30, 60, 90]


def test_many_epochs_do_not_flood_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    """If it failed, a run of 100 epochs would bury what matters in its log."""
    log.configure("json")
    progress = LoggedProgress(num_steps=25, num_epochs=25)
    for epoch in range(1, 26):
        progress.on_step(batch(1))
        progress.on_epoch(result(epoch))
    assert [event["epoch"] for event in events(capsys)] == [3, 6, 9, 12, 15, 18, 21, 24, 25]


def test_a_terminal_shows_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it failed, a person at a terminal would wait without seeing anything move."""

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "140")
    with show_progress(2, 2, for_people=True) as progress:
        for epoch in (1, 2):
            progress.on_step(batch(10))
            progress.on_epoch(result(epoch, 0.875))
    shown = terminal.getvalue()
    assert "epoch 2/2" in shown
    assert "loss 0.2500" in shown
    assert "validation accuracy 0.8750" in shown
    assert "tokens/s" in shown


def test_a_log_format_for_machines_shows_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it failed, control characters would stand between JSON lines."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with show_progress(2, 2, for_people=False) as progress:
        assert isinstance(progress, LoggedProgress)
