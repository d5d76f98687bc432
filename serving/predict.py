"""`predict`: texts in, one a line, JSON lines out, in order, as they come."""

import codecs
import os
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import msgspec
import numpy as np

from serving.errors import DataError
from serving.predictor import Predictor
from serving.selection import Prediction, Selection

READ_BYTES = 1 << 18
MAX_BATCH = 1024
"""Texts that are scored at once: enough for several cores."""


class Line(msgspec.Struct, frozen=True):
    """What is written for a text."""

    predictions: list[Prediction]
    """The most probable first; none where no label reaches the threshold."""


def predict(predictor: Predictor, source: BinaryIO, name: str, sink: BinaryIO, selection: Selection) -> None:
    """Writes a JSON line for each line of `source`, called `name` in messages; holds nothing back.

    Raises DataError at the first line that is not UTF-8 or holds NUL, after the lines before it were written.
    """
    encoder = msgspec.json.Encoder()
    number = 1
    for lines in _batches(source, name):
        texts, problem = _decode(lines, name, number)
        found = predictor.predict(texts, top_k=selection.top_k, threshold=selection.threshold)
        sink.write(encoder.encode_lines([Line(_shorter(each)) for each in found]))
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
            # A byte order mark at the start is no part of the text; training leaves it out as well.
            start = codecs.BOM_UTF8 if number == 1 else b""
            text = line.removeprefix(start).removesuffix(b"\r").decode()
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


def _shorter(predictions: Sequence[Prediction]) -> list[Prediction]:
    """The same in the few digits that tell a float32 from its neighbours."""
    return [
        Prediction(each.label, float(f"{each.prob:.6g}"), float(str(np.float32(each.log_prob))))
        for each in predictions
    ]
