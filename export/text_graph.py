"""`model.onnx`: raw text in, log-probabilities out, in operators of stock onnxruntime builds.

The ids of the texts' features are found, their rows of A gathered and summed in float64, and the sums
normalized, in a Loop over chunks of the texts (`export.chunks`) or for a few texts at once. Tokens of
`str.split()` are found in one way, all other features in another (`export.token_graph`,
`export.ngram_graph`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from export import ngram_graph, token_graph
from export.graph import Graph, value
from export.onnx_file import OnnxFile
from export.sums import WeightTable
from serving.features.tables import Tables

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Features:
    """How texts become features that are not the tokens of `str.split()`, counted."""

    tables: Tables
    idf: Float32 | None
    """Of every feature, [V]; None where the weighting needs none."""


def build(
    weight: Float32,
    bias: Float32,
    vocabulary: Sequence[str],
    labels: Sequence[str],
    metadata: Mapping[str, str],
    features: Features | None = None,
) -> OnnxFile:
    """The text model: input `text` string [N]; outputs `log_probs` float32 [N, K] and `label` string [N].

    weight: A, [K, V]; bias: b, [K]. N may be 0. `label` is the first of the largest log-probabilities.
    features: None where they are the tokens of `str.split()`.
    """
    num_labels = len(labels)
    main = Graph()
    table = WeightTable.add(main, len(vocabulary), num_labels)
    if features is None:
        token_graph.add(main, table, vocabulary)
    else:
        ngram_graph.add(main, table, features.tables)
    main.add("Gather", "labels", main.add("ArgMax", "log_probs", axis=1, keepdims=0), output="label")
    graph = main.build(
        inputs=[value("text", TensorProto.STRING, ["N"])],
        outputs=[
            value("log_probs", TensorProto.FLOAT, ["N", num_labels]),
            value("label", TensorProto.STRING, ["N"]),
        ],
    )
    arrays: dict[str, list[npt.NDArray[Any]]] = {
        # The row after the last word's is zero: unknown words and padding add nothing.
        "weight": [weight.T, np.zeros((1, num_labels), np.float32)],
        "bias": [bias.astype(np.float64)],
    }
    if features is None:
        token_graph.fill_lookups(graph, vocabulary)
    else:
        ngram_graph.fill_lookups(graph, features.tables)
        arrays |= {name: [array] for name, array in features.tables.arrays(features.idf).items()}
    return OnnxFile(graph=graph, arrays=arrays, strings={"labels": labels}, metadata=metadata)
