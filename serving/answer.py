"""What a request for predictions is answered with, whichever protocol it came by.

Two parameters of the request choose what is given of each text:

    (none)      `log_probs` [N, K] in the order of the model's labels, and `label` [N], the most probable one
    top_k       the most probable labels, the most probable first: `log_probs` and `label` [N, min(top_k, K)]
    threshold   the same, top_k being 1 unless given; a label that is less probable is "" there, and its
                log-probability stays
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

import numpy as np

from serving.errors import DataError
from serving.predictor import Predictor
from serving.selection import Selection, best
from serving.session import Float32


class Scored(NamedTuple):
    """What the model says of N texts."""

    log_probs: Float32
    """[N, K], C-contiguous."""
    best: list[int]
    """The place of each text's largest one, the first of several: [N]."""

    @classmethod
    def of(cls, log_probs: Float32) -> Self:
        """With the best labels found."""
        return cls(log_probs, log_probs.argmax(axis=1).tolist())


class Answer(NamedTuple):
    """The two outputs, N texts in."""

    log_probs: Float32
    """[N, K], or [N, k] where labels were chosen; C-contiguous."""
    label: list[str]
    """Row after row."""
    label_shape: list[int]
    """[N], or [N, k] where labels were chosen."""


def answer(predictor: Predictor, texts: Sequence[str], selection: Selection | None) -> Answer:
    """The outputs for some texts; without a selection, all log-probabilities and the best label.

    Raises DataError where a text is one that no runtime takes.
    """
    return answer_of(Scored.of(predictor.log_probs(texts)), predictor.labels, selection)


def answer_of(scored: Scored, labels: Sequence[str], selection: Selection | None) -> Answer:
    """The same from what the model has said already."""
    if selection is None:
        label = [labels[number] for number in scored.best]
        return Answer(log_probs=scored.log_probs, label=label, label_shape=[len(label)])
    chosen = best(scored.log_probs, selection.top_k)
    values = np.take_along_axis(scored.log_probs, chosen, axis=1)
    given = (np.exp(values.astype(np.float64)) >= selection.threshold).ravel().tolist()
    label = [
        labels[number] if is_given else ""
        for number, is_given in zip(chosen.ravel().tolist(), given, strict=True)
    ]
    return Answer(log_probs=values, label=label, label_shape=list(chosen.shape))


def selection_of(parameters: Mapping[str, object]) -> Selection | None:
    """What a request's parameters choose; None where they choose nothing. Others are left alone.

    Raises DataError where one is out of its range.
    """
    top_k, threshold = parameters.get("top_k"), parameters.get("threshold")
    if top_k is None and threshold is None:
        return None
    top_k = 1 if top_k is None else top_k
    threshold = 0.0 if threshold is None else threshold
    if type(top_k) is float and top_k.is_integer():
        top_k = int(top_k)  # some languages know no other numbers
    if type(top_k) is not int or top_k < 1:
        raise DataError(f"parameter top_k: expected a whole number from 1, found {top_k!r}")
    if type(threshold) not in (int, float) or not 0 <= threshold <= 1:  # type: ignore[operator]
        raise DataError(f"parameter threshold: expected a probability from 0 to 1, found {threshold!r}")
    return Selection(top_k=top_k, threshold=float(threshold))  # type: ignore[arg-type]
