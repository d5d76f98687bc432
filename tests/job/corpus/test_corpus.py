from collections.abc import Iterable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from job.corpus.bags import Bags, concatenate
from job.corpus.collect import collect, tokenize_rows
from job.corpus.corpus import encode
from job.corpus.raw_corpus import RawCorpus
from job.dataset import Rows
from job.features.encoder import TokenEncoder
from job.features.ngrams import Limits, word_ngrams
from job.features.tokens import NO_TOKEN
from job.features.vocabulary import Vocabulary, select

TEXTS = ["b a  b", "", " \t", "c", "a\u00a0d b ", "Ünï a"]
LABELS = ["x", "y", "x", "z", "y", "x"]


def rows(texts: list[str], labels: list[str]) -> Rows:
    return Rows(texts=pa.array(texts, pa.string()), labels=pa.array(labels, pa.string()))


def raw_corpus(*sizes: int) -> RawCorpus:
    """The texts cut into blocks of these sizes, as reading would."""
    ends = np.cumsum([0, *sizes])
    blocks = [
        tokenize_rows(rows(TEXTS[start:end], LABELS[start:end]), sample=2) for start, end in pairwise(ends)
    ]
    return collect(blocks, sample=3)[0]


def bags_of(blocks: Iterable[Bags]) -> list[list[int]]:
    return [bags.ids[start:end].tolist() for bags in blocks for start, end in pairwise(bags.offsets.tolist())]


def labels_of(raw: RawCorpus) -> list[str]:
    return [raw.label_names[label] for label in raw.labels()]


def tokens_of(raw: RawCorpus) -> list[list[str]]:
    names = raw.tokens.to_pylist()
    return [[names[code] for code in bag if names[code] != NO_TOKEN] for bag in bags_of(raw)]


@pytest.mark.parametrize("sizes", [(6,), (1, 5), (2, 2, 2), (1, 1, 1, 1, 1, 1)])
def test_blocks_join_into_one_numbering(sizes: tuple[int, ...]) -> None:
    """If it failed, a word or a label would mean another thing in the second block of a file."""
    raw = raw_corpus(*sizes)
    assert tokens_of(raw) == [text.split() for text in TEXTS]
    assert labels_of(raw) == LABELS
    assert raw.label_names == ["x", "y", "z"]
    assert (raw.num_rows, raw.num_tokens) == (6, sum(map(len, bags_of(raw))))


def test_the_first_texts_are_kept_for_the_parity_gate() -> None:
    """If it failed, the gate would look at no text of the user's."""
    blocks = [tokenize_rows(rows(TEXTS[start : start + 2], LABELS[:2]), sample=2) for start in (0, 2)]
    assert collect(blocks[:1], sample=3)[1] == TEXTS[:2]
    assert collect(blocks, sample=3)[1] == TEXTS[:3]


def test_encoding_counts_known_words_and_drops_the_others() -> None:
    """If it failed, a word that stands twice would count once, or unknown words would count."""
    raw = raw_corpus(3, 3)
    corpus = encode(raw, TokenEncoder(raw.tokens, Vocabulary(pa.array(["d", "b", "a"]))), ["z", "x"])
    assert bags_of(corpus) == [[1, 2, 1], [], [], [], [2, 0, 1], [2]]
    whole = concatenate(list(corpus))
    assert whole.labels.tolist() == [1, -1, 1, 0, -1, 1]
    assert (whole.ids.dtype, corpus.num_rows) == (np.int32, 6)


