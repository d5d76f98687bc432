"""Where the records of a block begin and end, found on whole blocks with numpy and Arrow."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

_LF, _CR, _QUOTE, _COMMA = b'\n\r",'

Positions = npt.NDArray[np.int64]


def split_lines(data: bytes, first_line: int) -> tuple[Any, Positions]:
    r"""Return the lines that are not empty and their numbers: BinaryArray [N] and int64 [N].

    Lines end with \n or \r\n, which are taken off; any other \r is part of the line.
    """
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n")
    lines = pc.split_pattern(pa.array([data], pa.binary()), b"\n").values
    numbers = np.arange(first_line, first_line + len(lines), dtype=np.int64)
    filled = pc.not_equal(pc.binary_length(lines), 0)
    return lines.filter(filled), numbers[filled.to_numpy(zero_copy_only=False)]


def csv_record_ends(data: bytes) -> tuple[Positions, bool]:
    r"""Return the positions after each record's end, and whether `data` ends inside a quoted field.

    `data` begins at the start of a record. A record ends at \n, \r\n or \r outside quotes, which is where
    Arrow and Python's csv module end it too. RFC 4180: a quoted field may hold line ends, and "" for a quote.
    """
    buffer = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(buffer == _LF)
    if b"\r" in data:
        returns = np.flatnonzero(buffer[:-1] == _CR)
        ends = np.union1d(ends, returns[buffer[returns + 1] != _LF])
    quotes = np.flatnonzero(buffer == _QUOTE)
    if not len(quotes):
        return ends + 1, False
    before = buffer[quotes[::2] - 1]
    # Every second quote opens a field, or is the second of a "" pair. Where one stands elsewhere (x"y), they
    # do not simply alternate, and each one must be looked at.
    alternate = (quotes[::2] == 0) | np.isin(before, (_COMMA, _LF, _CR, _QUOTE))
    if not alternate.all():
        quotes = _switching_quotes(data, quotes)
    outside = np.searchsorted(quotes, ends) % 2 == 0
    return ends[outside] + 1, len(quotes) % 2 == 1


def _switching_quotes(data: bytes, quotes: Positions) -> Positions:
    """Return the quotes that open or close a field; inside an unquoted field they are ordinary characters."""
    switching: list[int] = []
    is_quoted = False
    escaped = -1
    for position in quotes.tolist():
        if position == escaped:
            continue
        if not is_quoted:
            is_quoted = position == 0 or data[position - 1] in b",\n\r"
            if is_quoted:
                switching.append(position)
        elif data[position + 1 : position + 2] == b'"':
            escaped = position + 1
        else:
            is_quoted = False
            switching.append(position)
    return np.array(switching, np.int64)


def csv_record_lines(data: bytes, ends: Positions, first_line: int) -> Positions:
    """Return the number of the line in which each record begins, blank records left out."""
    buffer = np.frombuffer(data, np.uint8)
    starts = np.concatenate(([0], ends))
    starts = starts[starts < len(buffer)]
    starts = starts[~np.isin(buffer[starts], (_LF, _CR))]
    newlines = np.flatnonzero(buffer == _LF)
    return first_line + np.searchsorted(newlines, starts)


def first_record(data: bytes, *, quoted: bool) -> tuple[int, int]:
    """Return start and end of the first record that is not blank; equal where there is none."""
    ends = csv_record_ends(data)[0] if quoted else np.flatnonzero(np.frombuffer(data, np.uint8) == _LF) + 1
    start = 0
    for end in [*ends.tolist(), len(data)]:
        if data[start:end].strip(b"\r\n"):
            return start, end
        start = end
    return start, start
