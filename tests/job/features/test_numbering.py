"""Numbering the words of a corpus, in memory that may be bounded."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from job.features import numbering
from job.features.numbering import Numbering, limit_for


def parts_of(words: list[str], size: int) -> list[tuple[pa.StringArray, np.ndarray, list[int]]]:
    """Dictionary, counts and codes of each `size` words."""
    found = []
    for first in range(0, len(words), size):
        encoded = pa.array(words[first : first + size], pa.string()).dictionary_encode()
        codes = encoded.indices.to_pylist()
        found.append((encoded.dictionary, np.bincount(codes, minlength=len(encoded.dictionary)), codes))
    return found


@pytest.mark.parametrize("at_once", [1, 3, 100])
@pytest.mark.parametrize("limit", [None, 100])
def test_words_are_numbered_and_counted_however_they_come(at_once: int, limit: int | None) -> None:
    """If it failed, a word would be another one in the second half of a file, or be counted wrongly."""
    words = [f"w{number}" for number in np.random.default_rng(1).integers(0, 50, 400)]
    numbers, found = Numbering(limit), []
    parts = parts_of(words, 20)
    for first in range(0, len(parts), at_once):
        some = parts[first : first + at_once]
        tables = numbers.add([part[0] for part in some], [part[1] for part in some])
        found += [table[codes] for table, (_, _, codes) in zip(tables, some, strict=True)]
    names = numbers.strings.to_pylist()
    assert [names[number] for number in np.concatenate(found)] == words
    assert names == list(dict.fromkeys(words))
    assert dict(zip(names, numbers.counts.tolist(), strict=True)) == Counter(words)
    assert numbers.places() is None
    assert not numbers.dropped


def test_beyond_the_limit_the_rarest_words_are_dropped() -> None:
    """If it failed, the words of a large corpus would not fit into memory, or frequent ones would be lost."""
    generator = np.random.default_rng(1)
    # Ten words that are frequent throughout, among very many that are not.
    words = [
        f"frequent{generator.integers(10)}" if generator.random() < 0.3 else f"rare{generator.integers(5000)}"
        for _ in range(20_000)
    ]
    numbers, found = Numbering(100), []
    for dictionary, counts, codes in parts_of(words, 50):
        (table,) = numbers.add([dictionary], [counts])
        found.append(table[codes])
        assert len(numbers.strings) <= 100
    assert numbers.dropped
    names, true = numbers.strings.to_pylist(), Counter(words)
    counted = dict(zip(names, numbers.counts.tolist(), strict=True))
    # One that comes late may have been dropped before.
    assert all(count - 5 < counted[word] for word, count in true.items() if word.startswith("frequent"))
    assert all(count <= true[word] for word, count in counted.items())
    places = numbers.places()
    assert places is not None
    seen = [names[place] if place >= 0 else None for place in places[np.concatenate(found)]]
    assert all(name in (None, word) for name, word in zip(seen, words, strict=True))
    # What is counted is what is found: a word that comes back is counted from there.
    assert Counter(name for name in seen if name) == counted


def test_of_equally_rare_words_those_that_came_first_are_kept() -> None:
    """If it failed, data whose words all occur once would have no vocabulary at all."""
    numbers = Numbering(4)
    numbers.add([pa.array(list("abcde"))], [np.array([1, 1, 2, 1, 1])])
    assert numbers.strings.to_pylist() == ["a", "c"]
    numbers.add([pa.array(list("fghi"))], [np.array([1, 3, 3, 3])])
    assert numbers.strings.to_pylist() == ["g", "h"]


def test_the_limit_follows_the_vocabulary() -> None:
    """If it failed, BOW_MAX_VOCABULARY would not bound the memory, or would cost words that it keeps."""
    assert limit_for(None) is None
    assert limit_for(1000) == numbering.MIN_LIMIT
    assert limit_for(1_000_000) == 8_000_000
