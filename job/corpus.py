"""A data set in the numbers of the model: what is trained on, and what is scored."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from job.ahead import made_ahead
from job.bags import Bags, Ids, offsets_of
from job.raw_corpus import RawCorpus
from job.vocabulary import Vocabulary


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """N rows, block by block: ids are places in the vocabulary, without unknown words, labels the model's.

    The blocks are made from the raw corpus each time that they are gone through: that takes little time, and
    keeping them would take as much memory again.
    """

    raw: RawCorpus
    token_ids: Ids
    """The id of each of the raw corpus's tokens, -1 for an unknown one, [D + 1]; the last is of no token."""
    label_ids: npt.NDArray[np.int32]
    """The id of each of the raw corpus's labels; -1 for a label that the model does not have."""

    @property
    def num_rows(self) -> int:
        """N."""
        return self.raw.num_rows

    def __iter__(self) -> Iterator[Bags]:
        return (self._encode(block) for block in self.raw)

    def drain(self, *, num_threads: int) -> Iterator[Bags]:
        """The blocks for the last time, some made ahead: the raw ones leave memory on the way."""
        calls = (partial(self._encode, block) for block in self.raw.drain())
        return made_ahead(calls, num_threads=num_threads)

    def _encode(self, block: Bags) -> Bags:
        ids, offsets = self.token_ids[block.ids], block.offsets
        known = ids >= 0
        if not known.all():
            ids, offsets = ids[known], offsets_of(known)[offsets]
        return Bags(ids=ids, offsets=offsets, labels=self.label_ids[block.labels])


def encode(raw: RawCorpus, vocabulary: Vocabulary, label_names: Sequence[str]) -> Corpus:
    """The rows by the model's vocabulary and labels; unknown words vanish, unknown labels are -1."""
    to_label = {name: index for index, name in enumerate(label_names)}
    return Corpus(
        raw=raw,
        token_ids=np.append(vocabulary.ids(raw.tokens), np.int32(-1)),
        label_ids=np.array([to_label.get(name, -1) for name in raw.label_names], dtype=np.int32),
    )
