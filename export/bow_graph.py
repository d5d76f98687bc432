"""`bow.onnx`: the tutorial's interface, dense word counts in, log-probabilities out."""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from export.graph import Graph, value
from export.onnx_file import OnnxFile


def build(
    weight: npt.NDArray[np.float32], bias: npt.NDArray[np.float32], metadata: Mapping[str, str]
) -> OnnxFile:
    """The model over counts: input `bow` float32 [N, V]; output `log_probs` float32 [N, K]. N may be 0.

    weight: A, [K, V]; bias: b, [K].
    """
    num_labels, vocabulary_size = weight.shape
    main = Graph()
    logits = main.add("Gemm", "bow", "weight", "bias", transB=1)
    main.add("LogSoftmax", logits, axis=1, output="log_probs")
    graph = main.build(
        inputs=[value("bow", TensorProto.FLOAT, ["N", vocabulary_size])],
        outputs=[value("log_probs", TensorProto.FLOAT, ["N", num_labels])],
    )
    return OnnxFile(graph=graph, arrays={"weight": [weight], "bias": [bias]}, strings={}, metadata=metadata)
