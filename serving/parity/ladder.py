"""The rungs of the parity ladder that a bundle's files are held to: when published, and by `verify`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from serving.bundle import FILES
from serving.parity.adversarial import MAX_CHARACTERS, adversarial_texts, in_batches
from serving.parity.reference import Bags, Reference, Scores
from serving.parity.rungs import Rung, Tolerance, compare, merge
from serving.session import CPU, BowModel, TextModel
from serving.weights import Parameters, compare_weights

DENSE_CELLS = 4 << 20
"""Counts that a dense input holds at once: 16 MiB."""
MAX_DENSE_CELLS = 16 << 20
MIN_DENSE_TEXTS = 64
"""Counts in all dense inputs of a rung, unless texts are fewer than 64: of larger samples a part is taken."""
SHORT = 1_000
"""Characters of a text that `model.onnx` also takes alone."""
WORDS_PER_TEXT = 50
"""In the texts that hold every word once."""

LogProbs = npt.NDArray[np.float32] | npt.NDArray[np.float64]
Rows = slice | npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Texts of one kind, with what the reference says of them."""

    name: str
    """Such as `golden texts`."""
    texts: Sequence[str]
    bags: Bags
    """The texts as features."""
    scores: Scores

    @classmethod
    def of(cls, name: str, texts: Sequence[str], reference: Reference) -> Self:
        """Some texts, scored."""
        bags = reference.bags(texts)
        return cls(name=name, texts=texts, bags=bags, scores=reference.score_bags(bags))

    def spread(self, limit: int) -> npt.NDArray[np.int64]:
        """At most `limit` of the texts' rows, evenly spread, the first and the last among them."""
        return np.linspace(0, len(self.texts) - 1, min(limit, len(self.texts))).astype(np.int64)


def samples(
    reference: Reference, vocabulary: Sequence[str], given: Mapping[str, Sequence[str]]
) -> list[Sample]:
    """The samples that every ladder has, and those `given` by name, without texts longer than its own."""
    every_word = [
        " ".join(vocabulary[start : start + WORDS_PER_TEXT])
        for start in range(0, len(vocabulary), WORDS_PER_TEXT)
    ]
    bounded = {name: [text for text in some if len(text) <= MAX_CHARACTERS] for name, some in given.items()}
    texts = {"adversarial texts": adversarial_texts(vocabulary), "every-word texts": every_word, **bounded}
    return [Sample.of(name, some, reference) for name, some in texts.items() if some]


def climb(
    folder: Path,
    parameters: Parameters,
    metadata: Mapping[str, str],
    reference: Reference,
    some: Sequence[Sample],
    tolerance: Tolerance,
) -> list[Rung]:
    """The rungs that need no torch: the weights in every file, then both ONNX models, loaded from disk.

    reference: of the `parameters`.
    """
    num_labels, vocabulary_size = parameters.weight.shape
    rungs = compare_weights(folder, parameters, metadata)
    rungs += _text_rungs(folder, parameters.labels, some, tolerance)
    bow_model = BowModel(folder / FILES.bow_model, num_labels, vocabulary_size)
    return rungs + dense_rungs(
        f"{FILES.bow_model}, {CPU[0]}", bow_model.log_probs, reference, some, tolerance
    )


