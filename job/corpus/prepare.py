"""From what was read to what is trained on: validation split, vocabulary, and the corpora in its numbers."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from job.corpus.bags import Values
from job.corpus.corpus import Corpus, encode
from job.corpus.raw_corpus import RawCorpus
from job.corpus.split import stratified_split
from job.features.encoder import Encoder, NgramEncoder, TokenEncoder
from job.features.ngrams import Limits, char_ngrams, word_ngrams
from job.features.vocabulary import MAX_TOKEN_BYTES, Vocabulary, select
from job.features.weighting import Float32, inverse_document_frequencies
from job.inputs import Inputs
from job.training.class_weights import NONE, label_weights
from serving.errors import DataError
from serving.features.specification import FeatureSpec
from serving.features.tables import Tables


@dataclass(frozen=True, kw_only=True)
class FeatureLimits:
    """Which features of each kind stand in the vocabulary."""

    tokens: Limits
    word_ngrams: Limits
    char_ngrams: Limits


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The words, and the corpora in their numbers."""

    vocabulary: Vocabulary
    corpora: dict[str, Corpus]
    """By use: `train`, `validation`, `test`."""
    num_tokens: int
    """Tokens of the training rows that are features."""
    spec: FeatureSpec
    """How texts become features."""
    idf: Float32 | None
    """Of every feature, [V]; None where the weighting needs none."""
    table_bytes: int
    """What finds the features in `model.onnx` takes, where they are not the tokens of `str.split()`."""

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
    spec: FeatureSpec,
    limits: FeatureLimits,
    class_weights: str = NONE,
) -> Prepared:
    """Holds out validation rows, and chooses the vocabulary from the training rows.

    How much a row counts in training is its own weight times its label's, by `class_weights`. It matters
    there alone: words and documents are counted, and rows held out and scored, as if each row counted once.

    Raises DataError where no row can be held out, no word or no row with a weight is left to learn from, or
    `class_weights` lists a label that there is not.
    """
    raw = dict(inputs.corpora)
    if validation_split > 0:
        raw["train"], raw["validation"] = _split(raw["train"], validation_split, seed=seed)
    by_label = _label_weights(raw["train"], class_weights, inputs.label_names)
    vocabulary = inputs.fixed_vocabulary or choose_features(raw["train"], spec, limits)
    if not len(vocabulary):
        column = "name the column that holds the texts in BOW_TEXT_COLUMN"
        if limits.tokens.min_count == 1:
            raise DataError(
                "the training data has no word that occurs at least once and has at most "
                f"{MAX_TOKEN_BYTES:,} bytes (BOW_TOKENIZER={spec.tokenizer}); {column}, or choose another "
                "tokenizer"
            )
        raise DataError(
            f"the training data has no word that occurs at least {limits.tokens.min_count} times "
            f"(BOW_MIN_COUNT); lower it, or {column}"
        )
    tables = None if spec.is_plain else Tables.of(vocabulary.words, spec)

    def encoder(tokens: pa.StringArray) -> Encoder:
        if tables is None or not spec.has_ngrams:
            return TokenEncoder(tokens, vocabulary)
        return NgramEncoder(tokens, tables)

    corpora = {use: encode(each, encoder(each.tokens), inputs.label_names) for use, each in raw.items()}
    tokens, counts = raw["train"].tokens, raw["train"].token_counts()
    num_tokens = int(counts[vocabulary.ids(tokens) >= 0].sum())
    if inputs.fixed_vocabulary is not None and not num_tokens:
        raise DataError(
            f"none of the {len(vocabulary):,} words of BOW_VOCABULARY_FILE occurs in the training data; "
            "name the file that was made for this data, or unset it"
        )
    idf = None
    if spec.weighting == "tfidf":
        idf = inverse_document_frequencies(corpora["train"], len(vocabulary))
    first_char = len(vocabulary) if tables is None else tables.first_char
    corpora = {use: replace(each, spec=spec, first_char=first_char, idf=idf) for use, each in corpora.items()}
    corpora["train"] = replace(corpora["train"], label_weights=by_label)
    return Prepared(
        vocabulary=vocabulary,
        corpora=corpora,
        num_tokens=num_tokens,
        spec=spec,
        idf=idf,
        table_bytes=0 if tables is None else tables.num_bytes(),
    )


def choose_features(train: RawCorpus, spec: FeatureSpec, limits: FeatureLimits) -> Vocabulary:
    """The tokens and n-grams that become features: tokens first, and of each kind the most frequent."""
    vocabulary = select(
        train.tokens,
        train.token_counts(),
        min_count=limits.tokens.min_count,
        max_size=limits.tokens.max_size,
    )
    more = []
    if spec.word_ngrams > 1:
        more.append(word_ngrams(train, spec.word_ngrams, limits.word_ngrams))
    if spec.char_ngrams is not None:
        more.append(char_ngrams(train, *spec.char_ngrams, limits.char_ngrams))
    return Vocabulary(pa.concat_arrays([vocabulary.tokens, *more])) if more else vocabulary


def _label_weights(train: RawCorpus, class_weights: str, label_names: Sequence[str]) -> Values | None:
    if class_weights == NONE and not train.has_weights:
        return None  # to add up takes time
    found = train.label_sums()
    sums = np.array([found[name] for name in label_names])
    if not sums.any():
        raise DataError(
            f"each of the {train.num_rows:,} training rows has the weight 0: there is nothing to learn from; "
            "correct the column that BOW_WEIGHT_COLUMN names, or unset it"
        )
    return label_weights(class_weights, label_names, sums)


def _split(train: RawCorpus, share: float, *, seed: int) -> tuple[RawCorpus, RawCorpus]:
    held_out = stratified_split(train.labels(), share, seed=seed)
    if not held_out.any():
        can_be_split = np.bincount(train.labels()).max(initial=0) > 1
        raise DataError(
            f"BOW_VALIDATION_SPLIT={share:g} holds out no row: it goes by label, and no label has rows "
            f"enough among the {train.num_rows:,}; {'raise it, or ' if can_be_split else ''}"
            "name validation data in BOW_VALIDATION_DATA"
        )
    return train.take(~held_out), train.take(held_out)
