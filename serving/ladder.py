"""The rungs of the parity ladder that a bundle's files are held to: when published, and by `verify`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from serving.adversarial import adversarial_texts, in_batches
from serving.bundle import FILES
from serving.parity import Rung, Tolerance, compare, merge
from serving.reference import Reference, Scores
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


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Texts of one kind, with what the reference says of them."""

    name: str
    """Such as `golden texts`."""
    texts: Sequence[str]
    scores: Scores

    def part(self, limit: int) -> "Sample":
        """At most `limit` of the texts, evenly spread, the first and the last among them."""
        if len(self.texts) <= limit:
            return self
        rows = np.linspace(0, len(self.texts) - 1, limit).astype(np.int64)
        texts = [self.texts[row] for row in rows]
        return Sample(name=self.name, texts=texts, scores=self.scores.rows(rows))


def samples(
    reference: Reference, vocabulary: Sequence[str], given: Mapping[str, Sequence[str]]
) -> list[Sample]:
    """The samples that every ladder has, and those `given` by name."""
    every_word = [
        " ".join(vocabulary[start : start + WORDS_PER_TEXT])
        for start in range(0, len(vocabulary), WORDS_PER_TEXT)
    ]
    texts = {"adversarial texts": adversarial_texts(vocabulary), "every-word texts": every_word, **given}
    return [
        Sample(name=name, texts=some, scores=reference.score(some)) for name, some in texts.items() if some
    ]


def climb(
    folder: Path,
    parameters: Parameters,
    metadata: Mapping[str, str],
    some: Sequence[Sample],
    tolerance: Tolerance,
) -> list[Rung]:
    """The rungs that need no torch: the weights in every file, then both ONNX models, loaded from disk."""
    reference = Reference.of(parameters.weight, parameters.bias, parameters.vocabulary)
    num_labels, vocabulary_size = parameters.weight.shape
    rungs = compare_weights(folder, parameters, metadata)
    text_model = TextModel(folder / FILES.text_model, num_labels)
    rungs += [_text_rung(sample, text_model, parameters.labels, tolerance) for sample in some]
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
    for whole in some:
        sample = whole.part(limit)
        texts = sample.texts
        parts = [
            compare(
                name,
                sample.name,
                log_probs(reference.bow(texts[start : start + size])),
                sample.scores.rows(slice(start, min(start + size, len(texts)))),
                tolerance,
                float32_sums=float32_sums,
            )
            for start in range(0, len(texts), size)
        ]
        rungs.append(merge(parts))
    return rungs


def bag_rungs(
    name: str,
    score: Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64]], LogProbs],
    reference: Reference,
    some: Sequence[Sample],
    tolerance: Tolerance,
) -> list[Rung]:
    """A rung for each sample, of a runtime that takes bags of ids and sums in float64."""
    return [
        _in_batches(name, sample, lambda texts: score(*reference.bags(texts)), tolerance) for sample in some
    ]


def _in_batches(
    name: str, sample: Sample, log_probs: Callable[[list[str]], LogProbs], tolerance: Tolerance
) -> Rung:
    """One rung over a sample, in batches of 0, 1, 7 and 256 texts."""
    parts = []
    for batch, rows in _rows(sample):
        parts.append(
            compare(
                name,
                sample.name,
                log_probs(batch),
                sample.scores.rows(rows),
                tolerance,
                float32_sums=False,
            )
        )
    return merge(parts)


def _rows(sample: Sample) -> Iterator[tuple[list[str], slice]]:
    batches = list(in_batches(sample.texts))
    ends = np.cumsum([0, *map(len, batches)]).tolist()
    for batch, (start, end) in zip(batches, pairwise(ends), strict=True):
        yield batch, slice(start, end)


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

    rung = _in_batches(FILES.text_model, sample, log_probs, tolerance)
    # And each short text alone, since what a large batch takes decides its path through the graph.
    short = [row for row, text in enumerate(sample.texts) if len(text) <= SHORT]
    alone = [
        compare(
            FILES.text_model,
            sample.name,
            log_probs([sample.texts[row]]),
            sample.scores.rows(slice(row, row + 1)),
            tolerance,
            float32_sums=False,
        )
        for row in short
    ]
    rung = replace(merge([rung, *alone]), count=rung.count)
    if not num_wrong:
        return rung
    return replace(rung, problem=f"`label` is not the most probable label in {num_wrong:,} texts")
