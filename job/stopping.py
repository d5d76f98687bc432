"""Signals that end the job: SIGTERM, SIGINT, and that by which a scheduler says that it takes the machine.

It imports no torch, so that handlers are in place before that does, for seconds.
"""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from serving.errors import ExitCode

ALWAYS = (signal.SIGTERM, signal.SIGINT)


class Interrupted(BaseException):
    """A signal ended the job; its message says what a next run can go on from."""


class Stop:
    """Whether the job should end. The first signal asks it to; a second one ends it at once."""

    def __init__(self) -> None:
        self.signal_name: str | None = None
        """The signal that came, such as `SIGTERM`; None as long as none did."""
        self.saved: str | None = None
        """What a message says of the bundle, or of that from which a next run can go on; None for nothing."""
        self._is_deferred = False
        self._taken: set[signal.Signals] = set()

    def on(self, *numbers: signal.Signals) -> None:
        """Takes over some signals."""
        for number in numbers:
            signal.signal(number, self._handle)
            self._taken.add(number)

    def ignore(self) -> None:
        """Lets the signals do nothing any more, once how the job ends is settled."""
        for number in self._taken:
            signal.signal(number, signal.SIG_IGN)

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Within it a signal is only noted, for who looks at `signal_name`; raises Interrupted at its end."""
        self._is_deferred = True
        try:
            yield
        finally:
            self._is_deferred = False
        self.check()

    def check(self, saved: str | None = None) -> None:
        """Raises Interrupted where a signal came; its message says `saved`, or else `self.saved`."""
        if self.signal_name is not None:
            raise self.interrupted(saved)

    def interrupted(self, saved: str | None = None) -> Interrupted:
        """What a signal that came is told by."""
        known = saved or self.saved or "nothing was published"
        return Interrupted(f"interrupted by {self.signal_name}: {known}; run it again")

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        if self.signal_name is not None:
            os._exit(ExitCode.INTERRUPTED)  # whoever asks twice does not want to wait for anything
        self.signal_name = signal.Signals(number).name
        if not self._is_deferred:
            self.check()