def test_tokens_that_were_dropped_while_counting_are_unknown() -> None:
    """If it failed, they would count as the last word of the corpus."""
    raw = raw_corpus(6)
    dropped = [
        Bags(ids=np.where(block.ids == 0, -1, block.ids), offsets=block.offsets, labels=block.labels)
        for block in raw
    ]
    tokens = raw.tokens.to_pylist()
    corpus = encode(
        replace(raw, blocks=dropped), TokenEncoder(raw.tokens, Vocabulary(pa.array(tokens[::-1]))), ["x"]
    )
    expected = [[token for token in row if token != tokens[0]] for row in tokens_of(raw)]
    found = [[tokens[::-1][code] for code in bag] for bag in bags_of(corpus)]
    assert [[token for token in row if token != NO_TOKEN] for row in found] == expected
    kept = replace(raw, blocks=dropped).take(np.ones(6, bool))
    assert kept.token_counts().tolist() == [0, *raw.token_counts()[1:].tolist()]


@pytest.mark.parametrize("num_threads", [1, 2])
def test_a_corpus_that_is_drained_leaves_memory_block_by_block(num_threads: int) -> None:
    """If it failed, the data would be in memory twice while batches are made of it."""
    raw = raw_corpus(1, 1, 1, 1, 1, 1)
    corpus = encode(raw, TokenEncoder(raw.tokens, Vocabulary(pa.array(["d", "b", "a"]))), ["z", "x"])
    expected = bags_of(corpus)
    blocks = corpus.drain(num_threads=num_threads)
    found = [next(blocks)]
    assert len(list(raw.blocks)) == 5 - num_threads
    assert bags_of([*found, *blocks]) == expected
    assert list(raw.blocks) == []


def test_taking_rows_keeps_their_tokens_and_labels() -> None:
    """If it failed, the validation split would score other texts than it says."""
    raw = raw_corpus(3, 3)
    kept = np.array([True, False, False, False, True, False])
    taken = raw.take(kept)
    assert tokens_of(taken) == [["b", "a", "b"], ["a", "d", "b"]]
    assert labels_of(taken) == ["x", "y"]
    # Two parts share the blocks: draining one leaves the other as it is.
    assert bags_of(taken.drain()) == bags_of(taken)
    assert tokens_of(raw.take(~kept)) == [[], [], ["c"], ["Ünï", "a"]]


def test_token_counts_leave_out_rows_that_were_not_taken() -> None:
    """If it failed, the vocabulary would hold words of the validation rows."""
    taken = raw_corpus(2, 4).take(np.arange(6) == 3)
    counts = dict(zip(taken.tokens.to_pylist(), taken.token_counts().tolist(), strict=True))
    assert {token for token, count in counts.items() if count} == {"c"}
    assert taken.num_rows == 1


def test_the_vocabulary_goes_by_count_and_then_by_first_appearance() -> None:
    """If it failed, the ids would depend on the order in which threads finished."""
    raw = raw_corpus(2, 4)
    everything = select(raw.tokens, raw.token_counts(), min_count=1, max_size=None)
    assert everything.words == ["b", "a", "c", "d", "Ünï"]
    assert select(raw.tokens, raw.token_counts(), min_count=2, max_size=None).words == ["b", "a"]
    assert select(raw.tokens, raw.token_counts(), min_count=1, max_size=3).words == ["b", "a", "c"]
    assert select(raw.tokens, raw.token_counts(), min_count=9, max_size=None).words == []


def test_no_feature_is_longer_than_a_kibibyte() -> None:
    """If it failed, 2 MiB that somebody pasted would take 23 GB: they stand in most texts of the proof."""
    longest, pasted = "é" * 512, "é" * 512 + "x"
    block = tokenize_rows(rows([f"{longest} b {pasted} {longest} b {pasted} b"], ["x"]), sample=0)
    raw, _ = collect([block], sample=0)
    assert select(raw.tokens, raw.token_counts(), min_count=1, max_size=None).words == ["b", longest]
    assert word_ngrams(raw, 2, Limits(min_count=1, max_size=None)).to_pylist() == [f"{longest} b"]


def test_words_are_found_by_their_bytes() -> None:
    """If it failed, two spellings of é would be one word here and two in the model."""
    vocabulary = Vocabulary(pa.array(["e\u0301", "\u00e9"]))
    assert vocabulary.ids(pa.array(["\u00e9", "e\u0301", "e"])).tolist() == [1, 0, -1]
