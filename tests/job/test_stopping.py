"""A signal ends the job as a signal, wherever it meets it."""

import os
import signal
from collections.abc import Iterator

import pytest

from job import main as job_main
from job.stopping import Interrupted, Stop
from serving.errors import ExitCode


@pytest.fixture
def stop() -> Iterator[Stop]:
    """One that listens for SIGTERM, as the job does."""
    before = signal.getsignal(signal.SIGTERM)
    listening = Stop()
    listening.on(signal.SIGTERM)
    yield listening
    signal.signal(signal.SIGTERM, before)


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
