"""A command as a process: its standard streams. Imports nothing that takes long."""

import os
import sys


def open_missing_streams() -> None:
    """Gives the standard streams that are closed to /dev/null: files opened next would get their numbers."""
    for number, (name, mode) in enumerate([("stdin", "r"), ("stdout", "w"), ("stderr", "w")]):
        if getattr(sys, name) is None:
            stream = open(os.devnull, mode, encoding="utf-8")  # noqa: PTH123, SIM115 - for good
            if stream.fileno() != number:
                os.dup2(stream.fileno(), number)
            setattr(sys, name, stream)
