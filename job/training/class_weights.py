"""How much the rows of each label count in training."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from job.corpus.bags import Values
from serving.errors import DataError

NONE, BALANCED = "none", "balanced"
_SHOWN_LABELS = 5


def given(text: str) -> dict[str, float] | None:
    """The weights that BOW_CLASS_WEIGHTS lists, by label; None for `none` and `balanced`.

    Raises ValueError where it is neither of these nor a JSON object of numbers that float32 holds above 0, or
    lists a label twice.

    >>> given('{"spam": 5}')
    {'spam': 5.0}
    """
    if text in (NONE, BALANCED):
        return None
    try:
        weights = msgspec.json.decode(text, type=dict[str, float])
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from error
    labels = Counter(label for label, _ in json.loads(text, object_pairs_hook=list))
    for label, number in labels.items():
        if number > 1:
            raise ValueError(f"the label {label!r} is there twice")
    limits = np.finfo(np.float32)
    for label, weight in weights.items():
        if not float(limits.tiny) <= weight <= float(limits.max):
            raise ValueError(f"the weight of {label!r} is {weight:g}")
    return weights


def label_weights(text: str, label_names: Sequence[str], sums: npt.NDArray[np.float64]) -> Values | None:
    """The weight of each label's rows, float32 [K]; None where all rows count the same.

    `balanced` gives each label's rows the same sum, S / K: S / (K * s) for a label whose rows weigh s of all
    rows' S. It is what scikit-learn's `compute_class_weight("balanced", sample_weight=...)` gives. A label
    whose rows weigh nothing is none of the K, and has the weight 1. So have labels that a list leaves out.

    sums: what the training rows of each label weigh together, [K]. Raises DataError where a label is listed
    that there is not.

    >>> label_weights("balanced", ["ham", "spam"], np.array([9.0, 1.0]))
    array([0.5555556, 5.       ], dtype=float32)
    """
    if text == NONE:
        return None
    if text == BALANCED:
        counts = sums > 0
        shares = sums.sum() / (counts.sum() * np.where(counts, sums, 1))
        return np.where(counts, shares, 1).astype(np.float32)
    weights: Mapping[str, float] = given(text) or {}
    unknown = sorted(weights.keys() - set(label_names))
    if unknown:
        shown = ", ".join(map(repr, label_names[:_SHOWN_LABELS]))
        raise DataError(
            f"BOW_CLASS_WEIGHTS: there is no label {unknown[0]!r} in the training data; it has {shown}"
            f"{' and others' if len(label_names) > _SHOWN_LABELS else ''}: correct the name, or leave it out"
        )
    return np.array([weights.get(name, 1) for name in label_names], np.float32)
