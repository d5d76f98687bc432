"""Bundles that the real job made, once for all tests of this folder."""

import random
import shutil
from pathlib import Path

import pytest

from job.environment import load_settings
from job.run import run
from job.telling.output import Output
from serving.bundle import FILES, Bundle, open_bundle
from serving.parity.rungs import check
from serving.parity.verify import Verdict, verify
from serving.quality import FailedGate

REPOSITORY = Path(__file__).parents[2]

WORDS = [
    *(
        "café",
        "über",
        "Straße",
        "東京",
        "привет",
        "naïve",
        "שלום",
        "x\u030c",
        "😀",
        "a,b",
        '"q"',
        "back\\slash",
    ),
    *(f"w{number}é" if number % 3 else f"w{number}" for number in range(291)),
]
"""303, so that the texts that hold every word once are not all of the same length."""
NUM_LABELS, NUM_WORDS = 5, len(WORDS)


def train(folder: Path, train_data: str, **settings: str) -> Path:
    """A bundle of the real job, in this process."""
    environ = {"TRAIN_DATA": train_data, "OUTPUT_DIR": str(folder), "DEVICE": "cpu", "NUM_THREADS": "1"}
    environ |= settings
    return run(load_settings({f"BOW_{name}": value for name, value in environ.items()}), Output(False))


def hold(folder: Path, *, with_torch: bool = False) -> Verdict:
    """What `verify` found; raises as the command does where a bundle does not hold."""
    verdict = verify(folder, with_torch=with_torch)
    check(verdict.rungs, "the bundle")
    return verdict


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of 5 labels and 303 words, many of them not ASCII; not to be altered."""
    folder = tmp_path_factory.mktemp("trained")
    generator = random.Random(1)
    rows = []
    for row in range(170):
        label = row % 5
        words = generator.choices(WORDS, k=6) + generator.choices(WORDS[label * 20 : label * 20 + 20], k=4)
        rows.append(f"{' '.join(words)}\tlabel {label}é")
    rows += [f"{' '.join(WORDS[start : start + 10])}\tlabel 0é" for start in range(0, len(WORDS), 10)]
    data = folder / "train.tsv"
    data.write_text("text\tlabel\n" + "\n".join(rows) + "\n")
    return train(folder / "out", str(data), RUN_NAME="own")


@pytest.fixture(scope="session")
def tutorial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of `make train`; not to be altered."""
    recipe = dict(
        line.removeprefix("BOW_").split("=", 1)
        for line in (REPOSITORY / "recipes" / "tutorial.env").read_text().splitlines()
        if line.startswith("BOW_")
    )
    assert recipe.pop("TRAIN_DATA") == "tutorial"
    return train(tmp_path_factory.mktemp("tutorial"), "tutorial", **recipe)


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    """A copy of the bundle, to be altered."""
    return shutil.copytree(trained, tmp_path / "bundle")


@pytest.fixture
def failed(copy: Path) -> Path:
    """A copy of the bundle that says of itself that it did not pass the quality gate."""
    gate = FailedGate(
        accuracy=0.25,
        rows=8,
        min_accuracy=0.8,
        max_drop=None,
        latest=None,
        latest_accuracy=None,
        reasons=["too low", "too little"],
    )
    (copy / FILES.failed_gate).write_bytes(gate.to_json())
    return copy


@pytest.fixture(scope="session")
def bundle(trained: Path) -> Bundle:
    """The bundle, its manifest read."""
    return open_bundle(trained)


@pytest.fixture
def shorter_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the longest adversarial text a short one, which saves most of the time of `verify`."""
    monkeypatch.setattr("serving.parity.adversarial.LONGEST", 2_000)
