"""Training, the reference and `model.onnx` see the same tokens, whatever Unicode a text holds."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from export import token_graph
from export.chunks import Chunking
from job.corpus.bags import Bags
from job.corpus.collect import collect, tokenize_rows
from job.corpus.corpus import encode
from job.dataset import Rows
from job.features.encoder import TokenEncoder
from job.features.tokens import NO_TOKEN, tokenize
from job.features.vocabulary import Vocabulary
from serving.features.specification import WHITESPACE
from serving.features.specification import tokenize as reference_tokenize
from serving.parity.verify import reference_of
from serving.weights import Parameters
from tests.export.models import (
    TextSession,
    assert_close,
    counting_parameters,
    counts,
    random_parameters,
)

LARGE_BATCH = 8192
"""Texts of a batch that is cut into chunks; those that are taken at once are at most 256."""
SEED = 7
NUM_FUZZED = 100_000

Ids = npt.NDArray[np.int64]

CODE_POINTS = [point for point in range(1, 0x110000) if not 0xD800 <= point < 0xE000]
"""All that UTF-8 can carry but NUL, which is refused in data and in serving."""


def batches(texts: Sequence[str], sizes: Sequence[int]) -> Iterator[Sequence[str]]:
    """The texts in batches of the sizes, over and over."""
    start = 0
    for size in itertools.cycle(sizes):
        if start >= len(texts):
            return
        yield texts[start : start + size]
        start += size


def trained_on(texts: Sequence[str], vocabulary: Sequence[str]) -> Bags:
    """What training would learn from: the texts as ids, by the job's own functions."""
    rows = Rows(texts=pa.array(texts, pa.string()), labels=pa.array(["a"] * len(texts), pa.string()))
    raw, _ = collect([tokenize_rows(rows, sample=0)], sample=0)
    (bags,) = encode(raw, TokenEncoder(raw.tokens, Vocabulary(pa.array(vocabulary))), ["a"])
    return bags


def assert_training_agrees(texts: Sequence[str], vocabulary: Sequence[str], ids: Ids, offsets: Ids) -> None:
    corpus = trained_on(texts, vocabulary)
    np.testing.assert_array_equal(corpus.offsets, offsets)
    np.testing.assert_array_equal(corpus.ids, ids)


def assert_tokens_agree(texts: Sequence[str]) -> None:
    """Arrow's tokens, known or not, are those of the reference."""
    block = tokenize(pa.array(texts, pa.string()))
    tokens = np.array(block.dictionary.to_pylist(), dtype=object)[block.codes]
    real = tokens != NO_TOKEN
    expected = [reference_tokenize(text) for text in texts]
    assert tokens[real].tolist() == list(itertools.chain.from_iterable(expected))
    lengths = np.add.reduceat(np.append(real, False), block.offsets[:-1], dtype=np.int64)
    lengths[np.diff(block.offsets) == 0] = 0
    assert lengths.tolist() == [len(each) for each in expected]


@dataclass(frozen=True, kw_only=True)
class CodePoints:
    """A text for each code point, between `left` and `right`; the three together are a word of its own.

    The first three labels' weights are the two digits of the word's id, so that the log-probabilities tell
    exactly which word was found; the fourth label's are random.
    """

    texts: list[str]
    parameters: Parameters
    session: TextSession
    ids: Ids
    offsets: Ids
    """What the reference finds in the texts: as the input of `score`."""