def dense_rungs(
    name: str,
    log_probs: Callable[[npt.NDArray[np.float32]], LogProbs],
    reference: Reference,
    some: Sequence[Sample],
    tolerance: Tolerance,
    *,
    float32_sums: bool = True,
) -> list[Rung]:
    """A rung for each sample, of a runtime that takes dense counts [N, V]."""
    vocabulary_size = reference.weight.shape[1]
    size = max(1, DENSE_CELLS // max(1, vocabulary_size))
    limit = max(MIN_DENSE_TEXTS, MAX_DENSE_CELLS // max(1, vocabulary_size))
    rungs = []
    for sample in some:
        rows = sample.spread(limit)
        parts = [
            compare(
                name,
                sample.name,
                log_probs(
                    np.concatenate(
                        [reference.dense(sample.bags.part(slice(row, row + 1))) for row in some_rows]
                    )
                ),
                sample.scores.rows(some_rows),
                tolerance,
                float32_sums=float32_sums,
            )
            for some_rows in (rows[start : start + size] for start in range(0, len(rows), size))
        ]
        rungs.append(merge(parts))
    return rungs


def bag_rungs(
    name: str,
    score: Callable[[Bags], LogProbs],
    some: Sequence[Sample],
    tolerance: Tolerance,
) -> list[Rung]:
    """A rung for each sample, of a runtime that takes bags and sums in float64."""
    rungs = []
    for sample in some:
        found = [(score(sample.bags.part(rows)), rows) for _, rows in batches(sample)]
        rungs.append(_compared(name, sample, found, tolerance))
    return rungs


def _compared(
    name: str, sample: Sample, found: Sequence[tuple[LogProbs, Rows]], tolerance: Tolerance
) -> Rung:
    """One rung over what a runtime that sums in float64 gives for some rows of a sample each time."""
    return merge(
        [
            compare(name, sample.name, log_probs, sample.scores.rows(rows), tolerance, float32_sums=False)
            for log_probs, rows in found
        ]
    )


def batches(sample: Sample) -> Iterator[tuple[list[str], slice]]:
    """The texts in batches of 0, 1, 7 and 256, with their rows."""
    parts = list(in_batches(sample.texts))
    ends = np.cumsum([0, *map(len, parts)]).tolist()
    for batch, (start, end) in zip(parts, pairwise(ends), strict=True):
        yield batch, slice(start, end)


def _text_rungs(
    folder: Path, labels: Sequence[str], some: Sequence[Sample], tolerance: Tolerance
) -> list[Rung]:
    # The model, whose lookup takes more memory than all the rest, is gone before the next one is loaded.
    model = TextModel(folder / FILES.text_model, len(labels))
    return [_text_rung(sample, model, labels, tolerance) for sample in some]


def _text_rung(sample: Sample, model: TextModel, labels: Sequence[str], tolerance: Tolerance) -> Rung:
    """`model.onnx` over a sample; its output `label` must name the largest of its `log_probs`."""
    num_wrong = 0

    def log_probs(texts: list[str]) -> LogProbs:
        nonlocal num_wrong
        found, named = model.predict(texts)
        # What else a wrong number of rows is, `compare` says.
        if not len(found) == len(named) == len(texts):
            num_wrong += len(texts)
            return found
        num_wrong += sum(labels[best] != name for best, name in zip(found.argmax(axis=1), named, strict=True))
        return found

    batched = [(log_probs(batch), rows) for batch, rows in batches(sample)]
    # And each short text alone, since what a large batch takes decides its way through the graph.
    short = [row for row, text in enumerate(sample.texts) if len(text) <= SHORT]
    alone = [(log_probs([sample.texts[row]]), row) for row in short]
    rung = _compared(FILES.text_model, sample, batched, tolerance)
    both = merge([rung, _compared(FILES.text_model, sample, _joined(alone, sample), tolerance)])
    rung = replace(both, count=rung.count)
    if not num_wrong:
        return rung
    return replace(rung, problem=f"`label` is not the most probable label in {num_wrong:,} texts")


def _joined(alone: Sequence[tuple[LogProbs, int]], sample: Sample) -> list[tuple[LogProbs, Rows]]:
    """What single texts gave, in one piece, which is compared as fast as one; apart what does not fit."""
    shape = (1, sample.scores.log_probs.shape[1])
    fitting = [(found, row) for found, row in alone if found.shape == shape]
    others: list[tuple[LogProbs, Rows]] = [
        (found, slice(row, row + 1)) for found, row in alone if found.shape != shape
    ]
    if not fitting:
        return others or [(np.empty((0, shape[1])), slice(0, 0))]
    return [(np.concatenate([found for found, _ in fitting]), np.array([row for _, row in fitting])), *others]
