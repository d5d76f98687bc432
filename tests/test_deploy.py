"""The files for clusters: what can be told of them without one."""

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from job.setting_kinds import env_name
from job.settings import Settings
from serving.errors import ExitCode
from serving.server.settings import ServerSettings

REPOSITORY = Path(__file__).parents[1]
DEPLOY = REPOSITORY / "deploy"
SBATCH = DEPLOY / "slurm" / "bowsprit.sbatch"

Sbatch = Callable[..., subprocess.CompletedProcess[str]]


def test_the_recipe_of_the_manifests_is_the_recipe() -> None:
    """If it failed, a cluster would train by an older recipe than the one that was measured."""
    copied = DEPLOY / "kubernetes" / "base" / "recipe.env"
    assert copied.read_text() == (REPOSITORY / "recipes" / "intents.env").read_text()


def test_every_setting_that_is_named_exists() -> None:
    """If it failed, a manifest, the Slurm script or a page would set what the job or the server refuses."""
    known = {env_name(name) for name in Settings.model_fields}
    known |= {f"BOW_SERVE_{name.upper()}" for name in ServerSettings.model_fields}
    paths = [path for path in DEPLOY.rglob("*") if path.is_file()]
    assert any(path.suffix == ".sbatch" for path in paths)
    for path in paths:
        assert set(re.findall(r"\bBOW_[A-Z_]*[A-Z]\b", path.read_text())) <= known, path


def test_the_slurm_script_reads_recipes_as_make_does() -> None:
    """If it failed, the same recipe would train another model on a cluster; test_make.py has the rules."""
    function = (REPOSITORY / "recipes" / "read.sh").read_text().partition("read_recipe() {")[2]
    assert function in SBATCH.read_text()


@pytest.fixture
def sbatch(tmp_path: Path) -> Sbatch:
    """Runs the Slurm script as a job of the number 7, with a `python` and Slurm's commands that are given."""

    def run(
        python: str, *, squeue: str = "", scontrol: str = 'echo "scontrol $*"', **environ: str
    ) -> subprocess.CompletedProcess[str]:
        commands = {"venv/bin/python": python, "bin/squeue": squeue, "bin/scontrol": scontrol}
        commands["bin/sleep"] = ""
        for name, body in commands.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"#!/bin/sh\n{body}\n")
            path.chmod(0o755)
        environ |= {
            "PATH": f"{tmp_path}/bin:{os.environ['PATH']}",
            "SLURM_JOB_ID": "7",
            "BOWSPRIT_VENV": "venv",
        }
        return subprocess.run(
            ["bash", SBATCH], cwd=tmp_path, env=environ, capture_output=True, text=True, check=False
        )

    return run


def test_the_slurm_script_takes_the_recipe(sbatch: Sbatch, tmp_path: Path) -> None:
    """If it failed, a cluster would train with other settings than the recipe's."""
    (tmp_path / "my.env").write_text("  BOW_EPOCHS=7\nBOW_TEXT_COLUMN=x=\nBOW_SEED=1")
    found = sbatch("env", RECIPE="my.env", BOW_SEED="2")
    assert found.returncode == 0, found.stderr
    asked = {"BOW_EPOCHS=7", "BOW_TEXT_COLUMN=x=", "BOW_SEED=2", "BOW_RUN_NAME=slurm-7"}
    assert asked <= set(found.stdout.splitlines())
    (tmp_path / "my.env").write_text("export BOW_EPOCHS=7\n")
    refused = sbatch("env", RECIPE="my.env")
    assert (refused.returncode, refused.stdout) == (ExitCode.SETTINGS, "")
    assert refused.stderr.startswith("my.env:1: expected NAME=VALUE")


@pytest.mark.parametrize(
    ("squeue", "requeued"),
    [
        ("echo RUNNING", True),
        ("echo COMPLETING", False),
        ("exit 1", True),
        ("test -e asked && echo COMPLETING || { touch asked; exit 1; }", False),
    ],
    ids=["running", "ending", "no answer", "an answer later"],
)
def test_the_slurm_script_requeues_unless_slurm_does(sbatch: Sbatch, squeue: str, *, requeued: bool) -> None:
    """If it failed, a controller that restarts would cost a run, or a cancelled one come back."""
    ended = sbatch("exit 75", squeue=squeue)
    assert ended.returncode == ExitCode.INTERRUPTED
    assert ended.stdout == ("scontrol requeue 7\n" if requeued else "")
    assert ("interrupted; requeued" in ended.stderr) == requeued


def test_the_slurm_script_says_that_it_could_not_requeue(sbatch: Sbatch) -> None:
    """If it failed, a run that does not come back would be waited for."""
    ended = sbatch("exit 75", squeue="exit 1", scontrol="exit 1")
    assert ended.returncode == ExitCode.INTERRUPTED
    assert "submit it again" in ended.stderr
