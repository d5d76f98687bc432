"""How much a row counts: from what a file has in that column to a number."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

# Bytes, of which \s is ASCII's whitespace. Python and Arrow read some more, 1_000 and infinity among them.
_NUMBER = r"^\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*$"
_BLANK = r"^\s*$"


def to_numbers(values: Any) -> Any:
    """Return a FloatArray [N]: null where there is nothing or whitespace, NaN where there is no number.

    Args:
        values: DoubleArray or BinaryArray [N]. What does not fit float32 becomes infinite.

    >>> to_numbers(pa.array([b"2.5", b" ", b"much", b"1e999"], pa.binary())).to_pylist()
    [2.5, None, nan, inf]
    """
    if pa.types.is_binary(values.type):
        is_number = pc.match_substring_regex(values, _NUMBER)
        if not pc.all(is_number, min_count=0).as_py():
            is_blank = pc.match_substring_regex(values, _BLANK)
            values = pc.if_else(is_number, values, pa.scalar(b"nan"))
            values = pc.if_else(is_blank, pa.scalar(None, pa.binary()), values)
        # Through float64, which is also what a column of numbers holds, so that both round alike.
        values = pc.utf8_trim_whitespace(values.view(pa.string())).cast(pa.float64())
    return values.cast(pa.float32(), safe=False)


def is_no_weight(numbers: Any) -> Any:
    """Return a BooleanArray [N]: which numbers, none of them null, are below 0 or not finite."""
    return pc.invert(pc.and_(pc.is_finite(numbers), pc.greater_equal(numbers, 0.0)))
