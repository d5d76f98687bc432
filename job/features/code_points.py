"""Texts as arrays of code points, and back: what Arrow does otherwise than the specification, or not at all.

Whole blocks are converted at once, by Python's own codecs; a table then says what becomes of each code point.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from serving.features.code_points import LOWER, WORD_RANGES
from serving.features.specification import APOSTROPHES, WHITESPACE

SPACE = 0x20
_NUM_CODE_POINTS = 0x110000

CodePoints = npt.NDArray[np.uint32]


@dataclass(frozen=True, kw_only=True)
class Text:
    """n texts: text i is `code_points[offsets[i]:offsets[i + 1]]`."""

    code_points: CodePoints
    offsets: npt.NDArray[np.int64]
    """[n + 1], from 0."""

    @classmethod
    def of(cls, texts: pa.StringArray) -> "Text":
        """The code points of texts."""
        data, ends = utf8(texts)
        decoded = data.tobytes().decode()
        if len(decoded) == len(data):
            return cls(code_points=data.astype(np.uint32), offsets=ends)
        is_first = np.zeros(len(data) + 1, np.int64)
        np.cumsum((data & 0xC0) != 0x80, out=is_first[1:])
        code_points = np.frombuffer(decoded.encode("utf-32-le"), "<u4")
        return cls(code_points=code_points, offsets=is_first[ends])

    def to_arrow(self) -> pa.StringArray:
        """The texts as Arrow keeps them."""
        points = self.code_points
        data = points.astype("<u4").tobytes().decode("utf-32-le").encode()
        ends = self.offsets
        if len(data) != len(points):
            ends = np.append(np.int64(0), np.cumsum(utf8_lengths(points)))[ends]
        return strings(np.frombuffer(data, np.uint8), ends)


def utf8(texts: pa.StringArray) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """The bytes of n strings without NULL, one after the other, and where each begins and ends: [n + 1]."""
    _, offsets, data = texts.buffers()
    if offsets is None or not len(texts):
        return np.empty(0, np.uint8), np.zeros(len(texts) + 1, np.int64)
    ends = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1].astype(np.int64)
    content = np.empty(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)
    return content[ends[0] : ends[-1]], ends - ends[0]


def strings(data: npt.NDArray[np.uint8], ends: npt.NDArray[np.int64]) -> pa.StringArray:
    """The inverse of `utf8`."""
    buffers = [None, pa.py_buffer(ends.astype(np.int32)), pa.py_buffer(np.ascontiguousarray(data))]
    return pa.StringArray.from_buffers(len(ends) - 1, buffers[1], buffers[2])


def utf8_lengths(code_points: CodePoints) -> npt.NDArray[np.int64]:
    """How many bytes each code point takes in UTF-8."""
    lengths = np.ones(len(code_points), np.int64)
    for least in (0x80, 0x800, 0x10000):
        lengths += code_points >= least
    return lengths


def lowered(text: Text) -> Text:
    """The texts in lower case, code point by code point."""
    return Text(code_points=_lower_table()[text.code_points], offsets=text.offsets)


def only_words(text: Text) -> Text:
    """The texts with a space for each code point that stands in no word."""
    points = text.code_points
    is_word = np.zeros(len(points) + 2, dtype=bool)
    is_word[1:-1] = _is_word_table()[points]
    is_apostrophe = np.isin(points, APOSTROPHES)
    before, after = is_word[:-2].copy(), is_word[2:].copy()
    starts, ends = text.offsets[:-1], text.offsets[1:]
    full = starts < ends
    before[starts[full]] = False
    after[ends[full] - 1] = False
    kept = is_word[1:-1] | (is_apostrophe & before & after)
    return Text(code_points=np.where(kept, points, np.uint32(SPACE)), offsets=text.offsets)


def without_whitespace(text: Text) -> Text:
    """The texts without the code points that separate."""
    kept = ~_is_whitespace_table()[text.code_points]
    places = np.zeros(len(kept) + 1, np.int64)
    np.cumsum(kept, out=places[1:])
    return Text(code_points=text.code_points[kept], offsets=places[text.offsets])


@cache
def _lower_table() -> CodePoints:
    table = np.arange(_NUM_CODE_POINTS, dtype=np.uint32)
    table[list(LOWER)] = list(LOWER.values())
    return table


@cache
def _is_word_table() -> npt.NDArray[np.bool_]:
    table = np.zeros(_NUM_CODE_POINTS, dtype=bool)
    for first, last in WORD_RANGES:
        table[first : last + 1] = True
    return table


@cache
def _is_whitespace_table() -> npt.NDArray[np.bool_]:
    table = np.zeros(_NUM_CODE_POINTS, dtype=bool)
    table[list(WHITESPACE)] = True
    return table
