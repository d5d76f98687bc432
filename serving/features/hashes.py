"""Tokens of several code points as one whole number each: what `model.onnx` finds them by."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from serving.features.levels import Int64

BOUNDARY = 1
"""The code of what separates tokens and stands around texts."""
SEEDS = 8
"""Tried one after the other until no two tokens of a vocabulary have one hash: the first one does, mostly."""


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """The tokens that features are made of, numbered from 1; `NO_NUMBER` is none of them.

    A boundary ends each, so that no other begins with it; it is no part of the hash.
    """

    hashes: Int64
    """[T]: the sum of code times factor over the places of a token, modulo 2^64."""
    factors: Int64
    """[L + 1]: one for each place of the longest token, and 0 for all places after it; the first is odd."""
    starts: Int64
    """[T + 1]: where the codes of each token start; that of `NO_NUMBER` is 0."""
    codes: Int64
    """Of all tokens, one after the other, and L + 1 zeros: so there is one L places after any start."""

    @classmethod
    def of(cls, codes: Sequence[Sequence[int]]) -> "Tokens":
        """Those that have these codes: [T]."""
        ended = [[*each, BOUNDARY] for each in codes]
        lengths = np.array([len(each) for each in ended], np.int64)
        starts = np.cumsum(lengths) - lengths
        flat = np.array([code for each in ended for code in each], np.int64)
        places = np.arange(len(flat)) - np.repeat(starts, lengths)
        hashed = np.where(flat == BOUNDARY, 0, flat)
        longest = int(lengths.max(initial=2)) - 1
        for seed in range(SEEDS):
            generator = np.random.Generator(np.random.PCG64(seed))
            factors = np.append(generator.integers(-(2**63), 2**63, longest, np.int64), 0)
            factors[0] |= 1
            hashes = (
                np.add.reduceat(hashed * factors[places], starts) if len(codes) else np.empty(0, np.int64)
            )
            if len(np.unique(hashes)) == len(hashes):
                return cls(
                    hashes=hashes,
                    factors=factors,
                    starts=np.append(np.int64(0), starts),
                    codes=np.append(flat, np.zeros(longest + 1, np.int64)),
                )
        raise AssertionError("no seed keeps the tokens apart")