@pytest.fixture(scope="module")
def every_code_point() -> CodePoints:
    texts = [f"left{chr(point)}right" for point in CODE_POINTS]
    vocabulary = ["left", "right", *(text for text in texts if len(reference_tokenize(text)) == 1)]
    numbers = np.arange(len(vocabulary)) + 1
    random = np.random.default_rng(SEED).standard_normal(len(numbers))
    digits = (np.zeros(len(numbers)), numbers % 1100 / 100, numbers // 1100 / 100)
    parameters = Parameters(
        weight=np.stack([*digits, random]).astype(np.float32),
        bias=np.array([0.25, -0.5, 0, 1], np.float32),
        vocabulary=vocabulary,
        labels=["0", "low", "high", "random"],
    )
    bags = reference_of(parameters).bags(texts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_graph, "MAX_SECOND_LOOKUP", 1 << 40)  # both ways through the graph know all words
        session = TextSession(parameters)
    return CodePoints(texts=texts, parameters=parameters, session=session, ids=bags.ids, offsets=bags.offsets)


def test_training_and_the_reference_agree_on_every_code_point(every_code_point: CodePoints) -> None:
    """If it failed, the model would be trained on other words than it is checked and served with."""
    case = every_code_point
    assert_tokens_agree(case.texts)
    assert_training_agrees(case.texts, case.parameters.vocabulary, case.ids, case.offsets)


@pytest.mark.parametrize(("batch_size", "fast"), [(LARGE_BATCH, False), (256, True)])
def test_the_text_model_and_the_reference_agree_on_every_code_point(
    every_code_point: CodePoints, batch_size: int, fast: bool
) -> None:
    """If it failed, some language's texts would be classified by other words than the model learned."""
    case, parameters = every_code_point, every_code_point.parameters
    others = {f"left{chr(point)}right" for point in WHITESPACE if point != 0x20}
    # Any separator but U+0020 would send its batch along the general path.
    rows = [row for row, text in enumerate(case.texts) if not (fast and text in others)]
    runs = [case.session.run(batch) for batch in batches([case.texts[row] for row in rows], [batch_size])]
    assert {ways.is_one_chunk for _, _, ways in runs} == {fast}
    assert {split for _, _, ways in runs for split in ways.split} == ({True} if fast else {True, False})
    log_probs = np.concatenate([found for found, _, _ in runs])

    sums = np.add.reduceat(parameters.weight.T[case.ids].astype(np.float64), case.offsets[:-1])[rows]
    logits = sums + parameters.bias
    assert_close(log_probs, logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))

    logits = log_probs.astype(np.float64) - parameters.bias
    digits = np.rint((logits[:, 1:3] - logits[:, :1]) * 100).astype(np.int64)
    numbers = np.add.reduceat(case.ids + 1, case.offsets[:-1])[rows]
    np.testing.assert_array_equal(digits[:, 0] + 1100 * digits[:, 1], numbers)


def test_the_specification_separates_where_python_does() -> None:
    """If it failed, the list of whitespace that `model.onnx` is built from would not be `str.split`'s."""
    assert tuple(point for point in CODE_POINTS if chr(point).isspace()) == WHITESPACE
    assert len(WHITESPACE) == 29


def test_each_separator_takes_the_path_that_knows_it() -> None:
    """If it failed, a text with a tab would be split at spaces alone, or a text without one be slow."""
    parameters = counting_parameters(["left", "right"])
    session, reference = TextSession(parameters), reference_of(parameters)
    for separator in map(chr, (*WHITESPACE, 0x200B, 0xFEFF, 0xE9)):
        texts = ["left right", f"left{separator}right", "leftéright", f"{separator}right{separator}", ""]
        log_probs, _, ways = session.run(texts)
        assert ways.split == [separator == " " or not separator.isspace()], repr(separator)
        assert_close(log_probs, reference.score(texts).log_probs)
        np.testing.assert_array_equal(counts(log_probs), reference.bow(texts))


PARTS = [
    *(
        "me",
        "gusta",
        "Comer",
        "é",
        "e\u0301",
        "naïve",
        "日本語",
        "שלום",
        "İ",
        "ß",
        "ﬁ",
        "a\u200bb",
        "\ufeffa",
    ),
    *("👩\u200d👩\u200d👧", "👍🏽", "🇪🇸", "\U0010fffd", "x" * 40, "\\C*", "[\\t]", '"a"', "a.b", "(?i)"),
]
"""Words of the vocabulary."""
GLUE = [
    *("\u200b", "\ufeff", "\u200c", "\u2060", "\u180e", "\u0301", "\u0323", "\ufe0f", "\u034f", "\u00ad"),
    *("😀", "👍", "🏽", "\u200d", "\u061c", "\u202b", "\x1b", "\x7f", "\x01", "\ud7ff", "\ue000", "A", "?"),
]
"""What separates nothing, and makes another word of the one beside it."""


