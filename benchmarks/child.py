"""One contender on one task in a process of its own: `python -m benchmarks.child NAME FOLDER THREADS`.

Prints its figures as a JSON object, on the last line.
"""

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from job.corpus.memory import peak_memory

BATCH = 256
NUM_SINGLE = 300
"""Texts that are predicted alone."""
NUM_BATCHED = 20 * BATCH


def measure(name: str, folder: Path, num_threads: int) -> dict[str, Any]:
    """Everything that is measured of a contender."""
    begin = time.perf_counter()
    from benchmarks.contenders import CONTENDERS, NGRAM_CONTENDERS
    from benchmarks.task import Task

    contender = (CONTENDERS | NGRAM_CONTENDERS)[name](num_threads)
    imported = time.perf_counter()
    memory_before = peak_memory()
    task = Task(folder=folder)
    with tempfile.TemporaryDirectory() as scratch:
        start = time.perf_counter()
        stages = contender.fit(task, Path(scratch) / "model")
        fitted = time.perf_counter() - start
    peak = stages.pop("peak_memory", peak_memory())  # some load the model again, to predict by it

    texts, labels = task.rows("test")
    predicted: list[int] = []
    for first in range(0, len(texts), BATCH):
        predicted += contender.predict(texts[first : first + BATCH])
    right = sum(one == other for one, other in zip(predicted, labels, strict=True))
    batched = (texts * (1 + NUM_BATCHED // len(texts)))[:NUM_BATCHED]
    return {
        "import": imported - begin,
        "whole": fitted,
        "file_to_model": stages.pop("file_to_model", fitted),
        "stages": stages,
        "memory_before": memory_before,
        "peak_memory": peak,
        "accuracy": right / len(labels),
        "single_text": statistics.median(
            _seconds(partial(contender.predict, [text])) for text in batched[:NUM_SINGLE]
        ),
        "texts_per_second": BATCH
        / min(
            _seconds(partial(contender.predict, batched[first : first + BATCH]))
            for first in range(0, NUM_BATCHED, BATCH)
        ),
    }


def _seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


if __name__ == "__main__":
    figures = measure(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
    sys.stdout.write("\n" + json.dumps(figures) + "\n")
