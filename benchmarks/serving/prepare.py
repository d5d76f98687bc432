"""What every contender is given: the same data, a bundle that was trained on it, and the same requests."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import corpus, process
from benchmarks.convert import write
from benchmarks.task import Task
from serving.bundle import FILES, Bundle, open_bundle

NUM_LABELS, NUM_TOKENS = 77, 120_000
"""As many as banking77 has."""
RECIPE_LINE = "BOW_"


@dataclass(frozen=True, kw_only=True)
class Material:
    """The data and the bundle."""

    task: Task
    bundle: Bundle
    texts: list[str]
    """Of the test data: what is asked about."""

    @property
    def model(self) -> Path:
        """`model.onnx`."""
        return self.bundle.path / FILES.text_model


def prepare(folder: Path, data: Sequence[str] | None, recipe: Path | None) -> Material:
    """Trains a bundle on the given train and test file, or on texts that are drawn for it."""
    if data is None:
        source = folder / f"generated-{NUM_LABELS}-labels"
        if not (source / "test.tsv").exists():
            corpus.generate(source, num_tokens=NUM_TOKENS, num_labels=NUM_LABELS)
        data = (str(source / "train.tsv"), str(source / "test.tsv"))
        name = source.name
    else:
        name = Path(data[0]).stem
    train, test = data
    task = write(folder / "tasks" / name, {"train": train, "test": test})
    bundle = open_bundle(_train(folder / "bundles", train, test, recipe))
    return Material(task=task, bundle=bundle, texts=task.rows("test")[0])


def _train(folder: Path, train: str, test: str, recipe: Path | None) -> Path:
    """The folder of a bundle that the job has trained, in a process of its own."""
    chosen = [] if recipe is None else recipe.read_text().splitlines()
    settings = dict(line.split("=", 1) for line in chosen if line.startswith(RECIPE_LINE)) | {
        "BOW_TRAIN_DATA": train,
        "BOW_TEST_DATA": test,
        "BOW_DEVICE": "cpu",
        "BOW_OUTPUT_DIR": str(folder),
        "BOW_RUN_NAME": "served",
    }
    shutil.rmtree(folder, ignore_errors=True)
    process.run(["job"], process.without_settings() | settings, f"the run with {settings}")
    return folder / "served"


def bodies(texts: Sequence[str], number: int, *, outputs: Sequence[str] = ()) -> list[bytes]:
    """Requests of the Open Inference Protocol, each with so many texts that follow each other.

    outputs: those that are asked for; where there are none, whatever the server gives.
    """
    asked = {"outputs": [{"name": name} for name in outputs]} if outputs else {}
    return [
        json.dumps(
            {"inputs": [{"name": "text", "shape": [number], "datatype": "BYTES", "data": some}]} | asked,
            ensure_ascii=False,
        ).encode()
        for some in chunks(texts, number)
    ]


def chunks(texts: Sequence[str], number: int) -> list[list[str]]:
    """The texts in lists of the same length; those that are left over are left out.

    >>> chunks(["a", "b", "c", "d", "e"], 2)
    [['a', 'b'], ['c', 'd']]
    """
    return [list(texts[first : first + number]) for first in range(0, len(texts) - number + 1, number)]
