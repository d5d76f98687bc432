"""The float64 reference: log-probabilities by plain Python and numpy, which every runtime is held against."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from serving.features.specification import EDGE, PLAIN, FeatureSpec, features
from serving.features.weighting import weigh

Float64 = npt.NDArray[np.float64]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Reference:
    """`log softmax(Ax + b)` in float64 over what the features of a text count, by the specification."""

    weight: npt.NDArray[np.float32]
    """A, [K, V], as trained."""
    bias: npt.NDArray[np.float32]
    """b, [K]."""
    index: dict[str, int]
    """Each feature's id, by its name."""
    spec: FeatureSpec = PLAIN
    idf: npt.NDArray[np.float32] | None = None
    """Of every feature, [V]; None where the weighting needs none."""

    @classmethod
    def of(
        cls,
        weight: npt.NDArray[np.float32],
        bias: npt.NDArray[np.float32],
        vocabulary: Sequence[str],
        spec: FeatureSpec = PLAIN,
        idf: npt.NDArray[np.float32] | None = None,
    ) -> "Reference":
        """The reference of a model with this vocabulary."""
        index = {name: i for i, name in enumerate(vocabulary)}
        return cls(weight=weight, bias=bias, index=index, spec=spec, idf=idf)

    def bow(self, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        """The texts as the dense input of `bow.onnx` and `forward`: [N, V]. For a few texts at a time."""
        return self.dense(self.bags(texts))

    def dense(self, bags: "Bags") -> npt.NDArray[np.float32]:
        """The same of texts as `bags` gives them."""
        dense = np.zeros((len(bags), self.weight.shape[1]), dtype=np.float32)
        for row in range(len(bags)):
            ids, values = _taken_together(bags.part(slice(row, row + 1)))
            dense[row, ids] = values
        return dense

    def bags(self, texts: Sequence[str]) -> "Bags":
        """The texts as the input of `score`."""
        index = self.index
        bags = [[index[name] for name in features(text, self.spec) if name in index] for text in texts]
        if not self.spec.is_weighted:
            ids = np.array([word for bag in bags for word in bag], dtype=np.int64)
            return Bags(ids=ids, offsets=np.cumsum([0, *map(len, bags)], dtype=np.int64))
        distinct = [np.unique(np.array(bag, np.int64), return_counts=True) for bag in bags]
        values = [self._weighed(ids, counts.astype(np.float64)) for ids, counts in distinct]
        return Bags(
            ids=np.concatenate([np.empty(0, np.int64), *(ids for ids, _ in distinct)]),
            offsets=np.cumsum([0, *(len(ids) for ids, _ in distinct)], dtype=np.int64),
            values=np.concatenate([np.empty(0), *values]),
        )

    def score(self, texts: Sequence[str]) -> "Scores":
        """The log-probabilities of texts, and the scale of what float32 sums of the same terms would lose."""
        return self.score_bags(self.bags(texts))

    def score_bags(self, bags: "Bags") -> "Scores":
        """The same of texts as `bags` gives them."""
        logits = np.empty((len(bags), len(self.bias)))
        rounding_scale = np.empty(len(logits))
        for row in range(len(logits)):
            logits[row], rounding_scale[row] = self._sum(bags.part(slice(row, row + 1)))
        # Infinite weights give NaN here, which no comparison accepts.
        with np.errstate(invalid="ignore"):
            shifted = logits - logits.max(axis=1, keepdims=True, initial=-np.inf)
            log_probs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        return Scores(log_probs=log_probs, rounding_scale=rounding_scale)

    def _weighed(self, ids: Int64, counts: Float64) -> Float64:
        idf = None if self.idf is None else self.idf[ids].astype(np.float64)
        return weigh(counts, ids >= self._first_char, idf, self.spec)

    @cached_property
    def _first_char(self) -> int:
        """All other features stand before those that are character n-grams."""
        return min(
            (i for name, i in self.index.items() if name.startswith(EDGE)), default=self.weight.shape[1]
        )

    def _sum(self, bag: "Bags") -> tuple[Float64, float]:
        bias = self.bias.astype(np.float64)
        ids, values = _taken_together(bag)
        terms = self.weight[:, ids].astype(np.float64) * values  # [K, U]
        magnitude = np.abs(terms).sum(axis=1) + np.abs(bias)
        return terms.sum(axis=1) + bias, float(magnitude.max()) * math.sqrt(len(ids) + 1)


@dataclass(frozen=True, kw_only=True)
class Bags:
    """N texts as features: text i has `ids[offsets[i]:offsets[i + 1]]`."""

    ids: Int64
    """[nnz]."""
    offsets: Int64
    """[N + 1], from 0 to nnz."""
    values: Float64 | None = None
    """What each of the ids counts, [nnz], none twice in a text; None where each counts once."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def part(self, rows: slice) -> "Bags":
        """Some of the texts, one or more."""
        offsets = self.offsets[rows.start : rows.stop + 1]
        own = slice(offsets[0], offsets[-1])
        values = None if self.values is None else self.values[own]
        return Bags(ids=self.ids[own], offsets=offsets - offsets[0], values=values)


def _taken_together(bag: Bags) -> tuple[Int64, Float64]:
    """The distinct ids of one text, and what each counts in all."""
    if bag.values is not None:
        return bag.ids, bag.values
    ids, counts = np.unique(bag.ids, return_counts=True)
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
