"""The vocabulary: which tokens are features, and in which order."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from job.features.tokens import NO_TOKEN

MAX_TOKEN_BYTES = 1024
"""Of a token in UTF-8 that becomes a feature. What is longer is data that somebody pasted, which no other
text has, and stands in every file of a bundle and in hundreds of the texts that prove it."""


def can_be_feature(tokens: pa.StringArray) -> npt.NDArray[np.bool_]:
    """Whether each is a token, and not too long for a feature: [n]."""
    lengths = np.asarray(pc.binary_length(tokens).to_numpy(zero_copy_only=False))
    return (lengths > len(NO_TOKEN)) & (lengths <= MAX_TOKEN_BYTES)


@dataclass(frozen=True, kw_only=True)
class Source:
    """The tokens that a vocabulary was selected from, whose ids need not be looked up again."""

    tokens: pa.StringArray
    """[D]."""
    ids: npt.NDArray[np.int32]
    """[D]; -1 for those that were not selected."""


@dataclass(frozen=True)
class Vocabulary:
    """V distinct tokens; a token's id is its place."""

    tokens: pa.StringArray
    source: "Source | None" = None
    """What `select` chose them from."""

    def __len__(self) -> int:
        return len(self.tokens)

    @cached_property
    def words(self) -> list[str]:
        """The tokens as Python strings, in the order of their ids."""
        words: list[str] = self.tokens.to_pylist()
        return words

    def ids(self, tokens: pa.StringArray) -> npt.NDArray[np.int32]:
        """The id of each token, [n] int32; -1 where the vocabulary lacks it."""
        if self.source is not None and tokens is self.source.tokens:
            return self.source.ids
        found = pc.index_in(tokens, value_set=self.tokens)
        return np.asarray(found.fill_null(-1).to_numpy(zero_copy_only=False), dtype=np.int32)


def select(
    tokens: pa.StringArray,
    counts: npt.NDArray[np.int64],
    *,
    min_count: int,
    max_size: int | None,
) -> Vocabulary:
    """The tokens seen at least `min_count` times, the most frequent first, at most `max_size` of them.

    Those of more than `MAX_TOKEN_BYTES` are left out. Equal counts keep the order of `tokens`, which is that
    of their first appearance.

    >>> select(pa.array(["b", "rare", "a"]), np.array([2, 1, 2]), min_count=2, max_size=None).words
    ['b', 'a']
    """
    kept = np.flatnonzero((counts >= max(min_count, 1)) & can_be_feature(tokens))
    places = kept[np.argsort(-counts[kept], kind="stable")][:max_size]
    ids = np.full(len(tokens), -1, dtype=np.int32)
    ids[places] = np.arange(len(places), dtype=np.int32)
    return Vocabulary(tokens.take(pa.array(places)), Source(tokens=tokens, ids=ids))
