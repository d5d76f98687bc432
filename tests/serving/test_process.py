"""The commands as processes: standard streams that are closed."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.serving.test_main import TIMEOUT, environ, labels


@pytest.mark.parametrize(
    ("arguments", "closed", "shown"),
    [("predict", "2>&-", 1), ("predict", ">&-", 0), ("predict", "<&-", 0), ("verify", ">&- <&-", 0)],
)
def test_closed_streams_are_as_dev_null(trained: Path, arguments: str, closed: str, shown: int) -> None:
    """If it failed, a daemon that starts a command without them would have it fail, and not be told why."""
    found = subprocess.run(
        ["bash", "-c", f'echo w1 | "$0" -m serving {arguments} "$1" {closed}', sys.executable, str(trained)],
        env=environ(),
        capture_output=True,
        check=False,
        timeout=TIMEOUT,
    )
    assert (found.returncode, found.stderr) == (0, b"")
    assert len(labels(found.stdout)) == shown
