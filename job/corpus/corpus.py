"""A data set in the numbers of the model: what is trained on, and what is scored."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from job.corpus.ahead import made_ahead
from job.corpus.bags import Bags
from job.corpus.raw_corpus import RawCorpus
from job.features.encoder import Encoder
from job.features.weighting import Float32, weighted
from serving.features.specification import PLAIN, FeatureSpec


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """N rows, block by block: ids are places in the vocabulary, without unknown features, labels the model's.

    The blocks are made from the raw corpus each time that they are gone through: that takes little time, and
    keeping them would take as much memory again.
    """

    raw: RawCorpus
    encoder: Encoder
    label_ids: npt.NDArray[np.int32]
    """The id of each of the raw corpus's labels; -1 for a label that the model does not have."""
    spec: FeatureSpec = PLAIN
    first_char: int = 0
    """The first id of a character n-gram; of no matter where nothing is normalized."""
    idf: Float32 | None = None
    """Of every feature, [V]; None where none is needed."""
    label_weights: Float32 | None = None
    """How much the rows of each label of the model count in training, [K]; None where each counts once."""

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
        ids, offsets = self.encoder(block)
        labels, weights = self.label_ids[block.labels], block.weights
        if self.label_weights is not None:
            of_label = self.label_weights[labels]
            weights = of_label if weights is None else weights * of_label
        bags = Bags(ids=ids, offsets=offsets, labels=labels, weights=weights)
        if not self.spec.is_weighted:
            return bags
        return weighted(bags, self.spec, first_char=self.first_char, idf=self.idf)


def encode(raw: RawCorpus, encoder: Encoder, label_names: Sequence[str]) -> Corpus:
    """The rows by the model's features and labels; unknown features vanish, unknown labels are -1."""
    to_label = {name: index for index, name in enumerate(label_names)}
    label_ids = np.array([to_label.get(name, -1) for name in raw.label_names], dtype=np.int32)
    return Corpus(raw=raw, encoder=encoder, label_ids=label_ids)