@pytest.fixture(scope="module")
def fuzzed() -> list[str]:
    """Texts of up to 16 parts: words, what sticks to them, and every separator."""
    generator = np.random.default_rng(SEED)
    separators = [chr(point) for point in WHITESPACE]
    alphabet = np.array([*PARTS, *GLUE, *separators], dtype=object)
    shares = np.repeat(
        [0.4 / len(PARTS), 0.1 / len(GLUE), 0.5 / len(separators)],
        [len(PARTS), len(GLUE), len(separators)],
    )
    lengths = generator.integers(0, 17, NUM_FUZZED)
    parts = generator.choice(alphabet, lengths.sum(), p=shares).tolist()
    ends = np.cumsum(lengths).tolist()
    return ["".join(parts[start:end]) for start, end in itertools.pairwise([0, *ends])]


def test_training_and_the_reference_agree_on_fuzzed_texts(fuzzed: list[str]) -> None:
    """If it failed, texts that mix scripts and odd whitespace would be learned by other words than served."""
    assert_tokens_agree(fuzzed)
    bags = reference_of(counting_parameters(PARTS)).bags(fuzzed)
    assert_training_agrees(fuzzed, PARTS, bags.ids, bags.offsets)


@pytest.mark.parametrize("only_spaces", [False, True])
def test_the_text_model_counts_the_words_of_fuzzed_texts(fuzzed: list[str], only_spaces: bool) -> None:
    """If it failed, a word would be lost, found twice, or found within another, on one of the paths."""
    texts = [text.translate(dict.fromkeys(WHITESPACE, " ")) for text in fuzzed] if only_spaces else fuzzed
    parameters = counting_parameters(PARTS)
    session, bags = TextSession(parameters), reference_of(parameters).bags(texts)
    expected = np.zeros((len(texts), len(PARTS)), np.int64)
    np.add.at(expected, (np.repeat(np.arange(len(texts)), np.diff(bags.offsets)), bags.ids), 1)
    found: list[npt.NDArray[np.int64]] = []
    splits: set[bool] = set()
    size = Chunking.of_tokens(len(parameters.labels)).whole_size
    for batch in batches(texts, [LARGE_BATCH, 1, 7, 256, 300]):
        log_probs, _, ways = session.run(batch)
        found.append(counts(log_probs))
        assert ways.is_one_chunk == (len(batch) <= size)
        splits |= set(ways.split)
    np.testing.assert_array_equal(np.concatenate(found), expected)
    assert splits == {True, only_spaces}


@pytest.mark.parametrize("num_labels", [2, 150])
def test_the_text_model_gives_the_references_log_probs_of_fuzzed_texts(
    fuzzed: list[str], num_labels: int
) -> None:
    """If it failed, some mixture of texts in a batch would get other log-probabilities than each alone."""
    parameters = random_parameters(num_labels, PARTS, seed=SEED)
    session, reference = TextSession(parameters), reference_of(parameters)
    texts = fuzzed[: NUM_FUZZED // num_labels * 2]
    # One text in a thousand is long: its whole batch is cut into other chunks.
    texts = [" ".join(texts[row : row + 400]) if row % 1000 == 0 else text for row, text in enumerate(texts)]
    for batch in batches(texts, [LARGE_BATCH, 1, 7, 100, 256, 300]):
        log_probs, labels, _ = session.run(batch)
        assert_close(log_probs, reference.score(batch).log_probs)
        assert labels == [parameters.labels[best] for best in log_probs.argmax(axis=1)]
