"""Models to export: random weights over words that are easy to count, and sessions of their text models."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import ModelProto, TensorProto

from export import text_graph
from export.graph import value
from export.onnx_file import OnnxFile
from serving.session import session_options
from serving.weights import Parameters


def words(number: int) -> list[str]:
    return [f"w{place}" for place in range(number)]


def random_parameters(num_labels: int, vocabulary: Sequence[str], *, seed: int = 0) -> Parameters:
    generator = np.random.default_rng(seed)
    return Parameters(
        weight=generator.standard_normal((num_labels, len(vocabulary))).astype(np.float32),
        bias=generator.standard_normal(num_labels).astype(np.float32),
        vocabulary=list(vocabulary),
        labels=[f"label {place}" for place in range(num_labels)],
    )


def counting_parameters(vocabulary: Sequence[str]) -> Parameters:
    """A model whose log-probabilities tell how often each word occurs: see `counts`."""
    num_words = len(vocabulary)
    return Parameters(
        weight=np.eye(num_words + 1, num_words, k=-1, dtype=np.float32),
        bias=np.zeros(num_words + 1, np.float32),
        vocabulary=list(vocabulary),
        labels=["none", *words(num_words)],
    )


def counts(log_probs: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """The counts [N, V] that a model with `counting_parameters` was given."""
    logits = log_probs[:, 1:].astype(np.float64) - log_probs[:, :1]
    rounded = np.rint(logits)
    assert np.abs(logits - rounded).max(initial=0) < 0.01
    return rounded.astype(np.int64)


def text_file(parameters: Parameters, metadata: Mapping[str, str] | None = None) -> OnnxFile:
    features = None
    if parameters.tables is not None:
        features = text_graph.Features(spec=parameters.spec, tables=parameters.tables, idf=parameters.idf)
    return text_graph.build(
        parameters.weight,
        parameters.bias,
        parameters.vocabulary,
        parameters.labels,
        metadata or {},
        features,
    )


def text_model(parameters: Parameters) -> ModelProto:
    return onnx.load_model_from_string(text_file(parameters).to_bytes())


class TextModelSession:
    """A text model in onnxruntime."""

    def __init__(self, parameters: Parameters) -> None:
        self._session = ort.InferenceSession(
            text_file(parameters).to_bytes(), session_options(), providers=["CPUExecutionProvider"]
        )

    def run(self, texts: Sequence[str]) -> tuple[npt.NDArray[np.float32], list[str]]:
        """The log-probabilities and the labels."""
        strings = np.empty(len(texts), dtype=object)
        strings[:] = texts
        found: Any = self._session.run(["log_probs", "label"], {"text": strings})
        return found[0], found[1].tolist()


class TextSession:
    """A text model in onnxruntime that also tells whether a batch took the fast path."""

    def __init__(self, parameters: Parameters) -> None:
        model = text_model(parameters)
        # A value within the graph: as an output too it can be seen.
        model.graph.output.append(value("is_fast", TensorProto.BOOL, [1]))
        self._session = ort.InferenceSession(
            model.SerializeToString(), session_options(), providers=["CPUExecutionProvider"]
        )

    def run(self, texts: Sequence[str]) -> tuple[npt.NDArray[np.float32], list[str], bool]:
        """The log-probabilities, the labels, and whether the batch took the fast path."""
        strings = np.empty(len(texts), dtype=object)
        strings[:] = texts
        found: Any = self._session.run(["log_probs", "label", "is_fast"], {"text": strings})
        log_probs, labels, is_fast = found
        return log_probs, labels.tolist(), bool(is_fast[0])


def assert_close(found: npt.NDArray[np.float32], expected: npt.NDArray[np.float64]) -> None:
    """Within the default tolerance of the parity gate."""
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
