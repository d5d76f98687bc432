"""`Helpers`: each piece is done once, in several threads at a time, and what fails is told."""

import subprocess
import sys
import threading
import time

import pytest

from serving.helpers import LEAST, Helpers
from tests.serving.conftest import REPOSITORY

FORKS = f"""
import os, threading
from serving.helpers import Helpers

helpers = Helpers(1)

def share():
    together, threads = threading.Barrier(2), set()

    def work(piece):
        if threading.get_ident() not in threads:
            threads.add(threading.get_ident())
            together.wait(10)

    helpers.share(work, {2 * LEAST})

share()
child = os.fork()
share()
if child:
    assert os.waitpid(child, 0)[1] == 0
"""


class Meeting:
    """Work of which two pieces must be under way at once, or it fails."""

    def __init__(self) -> None:
        self.taken: list[int] = []
        self.threads: set[int] = set()
        self._together = threading.Barrier(2)

    def __call__(self, piece: int) -> None:
        """Waits for another thread, the first time in each."""
        self.taken.append(piece)
        if threading.get_ident() not in self.threads:
            self.threads.add(threading.get_ident())
            self._together.wait(10)


def test_each_piece_is_done_once_and_by_two_at_a_time() -> None:
    """If it failed, texts would go without an answer, or a second core without work."""
    helpers = Helpers(1)
    for pieces in (2 * LEAST, 50):
        work = Meeting()
        helpers.share(work, pieces)
        assert sorted(work.taken) == list(range(pieces))
        assert len(work.threads) == 2


@pytest.mark.parametrize(("number", "pieces"), [(0, 100), (3, 2 * LEAST - 1), (3, 0)])
def test_few_pieces_are_done_without_help(number: int, pieces: int) -> None:
    """If it failed, a short list would wait longer for a thread than it takes."""
    done: list[int] = []
    before = set(threading.enumerate())
    helpers = Helpers(number)
    helpers.share(done.append, pieces)
    assert done == list(range(pieces))
    assert set(threading.enumerate()) <= before


@pytest.mark.parametrize("fails_here", [False, True])
def test_what_a_piece_raises_is_raised_and_the_next_list_is_done(*, fails_here: bool) -> None:
    """If it failed, a list would wait for ever, or come back with rows that nobody filled."""
    helpers = Helpers(1)
    asker = threading.get_ident()
    together = threading.Barrier(2)

    def work(piece: int) -> None:
        if piece < 2:
            together.wait(10)
        if (threading.get_ident() == asker) == fails_here:
            raise OSError("no more memory")

    with pytest.raises(OSError, match="no more memory"):
        helpers.share(work, 2 * LEAST)
    meeting = Meeting()
    helpers.share(meeting, 2 * LEAST)
    assert sorted(meeting.taken) == list(range(2 * LEAST))


def test_nothing_is_under_way_once_it_was_interrupted() -> None:
    """If it failed, Ctrl-C could end Python while a thread is within onnxruntime, which aborts it."""
    asker = threading.get_ident()
    together = threading.Barrier(2)
    ended: list[int] = []

    def work(piece: int) -> None:
        if not ended:  # the first piece of each thread
            together.wait(10)
        if threading.get_ident() == asker:
            raise KeyboardInterrupt
        time.sleep(0.2)
        ended.append(piece)

    with pytest.raises(KeyboardInterrupt):
        Helpers(1).share(work, 100)
    assert len(ended) == 1


def test_where_the_system_allows_no_thread_the_asker_does_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it failed, a limit of processes would end each long list, or keep it in memory for ever."""

    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    helpers = Helpers(2)
    for _ in range(2):
        done: list[int] = []
        helpers.share(done.append, 100)
        assert done == list(range(100))


def test_several_may_ask_at_a_time() -> None:
    """If it failed, threads that share a predictor would get each other's pieces."""
    helpers = Helpers(2)
    found: dict[int, list[int]] = {number: [0] * 40 for number in range(8)}

    def ask(number: int) -> None:
        def work(piece: int) -> None:
            found[number][piece] += 1

        for _ in range(20):
            helpers.share(work, 40)

    threads = [threading.Thread(target=ask, args=[number]) for number in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert found == {number: [20] * 40 for number in found}


def test_they_end_with_what_they_help() -> None:
    """If it failed, a server would have more threads after each reload."""
    before = set(threading.enumerate())
    helpers = Helpers(3)
    helpers.share(lambda _: None, 4 * LEAST)
    own = set(threading.enumerate()) - before
    assert own
    del helpers
    for thread in own:
        thread.join(10)
    assert not any(thread.is_alive() for thread in own)


def test_a_process_that_was_forked_has_helpers_of_its_own() -> None:
    """If it failed, a server that forks once its model is loaded would wait for ever."""
    done = subprocess.run(
        [sys.executable, "-c", FORKS], cwd=REPOSITORY, capture_output=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr.decode()
