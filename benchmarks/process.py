"""A module of this project in a process of its own, and what it wrote."""

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]


def without_settings() -> dict[str, str]:
    """This process's environment without the job's settings."""
    return {name: value for name, value in os.environ.items() if not name.startswith("BOW_")}


def run(arguments: Sequence[str], environ: Mapping[str, str], what: str) -> str:
    """What `python -m` with these arguments wrote; ends the program where it failed, saying what did."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{what} failed:\n{done.stderr[-4000:]}")
    return done.stdout
