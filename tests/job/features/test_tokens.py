"""Arrow's tokens are those of `str.split()`; tests/test_conformance.py has the model's as well."""

import numpy as np
import pyarrow as pa
import pytest

from job.features.tokens import NO_TOKEN, tokenize
from serving.features.specification import WHITESPACE

NEIGHBOURS = [point for low, high in ((0x01, 0x250), (0x1000, 0x4000)) for point in range(low, high)]
"""Every code point whose first byte is that of a separator too, and others."""


def tokens_of(texts: pa.StringArray) -> list[list[str]]:
    block = tokenize(texts)
    words = block.dictionary.to_pylist()
    bags = zip(block.offsets[:-1], block.offsets[1:], strict=True)
    return [
        [words[code] for code in block.codes[start:end] if words[code] != NO_TOKEN] for start, end in bags
    ]


def test_every_separator_is_one_in_a_block_of_its_own() -> None:
    """If it failed, one no-break space in a block would make two words one, or the other way round.

    Alone, because a block in which there is any separator but U+0020 is split in another way.
    """
    for point in NEIGHBOURS:
        text = f"a{chr(point)}b c{chr(point)}"
        assert tokens_of(pa.array([text])) == [text.split()], hex(point)
    assert set(WHITESPACE) <= set(NEIGHBOURS)


@pytest.mark.parametrize("separator", [" ", "\u2003"])
def test_a_part_of_an_array_has_its_own_tokens_alone(separator: str) -> None:
    """If it failed, a block that is cut from a larger one would hold its neighbours' words."""
    texts = ["x\ty", f"a{separator}b", "", f"  c {separator}", "d\u00a0e"]
    part = pa.array(texts).slice(1, 3)
    assert tokens_of(part) == [["a", "b"], [], ["c"]]
    assert tokenize(part).counts.sum() == len(tokenize(part).codes)
    assert tokens_of(pa.array(texts).slice(2, 0)) == []


@pytest.mark.parametrize("text", ["a ", "\U00035ff9 ", "b\u3000", "\xe9\t", "x\x1f", " "])
@pytest.mark.parametrize("empty", [0, 2])
def test_what_stands_in_memory_behind_the_last_text_decides_nothing(text: str, empty: int) -> None:
    """If it failed, the same data would give other words from time to time: Arrow 26 reads on there."""
    ends = [0, len(text.encode()), *[len(text.encode())] * empty]
    for garbage in range(0x80, 0x100):
        data = pa.py_buffer(text.encode() + bytes([garbage]) * 8)
        texts = pa.StringArray.from_buffers(len(ends) - 1, pa.py_buffer(np.array(ends, np.int32)), data)
        block = tokenize(texts)
        found = [block.dictionary[code].as_py() for code in block.codes]
        assert [token for token in found if token != NO_TOKEN] == text.split()
        assert len(block.offsets) == len(ends)
