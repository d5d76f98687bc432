"""What a LabelEncoder of `model.onnx` looks up, and what that takes in memory."""

from collections.abc import Sequence
from dataclasses import dataclass

MAX_SECOND_LOOKUP = 24 << 20
"""Bytes of memory that all lookups of a second way through the graph may take."""
KEY_BYTES = 85
"""What a whole number takes in a lookup in onnxruntime."""
WORD_BYTES = 350
"""What a text takes in a lookup in onnxruntime, beside the text itself, which is held twice."""


@dataclass(frozen=True, kw_only=True)
class Lookup:
    """What is found by hashing."""

    keys: list[bytes] | list[int]
    numbers: Sequence[int]
    """That of each key."""
    default: int
    """That of all others."""
    times: int
    """How often it stands in the graph: once for each way that needs it."""
