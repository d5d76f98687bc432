"""A module of this project in a process of its own, and what it wrote."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]


class FailedError(SystemExit):
    """A process failed; ends the program with what it wrote, unless somebody takes it."""

    def __init__(self, what: str, written: str) -> None:
        super().__init__(f"{what} failed:\n{written[-4000:]}")
        self.reason = (written.strip().splitlines() or ["it wrote nothing"])[-1]
        """The last line of it."""


def without_settings() -> dict[str, str]:
    """This process's environment without the job's settings."""
    return {name: value for name, value in os.environ.items() if not name.startswith("BOW_")}


def run(arguments: Sequence[str], environ: Mapping[str, str], what: str) -> str:
    """What `python -m` with these arguments wrote; raises FailedError where it failed."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise FailedError(what, done.stderr)
    return done.stdout
