"""`bowsprit[serving]` installed by itself: small, without torch, and enough to verify and predict."""

import json
import shutil
from pathlib import Path

import pytest

from serving.bundle import FILES, open_bundle
from serving.errors import ExitCode
from tests.system.conftest import REPOSITORY, Environment

pytestmark = pytest.mark.system

MAX_BYTES = 500e6
"""Beside pip; torch alone is larger."""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """A fresh environment with this project's serving part, built from a copy of the sources."""
    folder = tmp_path_factory.mktemp("serving")
    source = folder / "source"
    source.mkdir()
    # Building in the checkout would leave build/ there.
    for name in ("job", "export", "serving"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE", "constraints.txt"):
        shutil.copy(REPOSITORY / name, source / name)
    environment = Environment(folder / "venv")
    environment.install("-c", str(source / "constraints.txt"), f"{source}[serving]")
    shutil.rmtree(source)
    return environment


def test_it_is_small_and_has_no_torch(environment: Environment) -> None:
    """If it failed, a server's image would carry gigabytes that serving does not use."""
    for module in ("torch", "pyarrow", "pydantic", "structlog"):
        done = environment.python("-c", f"import {module}")
        assert f"No module named '{module}'" in done.stderr
    listed = environment.python("-m", "pip", "list", "--format=json", "--disable-pip-version-check")
    names = {entry["name"] for entry in json.loads(listed.stdout)} - {"pip", "setuptools"}
    assert {"bowsprit", "onnxruntime"} <= names
    assert "onnxruntime-gpu" not in names
    assert environment.python("-m", "pip", "check").returncode == 0
    (libraries,) = environment.folder.glob("lib/python*/site-packages")
    size = sum(
        path.lstat().st_size
        for path in libraries.rglob("*")
        if path.is_file() and path.relative_to(libraries).parts[0] not in ("pip", "setuptools")
    )
    print(f"{size / 1e6:.0f} MB in {len(names)} distributions: {', '.join(sorted(names))}")
    assert size < MAX_BYTES


def test_a_bundle_trained_elsewhere_is_verified(environment: Environment, bundle: Path) -> None:
    """If it failed, nobody could check a bundle where it is served."""
    done = environment.python("-m", "serving", "verify", str(bundle))
    assert (done.returncode, done.stderr) == (ExitCode.DONE, "")
    bundle_id = open_bundle(bundle).bundle_id
    assert f"{bundle} holds: all " in done.stdout
    assert f"bundle {bundle_id}" in done.stdout
    expecting = environment.python("-m", "serving", "verify", str(bundle), "--expect", bundle_id)
    assert expecting.returncode == ExitCode.DONE


def test_a_damaged_bundle_is_refused(environment: Environment, bundle: Path, tmp_path: Path) -> None:
    """If it failed, the installed `verify` would accept anything."""
    damaged = shutil.copytree(bundle, tmp_path / "damaged")
    path = damaged / FILES.text_model
    path.write_bytes(path.read_bytes()[:-1])
    done = environment.python("-m", "serving", "verify", str(damaged))
    assert done.returncode == ExitCode.BUNDLE_DAMAGED
    assert FILES.text_model in done.stderr


def test_texts_are_classified(environment: Environment, bundle: Path) -> None:
    """If it failed, the installed `predict` would not do the one thing that it is installed for."""
    golden = [json.loads(line) for line in (bundle / FILES.golden).read_text().split("\n") if line]
    # A line is a text: those that hold the end of a line cannot be given.
    golden = [example for example in golden if len(example["text"].encode().split(b"\n")) == 1]
    golden = [example for example in golden if not example["text"].endswith("\r")]
    lines = "".join(example["text"] + "\n" for example in golden) + "\n"
    done = environment.python("-X", "utf8", "-m", "serving", "predict", str(bundle), stdin=lines)
    assert (done.returncode, done.stderr) == (ExitCode.DONE, "")
    answers = [json.loads(line)["predictions"] for line in done.stdout.splitlines()]
    assert len(answers) == len(golden) + 1
    for example, (best,) in zip(golden, answers, strict=False):
        assert best["label"] == example["label"]
        assert best["log_prob"] == pytest.approx(max(example["log_probs"]), rel=1e-5, abs=1e-5)


def test_torch_is_named_where_it_is_asked_for(environment: Environment, bundle: Path) -> None:
    """If it failed, a traceback would be the answer to `verify --torch` on a server."""
    done = environment.python("-m", "serving", "verify", str(bundle), "--torch")
    assert done.returncode == ExitCode.SETTINGS == 2
    assert "--torch needs torch" in done.stderr
    assert "bowsprit[train]" in done.stderr
    assert "Traceback" not in done.stderr
