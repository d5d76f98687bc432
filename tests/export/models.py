"""Models to export: random weights over words that are easy to count, and sessions of their text models."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

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
        features = text_graph.Features(tables=parameters.tables, idf=parameters.idf)
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


class Ways(NamedTuple):
    """How a batch went through a text model."""

    is_one_chunk: bool
    """All of it at once, without the Loop."""
    split: list[bool]
    """For each chunk: whether StringSplit took it, rather than Tokenizer."""


class TextSession:
    """A text model in onnxruntime that also tells which ways a batch took."""

    def __init__(self, parameters: Parameters) -> None:
        model = text_model(parameters)
        # Values within the graph: as outputs too they can be seen.
        self._is_told = ["split"]
        decision = _node(model.graph, "If", holding="whole/")
        if decision is None:
            _see_chunks(model.graph, "split")
        else:
            whole, cut = sorted(
                (each.g for each in decision.attribute), key=lambda graph: graph.name == "cut/"
            )
            whole.output.append(value(_split_of(whole), TensorProto.BOOL, [1]))
            _see_chunks(cut, "cut/split")
            decision.output.append("split")
            model.graph.output.append(value("split", TensorProto.BOOL, ["m"]))
            model.graph.output.append(value(decision.input[0], TensorProto.BOOL, [1]))
            self._is_told.append(decision.input[0])
        self._session = ort.InferenceSession(
            model.SerializeToString(), session_options(), providers=["CPUExecutionProvider"]
        )

    def run(self, texts: Sequence[str]) -> tuple[npt.NDArray[np.float32], list[str], Ways]:
        """The log-probabilities, the labels, and the ways that the batch took."""
        strings = np.empty(len(texts), dtype=object)
        strings[:] = texts
        found: Any = self._session.run(["log_probs", "label", *self._is_told], {"text": strings})
        log_probs, labels, split, *is_one_chunk = found
        return (
            log_probs,
            labels.tolist(),
            Ways([each.item() for each in is_one_chunk] == [True], split.tolist()),
        )


def _node(graph: GraphProto, op: str, *, holding: str) -> NodeProto | None:
    """The node of a kind in whose graphs, or their nodes' kinds, there is something of that name."""
    for node in graph.node:
        for attribute in node.attribute if node.op_type == op else ():
            if holding == attribute.g.name or any(inner.op_type == holding for inner in attribute.g.node):
                return node
    return None


def _split_of(graph: GraphProto) -> str:
    """The value that says whether StringSplit takes the texts."""
    node = _node(graph, "If", holding="StringSplit")
    assert node is not None
    return str(node.input[0])


def _see_chunks(graph: GraphProto, name: str) -> None:
    """Gives a graph with the Loop over chunks one more output: `_split_of` every chunk."""
    loop = _node(graph, "Loop", holding="LabelEncoder")
    assert loop is not None
    (body,) = (attribute.g for attribute in loop.attribute)
    body.output.append(value(_split_of(body), TensorProto.BOOL, [1]))
    loop.output.append(f"{name}/rows")
    graph.node.append(helper.make_node("Constant", [], [f"{name}/flat"], value_ints=[-1]))
    graph.node.append(helper.make_node("Reshape", [f"{name}/rows", f"{name}/flat"], [name]))
    graph.output.append(value(name, TensorProto.BOOL, ["m"]))


def assert_close(found: npt.NDArray[np.float32], expected: npt.NDArray[np.float64]) -> None:
    """Within the default tolerance of the parity gate."""
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
