"""A signal ends the job as a signal, wherever it meets it."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from export.destination import Destination
from job import main as job_main
from job import run as job_run
from job.stopping import Interrupted, Stop
from serving.bundle import open_bundle
from serving.errors import ExitCode


@pytest.fixture
def stop() -> Iterator[Stop]:
    """One that listens for SIGTERM, as the job does."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    listening = Stop()
    listening.on(signal.SIGTERM)
    yield listening
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_signal_during_imports_waits_for_their_end(stop: Stop) -> None:
    """If it failed, a module would be left in the middle, and torch ends the process by SIGABRT then."""
    reached = []

    def begin() -> None:
        with stop.deferred():
            os.kill(os.getpid(), signal.SIGTERM)
            reached.append("the end")

    with pytest.raises(Interrupted, match="interrupted by SIGTERM"):
        begin()
    assert reached


def test_an_error_that_a_library_makes_of_a_signal_is_no_bug(
    stop: Stop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If it failed, a pod that is evicted at a bad moment would count as failed, with a traceback of ours."""

    def work(*_: object, **__: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Interrupted as interrupted:
            raise ValueError("cannot be built") from interrupted

    monkeypatch.setattr(job_main, "_train", work)
    environ = {"BOW_TRAIN_DATA": "tutorial", "BOW_LOG_FORMAT": "json"}
    assert job_main.main([], environ, stop) == ExitCode.INTERRUPTED
    told = capsys.readouterr()
    assert "interrupted by SIGTERM" in told.err
    assert "Traceback" not in told.out + told.err


@pytest.mark.parametrize(
    ("where", "step", "says"),
    [
        (Destination, "publish", "was being published"),
        (job_run, "_settle", "is published"),
        (job_run, "_retain", "is published"),
    ],
)
def test_a_signal_once_there_is_a_bundle_is_told_with_it(
    stop: Stop,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    where: Any,
    step: str,
    says: str,
) -> None:
    """If it failed, a bundle that is in service already would be reported as never published."""
    done = getattr(where, step)

    def signalled(*arguments: Any, **options: Any) -> Any:
        result = done(*arguments, **options)
        os.kill(os.getpid(), signal.SIGTERM)
        return result

    monkeypatch.setattr(where, step, signalled)
    environ = {"TRAIN_DATA": "tutorial", "OUTPUT_DIR": str(tmp_path), "RUN_NAME": "night", "DEVICE": "cpu"}
    environ["LOG_FORMAT"] = "json"
    job_main.main([], {f"BOW_{name}": value for name, value in environ.items()}, stop)
    told = json.loads(capsys.readouterr().err.splitlines()[-1])
    assert (told["event"], told["outcome"], told["exit_code"]) == ("result", "interrupted", 75)
    assert told["message"] == f"interrupted by SIGTERM: {tmp_path / 'night'} {says}; run it again"
    bundle_id = open_bundle(tmp_path / "latest").bundle_id
    assert told["bundle_id"] == (None if step == "publish" else bundle_id)


def test_a_signal_that_comes_while_the_end_is_told_changes_nothing(
    stop: Stop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If it failed, a run that ended well could end in a traceback, with its result told by halves."""
    tell = job_main._tell

    def signalled(*arguments: Any, **options: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        tell(*arguments, **options)

    monkeypatch.setattr(job_main, "_tell", signalled)
    monkeypatch.setattr(job_main, "_train", lambda *_, **__: None)
    assert job_main.main([], {"BOW_TRAIN_DATA": "tutorial", "BOW_LOG_FORMAT": "json"}, stop) == ExitCode.DONE
    assert json.loads(capsys.readouterr().err)["event"] == "result"
