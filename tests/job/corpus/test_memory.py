"""The memory that a run reports."""

import subprocess
import sys

import numpy as np

from job.corpus.memory import peak_memory

MIB = 1 << 20
ONE_PEAK = "from job.corpus.memory import peak_memory; print(peak_memory())"


def test_the_peak_is_of_this_process_alone() -> None:
    """If it failed, a small run started by a large process would be said to need the large one's memory."""
    held = np.ones(256 * MIB, np.uint8)
    assert peak_memory() >= held.nbytes
    done = subprocess.run([sys.executable, "-c", ONE_PEAK], capture_output=True, text=True, check=True)
    assert 4 * MIB < int(done.stdout) < 200 * MIB
