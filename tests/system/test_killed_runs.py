"""`kill -9` at moments drawn at random, and the same run started again each time: what it ends with."""

import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from serving.bundle import FILES, open_bundle
from serving.parity.rungs import check
from serving.parity.verify import verify
from tests.test_processes import REPOSITORY, start

pytestmark = pytest.mark.system

KILLS = int(os.environ.get("KILLS", "10"))
"""`make test-kills` sets it to 50."""
SETTINGS = {
    "BOW_CHECKPOINT_EVERY": "0.02",
    "BOW_EPOCHS": "150",
    "BOW_BATCH_SIZE": "256",
    "BOW_CHAR_NGRAMS": "2-3",
    "BOW_VALIDATION_SPLIT": "0.1",
    "BOW_PATIENCE": "150",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    generator = np.random.default_rng(7)
    words = [f"w{number}é" for number in range(3000)]
    rows = []
    for _ in range(4000):
        label = int(generator.integers(8))
        places = generator.integers(0, 3000, 9) // (1 + label)
        rows.append(" ".join(words[place] for place in places) + f"\tlabel {label}")
    path = tmp_path_factory.mktemp("killed") / "train.tsv"
    path.write_text("text\tlabel\n" + "\n".join(rows) + "\n")
    return path


def finished(process: subprocess.Popen[str]) -> str:
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return errors


def test_a_run_that_is_killed_again_and_again_ends_as_an_undisturbed_one(tmp_path: Path, data: Path) -> None:
    """If it failed, a node that dies would change the model, or leave a state that no retry gets out of."""
    begin = time.monotonic()
    finished(start(REPOSITORY, tmp_path / "undisturbed", data, **SETTINGS))
    duration = time.monotonic() - begin
    expected = open_bundle(tmp_path / "undisturbed" / "run").bundle_id

    generator = np.random.default_rng(8)
    output, num_killed, num_resumed = tmp_path / "killed", 0, 0
    # Some of the moments must have been in training, however long the machine takes for the rest.
    while num_killed < KILLS or not num_resumed:
        assert num_killed < 10 * KILLS, "no run went on from a checkpoint: none was killed in training"
        process = start(REPOSITORY, output, data, **SETTINGS)
        # Anywhere from the start of Python to the end, publishing among it.
        moment = duration * generator.uniform(0.05, 1.1)
        try:
            _, errors = process.communicate(timeout=moment)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            _, errors = process.communicate()
            num_killed += 1
        else:
            assert process.returncode == 0, errors
            assert open_bundle(output / "run").bundle_id == expected
            (output / "latest").unlink()
            for path in (output / "run").iterdir():
                path.unlink()
            (output / "run").rmdir()
        num_resumed += '"resumed"' in errors
        if os.path.lexists(output / "latest"):
            check(verify(output / "latest").rungs, "latest")
    finished(start(REPOSITORY, output, data, **SETTINGS))
    assert open_bundle(output / "latest").bundle_id == expected
    assert sorted(path.name for path in output.iterdir()) == ["latest", "run"]
    assert not list((output / "run").glob("*.tmp*"))
    assert sorted(path.name for path in (output / "run").iterdir()) == sorted(
        [FILES.manifest, FILES.run, *FILES.hashed]
    )
