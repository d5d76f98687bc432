"""Which labels of a text are given, and in what order: the most probable first."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from serving.session import Float32


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which labels of a text are given."""

    top_k: int = 1
    """At most so many, the most probable first."""
    threshold: float = 0.0
    """Only those with at least this probability."""


class Prediction(msgspec.Struct, frozen=True):
    """A label of a text."""

    label: str
    prob: float
    log_prob: float
    """In nats: the model's float32, as it is."""


def best(log_probs: Float32, top_k: int) -> npt.NDArray[np.intp]:
    """The numbers of each row's most probable labels, [N, min(top_k, K)] of [N, K].

    Ties go to the earlier label, as in the model's own output `label`.
    """
    if top_k == 1:
        largest: npt.NDArray[np.intp] = log_probs.argmax(axis=1)
        return largest[:, None]
    order: npt.NDArray[np.intp] = np.argsort(-log_probs, axis=1, kind="stable")
    return order[:, :top_k]


def select(log_probs: Float32, labels: Sequence[str], top_k: int, threshold: float) -> list[list[Prediction]]:
    """The labels of each row of log-probabilities [N, K]; none where no label reaches the threshold."""
    exp = math.exp
    if top_k == 1:
        # Row by row: for a single text, numpy's ways to do this at once take longer than the model's sums.
        value = log_probs.item
        return [
            [Prediction(labels[number], prob, found)]
            if (prob := exp(found := value(row, number))) >= threshold
            else []
            for row, number in enumerate(log_probs.argmax(axis=1).tolist())
        ]
    chosen = best(log_probs, top_k)
    values = np.take_along_axis(log_probs, chosen, axis=1)
    return [
        [
            Prediction(labels[number], prob, found)
            for number, found in zip(row, row_values, strict=True)
            if (prob := exp(found)) >= threshold
        ]
        for row, row_values in zip(chosen.tolist(), values.tolist(), strict=True)
    ]
