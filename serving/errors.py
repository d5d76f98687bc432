"""Every way in which a command can end: the exit codes, and the error types that carry them.

It lives in `serving`, the lowest of the three packages, because all of them raise these.
"""

from enum import IntEnum
from typing import Self


class ExitCode(IntEnum):
    """Exit codes of `python -m job`, `export` and `serving`; schedulers decide by them whether to retry.

    Each carries its `meaning` in words, which `--help` prints.
    """

    meaning: str

    def __new__(cls, value: int, meaning: str) -> Self:
        """Make the code `value`, which says `meaning`."""
        code = int.__new__(cls, value)
        code._value_ = value
        code.meaning = meaning
        return code

    DONE = 0, "The command did what it was asked."
    BUG = 1, "An error of ours: please report the traceback."
    SETTINGS = 2, "A setting or an argument is missing, unknown or out of range."
    DATA = 3, "The data cannot be read, or too many of its rows are bad."
    TRAINING_DIVERGED = 4, "The loss became infinite or not a number."
    PARITY_FAILED = 5, "A runtime's log-probabilities differ from the original's; nothing is published."
    BUNDLE_DAMAGED = 6, "A bundle is incomplete, altered, or of a version that this release cannot read."
    QUALITY_GATE = (
        7,
        "The model is worse than the settings allow; it is kept, and `latest` was not moved.",
    )
    PLATFORM = 74, "The machine or its storage failed (disk full, read-only folder, no GPU): try elsewhere."
    INTERRUPTED = 75, "Ended by a signal: run it again."


class BowspritError(Exception):
    """What a user can act on: its message says what was expected, what was found, where, and what to do."""

    exit_code = ExitCode.BUG


class SettingsError(BowspritError):
    """A setting or an argument is missing, unknown or out of range."""

    exit_code = ExitCode.SETTINGS


class DataError(BowspritError):
    """The data cannot be used as it is."""

    exit_code = ExitCode.DATA


class TrainingError(BowspritError):
    """Training cannot go on: the loss is no longer finite."""

    exit_code = ExitCode.TRAINING_DIVERGED


class ParityError(BowspritError):
    """A file of the bundle does not give the original model's log-probabilities."""

    exit_code = ExitCode.PARITY_FAILED


class ArtifactError(BowspritError):
    """A bundle is incomplete, altered, or of a version that this release cannot read."""

    exit_code = ExitCode.BUNDLE_DAMAGED


class QualityError(BowspritError):
    """The model is worse than the settings allow; its bundle is kept, marked."""

    exit_code = ExitCode.QUALITY_GATE


class PlatformError(BowspritError):
    """The machine or its storage failed; the same command may work elsewhere."""

    exit_code = ExitCode.PLATFORM
