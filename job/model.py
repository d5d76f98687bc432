"""The model of the PyTorch NLP tutorial: a bag of words through one affine map into log-probabilities."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class BowClassifier(nn.Module):
    """`log softmax(Ax + b)` over word counts x: V words, K labels.

    Plain parameters rather than an `nn.Linear`: a scripted submodule would make the TorchScript file
    change with PYTHONHASHSEED.
    """

    def __init__(self, num_labels: int, vocabulary_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_labels, vocabulary_size))  # A: [K, V]
        self.bias = nn.Parameter(torch.zeros(num_labels))  # b: [K]

    def forward(self, bow: Tensor) -> Tensor:
        """Word counts `bow` [N, V] to log-probabilities [N, K], in the dtype of the weights."""
        return F.log_softmax(F.linear(bow, self.weight, self.bias), dim=1)

    @torch.jit.export
    def score(self, ids: Tensor, offsets: Tensor, values: Tensor | None = None) -> Tensor:
        """The same from bags: log-probabilities [N, K] in float64.

        ids: int64 [nnz], ids below V; row i is `ids[offsets[i]:offsets[i + 1]]`.
        offsets: int64 [N + 1], from 0 to nnz, ascending.
        values: float64 [nnz], what each id counts; without them each counts once.

        Sums in float64, because float32 sums of a word that stands 2,000 times are thousands of
        tolerances off; only the columns of A that are named are converted, for so many labels at a time
        that they take 128 MiB at most (or what one label takes).
        """
        places = torch.arange(ids.numel(), device=ids.device)
        parts = []
        for weight in torch.split(self.weight, max(1, 16777216 // max(1, ids.numel()))):
            columns = weight.index_select(1, ids).t().double()  # [nnz, labels]
            parts.append(
                F.embedding_bag(
                    places,
                    columns,
                    offsets,
                    mode="sum",
                    per_sample_weights=values,
                    include_last_offset=True,
                )
            )
        return F.log_softmax(torch.cat(parts, dim=1) + self.bias.double(), dim=1)


@torch.no_grad()
def initialize_uniform(model: BowClassifier) -> None:
    """Draws A, then b, from U(-1/sqrt(V), 1/sqrt(V)) with torch's global generator.

    The same draws in the same order as `nn.Linear(V, K)`, and so the tutorial's initial parameters.
    """
    bound = 1 / math.sqrt(model.weight.shape[1])
    model.weight.uniform_(-bound, bound)
    model.bias.uniform_(-bound, bound)
