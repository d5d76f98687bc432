"""The specification's tokens in Arrow and numpy: no Python loop goes over rows or tokens."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from job.features.code_points import Text, lowered, only_words, without_whitespace
from serving.features.specification import PLAIN, WHITESPACE, FeatureSpec

NO_TOKEN = ""
"""Arrow gives this where two separators meet or a text ends in one; it is never a feature."""

_LONGER = [chr(point).encode() for point in WHITESPACE if point > 0x7F]
"""The separators beyond ASCII, of two and three bytes."""
_LEADS = sorted({separator[0] for separator in _LONGER})
_TWO_BYTES = [int.from_bytes(separator) for separator in _LONGER if len(separator) == 2]
_THREE_BYTES = [int.from_bytes(separator) for separator in _LONGER if len(separator) == 3]


@dataclass(frozen=True, kw_only=True)
class TokenBlock:
    """The tokens of n texts, dictionary-encoded: text i holds `codes[offsets[i]:offsets[i + 1]]`."""

    dictionary: pa.StringArray
    """The block's distinct tokens, [d], in order of first appearance; `NO_TOKEN` may be one of them."""
    counts: npt.NDArray[np.int64]
    """How often each of them occurs, [d]."""
    codes: npt.NDArray[np.int32]
    """Positions in `dictionary`, [num_tokens]."""
    offsets: npt.NDArray[np.int32]
    """[n + 1], from 0 to num_tokens."""


def tokenize(texts: pa.StringArray, spec: FeatureSpec = PLAIN) -> TokenBlock:
    """Splits n texts into the specification's tokens, in order, and `NO_TOKEN`s.

    >>> block = tokenize(pa.array(["hello hello world", ""]))
    >>> block.dictionary.to_pylist(), block.codes.tolist(), block.offsets.tolist()
    (['hello', 'world', ''], [0, 0, 1, 2], [0, 3, 4])
    """
    if spec.tokenizer == "characters":
        return _characters(texts, lowercase=spec.lowercase)
    if spec.tokenizer == "words" or spec.lowercase:
        text = Text.of(texts)
        if spec.lowercase:
            text = lowered(text)
        texts = (only_words(text) if spec.tokenizer == "words" else text).to_arrow()
    # At one pattern Arrow splits twice as fast as at all whitespace.
    words = pc.split_pattern(texts, " ") if _only_spaces(texts) else _split_at_whitespace(texts)
    encoded = words.flatten().dictionary_encode()
    codes = encoded.indices.to_numpy().astype(np.int32, copy=False)
    offsets = words.offsets.to_numpy()
    return TokenBlock(
        dictionary=encoded.dictionary,
        counts=np.bincount(codes, minlength=len(encoded.dictionary)),
        codes=codes,
        offsets=offsets - offsets[0],
    )


def _split_at_whitespace(texts: pa.StringArray) -> pa.ListArray:
    # Arrow 26 reads on behind whitespace that ends a text, and takes it for none where no UTF-8 follows:
    # so behind the last text, where anything may stand.
    return pc.utf8_split_whitespace(pa.concat_arrays([texts, pa.array(["end"])]))[:-1]


def _characters(texts: pa.StringArray, *, lowercase: bool) -> TokenBlock:
    text = without_whitespace(Text.of(texts))
    if lowercase:
        text = lowered(text)
    encoded = pa.array(text.code_points).dictionary_encode()
    distinct = encoded.dictionary.to_numpy()
    codes = encoded.indices.to_numpy().astype(np.int32, copy=False)
    return TokenBlock(
        dictionary=Text(code_points=distinct, offsets=np.arange(len(distinct) + 1)).to_arrow(),
        counts=np.bincount(codes, minlength=len(distinct)),
        codes=codes,
        offsets=text.offsets.astype(np.int32),
    )


def _only_spaces(texts: pa.StringArray) -> bool:
    """Whether the texts surely hold no separator but U+0020; to find out takes a part of what that saves."""
    buffer = texts.buffers()[2]
    if buffer is None or not len(texts):
        return True
    ends = np.frombuffer(texts.buffers()[1], np.int32)[texts.offset :]
    data = np.frombuffer(buffer, np.uint8)[ends[0] : ends[len(texts)]]
    if (data < ord(" ")).any():  # control characters, all the other separators of ASCII among them
        return False
    is_lead = data == _LEADS[0]
    for lead in _LEADS[1:]:
        is_lead |= data == lead
    places = np.flatnonzero(is_lead)
    first, second, third = (
        data[np.minimum(places + step, len(data) - 1)].astype(np.int32) for step in range(3)
    )
    two, three = first << 8 | second, first << 16 | second << 8 | third
    return not (np.isin(two, _TWO_BYTES) | np.isin(three, _THREE_BYTES)).any()
