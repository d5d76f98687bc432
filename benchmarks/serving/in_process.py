"""The library against fastText, on one thread: `python -m benchmarks.serving.in_process BUNDLE TASK`.

Prints its figures as a JSON object, on the last line.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.task import Task

SINGLE, BATCH = 300, 256
REPEATS = 5
NAMES = ("Predictor.predict", "Predictor.log_probs", "fastText predict")


def measure(bundle: Path, task: Task) -> dict[str, dict[str, float]]:
    """Median seconds for one text, and for a list of 256; by what was called, and all take turns."""
    import fasttext

    from serving.predictor import Predictor

    predictor = Predictor.load(bundle)
    peer = fasttext.train_supervised(
        str(task.path("train", "ft")), dim=100, epoch=25, lr=0.5, thread=1, verbose=0
    )
    texts, _ = task.rows("test")
    single = (texts * (1 + SINGLE // len(texts)))[:SINGLE]
    lists = texts * (1 + REPEATS * BATCH // len(texts))
    calls: dict[str, tuple[Callable[[str], object], Callable[[list[str]], object]]] = dict(
        zip(
            NAMES,
            (
                (lambda text: predictor.predict([text]), predictor.predict),
                (lambda text: predictor.log_probs([text]), predictor.log_probs),
                (peer.predict, peer.predict),
            ),
            strict=True,
        )
    )
    one: dict[str, list[float]] = {name: [] for name in calls}
    many: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(REPEATS):
        some = lists[repeat * BATCH : (repeat + 1) * BATCH]
        for name, (predict_one, predict_many) in calls.items():
            # Twice: the second time for the clock, when caches hold what the call needs.
            for text in single[:50]:
                predict_one(text)
            one[name] += [_seconds(predict_one, text) for text in single]
            predict_many(some)
            many[name].append(min(_seconds(predict_many, some) for _ in range(5)))
    return {
        name: {"one": statistics.median(one[name]), "list": statistics.median(many[name])} for name in calls
    }


def _seconds(call: Callable[..., object], given: object) -> float:
    begin = time.perf_counter()
    call(given)
    return time.perf_counter() - begin


if __name__ == "__main__":
    _figures = measure(Path(sys.argv[1]), Task(folder=Path(sys.argv[2])))
    sys.stdout.write("\n" + json.dumps(_figures) + "\n")
