"""The golden examples of a bundle: texts, and what the trained model said of them in float64."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from serving.bundle import FILES, read_lines
from serving.errors import ArtifactError


class GoldenExample(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A text made from the vocabulary, and what the trained model said of it in float64."""

    text: str
    label: str
    log_probs: list[float]
    """[K]."""


def read_golden(folder: Path, labels: Sequence[str]) -> tuple[list[str], npt.NDArray[np.float64]]:
    """The texts [N] of a bundle's golden examples, and their log-probabilities [N, K].

    Raises ArtifactError where they are not of a model with these labels, or one is no text that it takes.
    """
    path = folder / FILES.golden
    examples = read_lines(path, GoldenExample)
    if any(len(example.log_probs) != len(labels) for example in examples) or not examples:
        raise ArtifactError(
            f"{path}: expected texts with {len(labels):,} log-probabilities; get the bundle again"
        )
    for line, example in enumerate(examples, 1):
        if "\0" in example.text:
            raise ArtifactError(
                f"{path}:{line}: holds a NUL character, which no text may; the bundle was altered: "
                "get it again"
            )
    log_probs = np.array([example.log_probs for example in examples], dtype=np.float64)
    if any(labels[row.argmax()] != example.label for row, example in zip(log_probs, examples, strict=True)):
        raise ArtifactError(
            f"{path}: a label is not the most probable one; the bundle was altered: get it again"
        )
    return [example.text for example in examples], log_probs
