"""`predict`: texts in, one a line, JSON lines out, in order, as they come."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import msgspec
import numpy as np

from serving.bundle import FILES, Bundle, check_files
from serving.errors import DataError
from serving.session import Float32, TextModel

READ_BYTES = 1 << 16
MAX_BATCH = 256
"""Texts that are scored at once."""


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which labels of a text are written."""

    top_k: int = 1
    """At most so many, the most probable first."""
    threshold: float = 0.0
    """Only those with at least this probability."""


class Prediction(msgspec.Struct, frozen=True):
    """A label of a text."""

    label: str
    prob: float
    log_prob: float
    """In nats."""


class Line(msgspec.Struct, frozen=True):
    """What is written for a text."""

    predictions: list[Prediction]
    """The most probable first; none where no label reaches the threshold."""


def predict(bundle: Bundle, source: BinaryIO, name: str, sink: BinaryIO, selection: Selection) -> None:
    """Writes a JSON line for each line of `source`, called `name` in messages; holds nothing back.

    Raises DataError at the first line that is not UTF-8 or holds NUL, after the lines before it were written.
    """
    check_files(bundle, [FILES.labels, FILES.text_model])
    labels = bundle.labels()
    model = TextModel(bundle.path / FILES.text_model, len(labels))
    encoder = msgspec.json.Encoder()
    number = 1
    for lines in _batches(source, name):
        texts, problem = _decode(lines, name, number)
        log_probs = model.log_probs(texts)
        sink.write(encoder.encode_lines([Line(row) for row in _select(log_probs, labels, selection)]))
        sink.flush()
        if problem is not None:
            raise problem
        number += len(lines)


def _batches(source: BinaryIO, name: str) -> Iterator[list[bytes]]:
    """The lines that have come, without their ends, at most `MAX_BATCH` at a time.

    Reads from the descriptor itself: a buffered reader would wait for more before it hands out a line.
    """
    unfinished: list[bytes] = []
    while data := _read(source, name):
        unfinished.append(data)
        if b"\n" in data:
            *lines, rest = b"".join(unfinished).split(b"\n")
            for start in range(0, len(lines), MAX_BATCH):
                yield lines[start : start + MAX_BATCH]
            unfinished = [rest]
    if last := b"".join(unfinished):
        yield [last]


def _read(source: BinaryIO, name: str) -> bytes:
    try:
        return os.read(source.fileno(), READ_BYTES)
    except OSError as error:
        raise DataError(
            f"{name}: cannot be read ({error.strerror}); name a file with a text in each line"
        ) from error


def _decode(lines: Sequence[bytes], name: str, first: int) -> tuple[list[str], DataError | None]:
    """The texts up to the first bad line, and what is wrong with that."""
    texts: list[str] = []
    for number, line in enumerate(lines, first):
        try:
            text = line.removesuffix(b"\r").decode()
        except UnicodeDecodeError as error:
            found = f"byte {error.object[error.start]:#04x} at place {error.start + 1}"
        else:
            if "\0" not in text:
                texts.append(text)
                continue
            found = "a NUL character"
        return texts, DataError(
            f"{name}:{number}: expected a text in UTF-8 without NUL, found {found}; "
            "the lines before it were answered. Correct the line, or convert the texts to UTF-8"
        )
    return texts, None


def _select(log_probs: Float32, labels: Sequence[str], selection: Selection) -> Iterator[list[Prediction]]:
    # Ties go to the earlier label, as in the model's own output `label`.
    best = np.argsort(-log_probs, axis=1, kind="stable")[:, : selection.top_k]
    chosen = np.take_along_axis(log_probs, best, axis=1)
    # Through text, so that a float32 is written in the few digits that name it.
    values = chosen.astype("U32").astype(np.float64)
    probs = np.exp(values)
    for row, row_probs, row_values in zip(best.tolist(), probs.tolist(), values.tolist(), strict=True):
        yield [
            Prediction(labels[label], float(f"{prob:.6g}"), value)
            for label, prob, value in zip(row, row_probs, row_values, strict=True)
            if prob >= selection.threshold
        ]
