"""What the tests that install real parts share: a bundle, and environments of their own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from job.environment import load_settings
from job.run import run
from job.telling.output import Output

collect_ignore = ["schema_hooks.py", "triton_model.py"]
"""Run by other programs, in environments of their own: they import what is not here."""

REPOSITORY = Path(__file__).parents[2]
SCRIPTS = [
    *(
        "me gusta",
        "comer en la",
        "cafetería",
        "Give it",
        "日本語 の 本",
        "שלום עולם",
        "e\u0301 é",
        "👍🏽 👩\u200d👧",
    ),
    *(
        "lost at sea",
        "No creo",
        "buena idea",
        "\u200bword",
        '"quoted" \\C*',
        "x" * 2000,
        "ﬁ İ ß",
        "yes\u00a0no",
    ),
]


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that this environment has trained, of words in many scripts and nine labels."""
    folder = tmp_path_factory.mktemp("trained")
    rows = [
        f"{SCRIPTS[row % 16]} {SCRIPTS[row * 7 % 13]} w{row % 97}\tétiquette {row % 9}" for row in range(2000)
    ]
    (folder / "train.tsv").write_text("text\tlabel\n" + "\n".join(rows) + "\n")
    environ = {"BOW_TRAIN_DATA": str(folder / "train.tsv"), "BOW_OUTPUT_DIR": str(folder / "artifacts")}
    return run(load_settings(environ | {"BOW_DEVICE": "cpu"}), Output(for_people=False))


RECIPES = ("intents", "language-id", "topics")


@pytest.fixture(scope="session")
def recipe_bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A bundle by each recipe, by its name, of texts in many scripts and cases."""
    folder = tmp_path_factory.mktemp("recipes")
    rows = [
        f"{SCRIPTS[row % 16]} {SCRIPTS[row * 7 % 13].upper()}'s w{row % 97}!\tétiquette {row % 9}"
        for row in range(2000)
    ]
    (folder / "train.tsv").write_text("text\tlabel\n" + "\n".join(rows) + "\n")
    bundles = {}
    for name in RECIPES:
        lines = (REPOSITORY / "recipes" / f"{name}.env").read_text().splitlines()
        environ = dict(line.split("=", 1) for line in lines if line.startswith("BOW_"))
        environ |= {"BOW_TRAIN_DATA": str(folder / "train.tsv"), "BOW_OUTPUT_DIR": str(folder)}
        environ |= {"BOW_DEVICE": "cpu", "BOW_RUN_NAME": name}
        bundles[name] = run(load_settings(environ), Output(for_people=False))
    return bundles


def has_installed(program: str, *, package: str) -> bool:
    """Whether a program is here, or could be installed from one of Debian's packages."""
    if shutil.which(program) is None:
        install(package)
    return shutil.which(program) is not None


def install(package: str) -> None:
    """Installs one of Debian's packages, where that can be done; the caller looks whether it could."""
    if shutil.which("apt-get") is not None and os.geteuid() == 0:
        command = ["apt-get", "install", "--yes", "--no-install-recommends", package]
        for each in (["apt-get", "update"], command):
            subprocess.run(each, capture_output=True, check=False)


class Environment:
    """A virtual environment with pip, made by this Python."""

    def __init__(self, folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        self.folder = folder
        self._environ = {
            name: value for name, value in os.environ.items() if not name.startswith(("BOW_", "PYTHON"))
        }

    def python(
        self, *arguments: str, stdin: str = "", cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Runs its Python, away from this checkout."""
        return subprocess.run(
            [str(self.folder / "bin" / "python"), *arguments],
            cwd=cwd or self.folder,
            env=self._environ,
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
        )

    def install(self, *requirements: str) -> None:
        """Installs by pip; what it says is in the failure."""
        done = self.python("-m", "pip", "install", "--disable-pip-version-check", *requirements)
        assert done.returncode == 0, done.stdout + done.stderr
