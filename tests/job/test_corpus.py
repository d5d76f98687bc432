import errno
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from job import corpus as corpus_module
from job.corpus import RawCorpus, encode, join, tokenize_rows
from job.dataset import Rows
from job.features import NO_TOKEN
from job.vocabulary import Vocabulary, select
from serving.errors import PlatformError

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
    return join(blocks, sample=3)


def tokens_of(raw: RawCorpus) -> list[list[str]]:
    names = raw.tokens.to_pylist()
    split = [
        [names[code] for code in codes[start:end]]
        for codes, offsets in raw.chunks()
        for start, end in pairwise(offsets)
    ]
    return [[token for token in row if token != NO_TOKEN] for row in split]


@pytest.mark.parametrize("sizes", [(6,), (1, 5), (2, 2, 2), (1, 1, 1, 1, 1, 1)])
def test_blocks_join_into_one_numbering(sizes: tuple[int, ...]) -> None:
    """If it failed, a word or a label would mean another thing in the second block of a file."""
    raw = raw_corpus(*sizes)
    assert tokens_of(raw) == [text.split() for text in TEXTS]
    assert [raw.label_names[label] for label in raw.labels] == LABELS
    assert raw.label_names == ["x", "y", "z"]
    assert raw.num_rows == 6


def test_the_first_texts_are_kept_for_the_parity_gate() -> None:
    """If it failed, the gate would look at no text of the user's."""
    assert raw_corpus(6).sample == TEXTS[:2]
    assert raw_corpus(2, 4).sample == TEXTS[:3]


def test_encoding_counts_known_words_and_drops_the_others() -> None:
    """If it failed, a word that stands twice would count once, or unknown words would count."""
    corpus = encode(raw_corpus(3, 3), Vocabulary(pa.array(["d", "b", "a"])), ["z", "x"])
    bags = [corpus.ids[start:end].tolist() for start, end in pairwise(corpus.offsets)]
    assert bags == [[1, 2, 1], [], [], [], [2, 0, 1], [2]]
    assert corpus.labels.tolist() == [1, -1, 1, 0, -1, 1]
    assert (corpus.ids.dtype, corpus.num_rows) == (np.int32, 6)


@pytest.mark.parametrize("chunk_rows", [1, 2, 5, 6])
@pytest.mark.parametrize("rows", [[0, 1, 2, 3, 4, 5], [4, 0, 5], [1]])
def test_encoding_some_rows_at_a_time_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: list[int], chunk_rows: int
) -> None:
    """If it failed, a corpus that does not fit into memory would be another one."""
    vocabulary = Vocabulary(pa.array(["d", "b", "a"]))
    raw = raw_corpus(3, 3).take(np.array(rows)).take(np.arange(len(rows)))
    whole = encode(raw, vocabulary, ["z", "x"])
    counts = raw.token_counts()
    monkeypatch.setattr(corpus_module, "CHUNK_ROWS", chunk_rows)
    cut = encode(raw, vocabulary, ["z", "x"], scratch=tmp_path)
    for name in ("ids", "offsets", "labels"):
        np.testing.assert_array_equal(getattr(cut, name), getattr(whole, name), strict=True)
    assert [cut.ids[start:end].tolist() for start, end in pairwise(cut.offsets)] == [
        [{"d": 0, "b": 1, "a": 2}[token] for token in TEXTS[row].split() if token in "dba"] for row in rows
    ]
    np.testing.assert_array_equal(raw.token_counts(), counts)
    assert list(tmp_path.iterdir()) == []


def test_ids_that_the_disk_has_no_room_for_are_an_error_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it failed, the process would be killed by a signal in the middle of encoding."""

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(PlatformError, match=r"BOW_CACHE_DIR=.*No space left on device.*free some space"):
        encode(raw_corpus(6), Vocabulary(pa.array(["a"])), ["x"], scratch=tmp_path)


def test_taking_rows_keeps_their_tokens_and_labels() -> None:
    """If it failed, the validation split would score other texts than it says."""
    taken = raw_corpus(3, 3).take(np.array([4, 0]))
    assert tokens_of(taken) == [["a", "d", "b"], ["b", "a", "b"]]
    assert [taken.label_names[label] for label in taken.labels] == ["y", "x"]


def test_token_counts_leave_out_rows_that_were_not_taken() -> None:
    """If it failed, the vocabulary would hold words of the validation rows."""
    taken = raw_corpus(6).take(np.array([3]))
    counts = dict(zip(taken.tokens.to_pylist(), taken.token_counts().tolist(), strict=True))
    assert {token for token, count in counts.items() if count} == {"c"}


def test_the_vocabulary_goes_by_count_and_then_by_code_point() -> None:
    """If it failed, the ids would depend on the order in which threads finished."""
    raw = raw_corpus(2, 4)
    everything = select(raw.tokens, raw.token_counts(), min_count=1, max_size=None)
    assert everything.words == ["a", "b", "c", "d", "Ünï"]
    assert select(raw.tokens, raw.token_counts(), min_count=2, max_size=None).words == ["a", "b"]
    assert select(raw.tokens, raw.token_counts(), min_count=1, max_size=3).words == ["a", "b", "c"]
    assert select(raw.tokens, raw.token_counts(), min_count=9, max_size=None).words == []


def test_words_are_found_by_their_bytes() -> None:
    """If it failed, two spellings of é would be one word here and two in the model."""
    vocabulary = Vocabulary(pa.array(["e\u0301", "\u00e9"]))
    assert vocabulary.ids(pa.array(["\u00e9", "e\u0301", "e"])).tolist() == [1, 0, -1]
