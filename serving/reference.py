"""The float64 reference: log-probabilities by plain Python and numpy, which every runtime is held against."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serving.features import tokenize

Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Reference:
    """`log softmax(Ax + b)` in float64 over the counts of `str.split()`."""

    weight: npt.NDArray[np.float32]
    """A, [K, V], as trained."""
    bias: npt.NDArray[np.float32]
    """b, [K]."""
    index: dict[str, int]
    """Each word's id."""

    @classmethod
    def of(
        cls, weight: npt.NDArray[np.float32], bias: npt.NDArray[np.float32], vocabulary: Sequence[str]
    ) -> "Reference":
        """The reference of a model with this vocabulary."""
        return cls(weight=weight, bias=bias, index={token: i for i, token in enumerate(vocabulary)})

    def counts(self, text: str) -> tuple[npt.NDArray[np.int64], Float64]:
        """The ids of the known words of a text, and how often each occurs."""
        return _counted(self.bags([text])[0])

    def bow(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """The counts as the dense input of `bow.onnx` and `forward`: [N, V]. For a few texts at a time."""
        dense = np.zeros((len(texts), self.weight.shape[1]), dtype=np.float32)
        for row, text in enumerate(texts):
            ids, counts = self.counts(text)
            dense[row, ids] = counts
        return dense

    def bags(self, texts: Sequence[str]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """The texts as the input of `score`: ids [nnz] and offsets [N + 1]."""
        bags = [[self.index[token] for token in tokenize(text) if token in self.index] for text in texts]
        ids = np.array([word for bag in bags for word in bag], dtype=np.int64)
        return ids, np.cumsum([0, *map(len, bags)], dtype=np.int64)

    def score(self, texts: Sequence[str]) -> "Scores":
        """The log-probabilities of texts, and the scale of what float32 sums of the same terms would lose."""
        return self.score_bags(*self.bags(texts))

    def score_bags(self, ids: npt.NDArray[np.int64], offsets: npt.NDArray[np.int64]) -> "Scores":
        """The same of texts as `bags` gives them."""
        logits = np.empty((len(offsets) - 1, len(self.bias)))
        rounding_scale = np.empty(len(logits))
        for row, (total, scale) in enumerate(self._sums(np.split(ids, offsets[1:-1])[: len(logits)])):
            logits[row], rounding_scale[row] = total, scale
        # Infinite weights give NaN here, which no comparison accepts.
        with np.errstate(invalid="ignore"):
            shifted = logits - logits.max(axis=1, keepdims=True, initial=-np.inf)
            log_probs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        return Scores(log_probs=log_probs, rounding_scale=rounding_scale)

    def _sums(self, bags: Sequence[npt.NDArray[np.int64]]) -> Iterator[tuple[Float64, float]]:
        bias = self.bias.astype(np.float64)
        for bag in bags:
            ids, counts = _counted(bag)
            terms = self.weight[:, ids].astype(np.float64) * counts  # [K, U]
            magnitude = np.abs(terms).sum(axis=1) + np.abs(bias)
            yield terms.sum(axis=1) + bias, float(magnitude.max()) * math.sqrt(len(ids) + 1)


def _counted(bag: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], Float64]:
    ids, counts = np.unique(bag, return_counts=True)
    return ids, counts.astype(np.float64)


@dataclass(frozen=True, kw_only=True)
class Scores:
    """What the reference says of N texts."""

    log_probs: Float64
    """[N, K]."""
    rounding_scale: Float64
    """[N]: √n · max_k (|b| + Σ |count · weight|) over the n terms of a text's sum. Each addition rounds in
    proportion to what was added up so far, up or down, so that the errors grow as a random walk does."""

    def __len__(self) -> int:
        return len(self.log_probs)

    def rows(self, rows: slice | npt.NDArray[np.int64]) -> "Scores":
        """The scores of some of the texts."""
        return Scores(log_probs=self.log_probs[rows], rounding_scale=self.rounding_scale[rows])
