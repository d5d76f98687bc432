"""Makes labelled texts from real word frequencies, as many as wanted: `python -m benchmarks.corpus`.

Every label is a mixture of languages of its own, and a share of every text's words comes from all of them
alike. The words and how often they occur are those of PyPI's wordfreq; nothing is downloaded.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

LANGUAGES = (
    *("bg", "bn", "ca", "cs", "da", "de", "el", "en", "es", "fa", "fi", "fr", "hu", "id", "it", "lt", "lv"),
    *("mk", "nb", "nl", "pl", "pt", "ro", "ru", "sk", "sl", "sv", "tr", "uk", "vi"),
)
MEAN_TOKENS = 9
"""Of a text; the lengths are geometric, so most are shorter."""
BLOCK_TOKENS = 1 << 21
CLARITY = 0.65
"""What makes the best of the contenders score between 0.85 and 0.95 at 2 labels."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What to draw."""

    num_labels: int
    clarity: float
    """The share of a text's words that come from its label's own mixture; lower is harder."""
    seed: int


def write_tsv(path: Path, recipe: Recipe, num_tokens: int, *, part: int) -> None:
    """Writes texts of about `num_tokens` tokens; `part` tells training data from test data."""
    drawer = _Drawer(recipe)
    with path.open("wb") as file:
        file.write(b"label\ttext\n")
        for lines in drawer.blocks(num_tokens, part=part):
            file.write(lines)


class _Drawer:
    def __init__(self, recipe: Recipe) -> None:
        import wordfreq

        self._recipe = recipe
        words, log_shares = [], []
        for language in LANGUAGES:
            frequencies = wordfreq.get_frequency_dict(language, wordlist="small")
            kept = {word: share for word, share in frequencies.items() if word.split() == [word]}
            words.append(list(kept))
            shares = np.fromiter(kept.values(), np.float64)
            log_shares.append(shares / shares.sum())
        self._words = pa.array([word for some in words for word in some])
        self._first = np.cumsum([0, *map(len, words)])
        self._cumulative = [np.cumsum(shares) for shares in log_shares]
        generator = np.random.default_rng([recipe.seed, 0])
        self._mixtures = generator.dirichlet(np.full(len(LANGUAGES), 0.3), size=recipe.num_labels)

    def blocks(self, num_tokens: int, *, part: int) -> Iterator[bytes]:
        for block, first in enumerate(range(0, num_tokens, BLOCK_TOKENS)):
            generator = np.random.default_rng([self._recipe.seed, 1 + part, block])
            yield self._block(generator, min(BLOCK_TOKENS, num_tokens - first))

    def _block(self, generator: np.random.Generator, num_tokens: int) -> bytes:
        lengths = generator.geometric(1 / MEAN_TOKENS, size=max(1, num_tokens // MEAN_TOKENS))
        labels = generator.integers(0, self._recipe.num_labels, len(lengths))
        label_of_token = np.repeat(labels, lengths)
        words = self._draw(generator, label_of_token)
        texts = pa.ListArray.from_arrays(
            pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32()), self._words.take(pa.array(words))
        )
        names = pa.array([f"label{label}" for label in range(self._recipe.num_labels)])
        lines = pc.binary_join_element_wise(names.take(pa.array(labels)), pc.binary_join(texts, " "), "\t")
        whole = pc.binary_join(pa.ListArray.from_arrays(pa.array([0, len(lines)], pa.int32()), lines), "\n")
        return bytes(whole[0].as_buffer()) + b"\n"

    def _draw(self, generator: np.random.Generator, labels: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        number = len(labels)
        language = np.empty(number, np.int64)
        shared = generator.random(number) >= self._recipe.clarity
        language[shared] = generator.integers(0, len(LANGUAGES), int(shared.sum()))
        cumulative = np.cumsum(self._mixtures, axis=1)
        own = np.flatnonzero(~shared)
        draws = generator.random(len(own))
        for label in range(self._recipe.num_labels):
            chosen = labels[own] == label
            places = np.searchsorted(cumulative[label], draws[chosen])
            language[own[chosen]] = np.minimum(places, len(LANGUAGES) - 1)
        words = np.empty(number, np.int64)
        draws = generator.random(number)
        for place, distribution in enumerate(self._cumulative):
            here = language == place
            found = np.searchsorted(distribution, draws[here])
            words[here] = self._first[place] + np.minimum(found, len(distribution) - 1)
        return words


def generate(
    folder: Path, *, num_tokens: int, num_labels: int, clarity: float = CLARITY, seed: int = 1
) -> None:
    """Writes `train.tsv` and a tenth as much of `test.tsv`, of a million tokens at most."""
    recipe = Recipe(num_labels=num_labels, clarity=clarity, seed=seed)
    folder.mkdir(parents=True, exist_ok=True)
    write_tsv(folder / "train.tsv", recipe, num_tokens, part=0)
    write_tsv(folder / "test.tsv", recipe, max(10_000, min(num_tokens // 10, 1_000_000)), part=1)


def main() -> None:
    """Writes `train.tsv` and `test.tsv` into a folder."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.corpus", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokens", type=int, default=5_000_000)
    parser.add_argument("--labels", type=int, default=2)
    parser.add_argument("--clarity", type=float, default=CLARITY)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    generate(
        arguments.folder,
        num_tokens=arguments.tokens,
        num_labels=arguments.labels,
        clarity=arguments.clarity,
        seed=arguments.seed,
    )


if __name__ == "__main__":
    main()
