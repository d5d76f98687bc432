"""A command as a process: its signals and its standard streams. Imports nothing that takes long."""

import contextlib
import importlib
import os
import signal
import sys
from collections.abc import Iterator
from typing import NoReturn

from serving.errors import ExitCode

_ENDING = (signal.SIGINT, signal.SIGTERM)


def start(module: str) -> ExitCode:
    """Runs `main` of a module as this process: by its arguments, and until a signal ends it."""
    signal.signal(signal.SIGTERM, _interrupt)
    open_missing_streams()
    try:
        with deferred():
            main = importlib.import_module(module).main
        code: ExitCode = main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        code = ExitCode.INTERRUPTED
    for number in _ENDING:
        signal.signal(number, signal.SIG_IGN)  # how it ended is settled
    return code


@contextlib.contextmanager
def deferred() -> Iterator[None]:
    """Within it a signal waits for its end. For imports: some modules abort when they are left in the middle.

    Threads that are started within it leave the signals to the others.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def open_missing_streams() -> None:
    """Gives the standard streams that are closed to /dev/null: files opened next would get their numbers."""
    for number, (name, mode) in enumerate([("stdin", "r"), ("stdout", "w"), ("stderr", "w")]):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode, encoding="utf-8")  # noqa: PTH123, SIM115 - for good
            if stream.fileno() != number:
                os.dup2(stream.fileno(), number)
            setattr(sys, name, stream)


def _interrupt(_signal: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt
