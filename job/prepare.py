"""From what was read to what is trained on: validation split, vocabulary, and the corpora in its numbers."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from job.corpus import Corpus, encode
from job.inputs import Inputs
from job.raw_corpus import RawCorpus
from job.split import stratified_split
from job.vocabulary import Vocabulary, select
from serving.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The words, and the corpora in their numbers."""

    vocabulary: Vocabulary
    corpora: dict[str, Corpus]
    """By use: `train`, `validation`, `test`."""
    num_tokens: int
    """Known words of the training rows."""

    @property
    def token_bytes(self) -> npt.NDArray[np.int64]:
        """The UTF-8 bytes of each word, [V]."""
        lengths = pc.binary_length(self.vocabulary.tokens).to_numpy()
        return np.asarray(lengths, dtype=np.int64)


def prepare(
    inputs: Inputs,
    *,
    validation_split: float,
    seed: int,
    min_count: int,
    max_size: int | None,
) -> Prepared:
    """Holds out validation rows, and chooses the vocabulary from the training rows.

    Raises DataError where no row can be held out, or no word is left to learn from.
    """
    raw = dict(inputs.corpora)
    if validation_split > 0:
        raw["train"], raw["validation"] = _split(raw["train"], validation_split, seed=seed)
    tokens, counts = raw["train"].tokens, raw["train"].token_counts()
    vocabulary = inputs.fixed_vocabulary
    if vocabulary is None:
        vocabulary = select(tokens, counts, min_count=min_count, max_size=max_size)
    if not len(vocabulary):
        raise DataError(
            f"the training data has no word that occurs at least {min_count} times (BOW_MIN_COUNT); "
            "lower it, or name the column that holds the texts in BOW_TEXT_COLUMN"
        )
    num_tokens = int(counts[vocabulary.ids(tokens) >= 0].sum())
    if not num_tokens:
        raise DataError(
            f"none of the {len(vocabulary):,} words of BOW_VOCABULARY_FILE occurs in the training data; "
            "name the file that was made for this data, or unset it"
        )
    corpora = {use: encode(each, vocabulary, inputs.label_names) for use, each in raw.items()}
    return Prepared(vocabulary=vocabulary, corpora=corpora, num_tokens=num_tokens)


def unseen_labels(inputs: Inputs) -> dict[str, list[str]]:
    """By use, the labels that the training data lacks; uses without any are left out."""
    known = set(inputs.label_names)
    unseen = {
        use: sorted(name for name in corpus.label_names if name not in known)
        for use, corpus in inputs.corpora.items()
    }
    return {use: names for use, names in unseen.items() if names}


def _split(train: RawCorpus, share: float, *, seed: int) -> tuple[RawCorpus, RawCorpus]:
    held_out = stratified_split(train.labels(), share, seed=seed)
    if not held_out.any():
        raise DataError(
            f"BOW_VALIDATION_SPLIT={share:g} holds out no row: it goes by label, and no label has rows "
            f"enough among the {train.num_rows:,}; raise it, or name validation data in BOW_VALIDATION_DATA"
        )
    return train.take(~held_out), train.take(held_out)
