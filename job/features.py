"""The feature specification in Arrow: texts to tokens, with no Python loop over rows or tokens."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

NO_TOKEN = ""
"""Arrow gives this where a text is blank or begins or ends with whitespace; it is never a feature."""


@dataclass(frozen=True, kw_only=True)
class TokenBlock:
    """The tokens of n texts, dictionary-encoded: text i holds `codes[offsets[i]:offsets[i + 1]]`."""

    dictionary: pa.StringArray
    """The block's distinct tokens, [d], in order of first appearance; `NO_TOKEN` may be one of them."""
    codes: npt.NDArray[np.int32]
    """Positions in `dictionary`, [num_tokens]."""
    offsets: npt.NDArray[np.int64]
    """[n + 1], from 0 to num_tokens."""


def tokenize(texts: pa.StringArray) -> TokenBlock:
    """Splits n texts at the specification's whitespace: those of `str.split()`, in order, and `NO_TOKEN`s.

    >>> block = tokenize(pa.array(["hello hello world", ""]))
    >>> block.dictionary.to_pylist(), block.codes.tolist(), block.offsets.tolist()
    (['hello', 'world', ''], [0, 0, 1, 2], [0, 3, 4])
    """
    words = pc.utf8_split_whitespace(texts)
    encoded = words.flatten().dictionary_encode()
    offsets = words.offsets.to_numpy().astype(np.int64)
    return TokenBlock(
        dictionary=encoded.dictionary,
        codes=encoded.indices.to_numpy().astype(np.int32, copy=False),
        offsets=offsets - offsets[0],
    )
