"""The KServe adapter where KServe is not installed; tests/system/test_clients.py runs it where it is."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from serving.errors import ExitCode

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.skipif(importlib.util.find_spec("kserve") is not None, reason="kserve is installed")
def test_what_to_install_is_said_where_kserve_is_missing() -> None:
    """If it failed, a traceback would be the answer on a machine without KServe."""
    command = [sys.executable, "-m", "serving.kserve_model", "artifacts/latest"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == ExitCode.SETTINGS
    assert "bowsprit[serving,kserve]" in done.stderr
    assert "Traceback" not in done.stderr
