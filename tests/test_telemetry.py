"""onnxruntime, which by default tells its makers of the models that are loaded, does not do so here."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from export import bow_graph

REPOSITORY = Path(__file__).parents[1]
SESSION = "; import onnxruntime; onnxruntime.InferenceSession({model!r}, providers=['CPUExecutionProvider'])"


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.onnx"
    bow_graph.build(np.zeros((2, 1), np.float32), np.zeros(2, np.float32), {}).write(path)
    return path


def files_after(code: str, model: Path, folder: Path) -> set[str]:
    """What a program that loads a model has left in the folders of its user."""
    # No more than this: what onnxruntime takes for a machine that builds software, it leaves alone.
    environ = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}
    environ |= dict.fromkeys(("HOME", "XDG_CACHE_HOME", "TMPDIR"), str(folder))
    command = [sys.executable, "-c", code + SESSION.format(model=str(model))]
    subprocess.run(command, env=environ, cwd=REPOSITORY, check=True, timeout=120)
    return {path.name for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("module", ["serving.predictor", "export.provider", "job.run"])
def test_nothing_tells_of_models(module: str, model_file: Path, tmp_path: Path) -> None:
    """If it failed, what a company trains, hashes of its weights too, would be told to another one."""
    assert files_after(f"import {module}", model_file, tmp_path) == set()


def test_onnxruntime_would_tell(model_file: Path, tmp_path: Path) -> None:
    """If it failed, the test above could not: onnxruntime would have another sign by then, or none."""
    assert "deviceid" in files_after("pass", model_file, tmp_path)
