"""A small builder over `onnx.helper`: nodes are added in order, and every name is deterministic."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, checker, helper, numpy_helper

OPSETS = {"": 20, "ai.onnx.ml": 3, "com.microsoft": 1}
"""Pinned, with the IR version, so that onnxruntime 1.20 and later load the models."""
IR_VERSION = 9


@dataclass
class Graph:
    """A graph, or a branch or body within one; its `prefix` keeps the names of subgraphs apart."""

    prefix: str = ""
    nodes: list[NodeProto] = field(default_factory=list)

    def add(
        self,
        op: str,
        *inputs: str,
        output: str | Sequence[str] | None = None,
        domain: str = "",
        **attributes: Any,
    ) -> str:
        """Adds a node and returns the name of its first output."""
        names = (
            [output or f"{self.prefix}{op}_{len(self.nodes)}"] if isinstance(output, str | None) else output
        )
        self.nodes.append(helper.make_node(op, list(inputs), list(names), domain=domain, **attributes))
        return names[0]

    def constant(self, value: npt.ArrayLike) -> str:
        """Adds a constant: bool, int64, float32 or float64, by the dtype that numpy gives the value."""
        return self.add("Constant", value=numpy_helper.from_array(np.asarray(value)))

    def build(
        self,
        outputs: Sequence[ValueInfoProto],
        inputs: Sequence[ValueInfoProto] = (),
        initializers: Sequence[TensorProto] = (),
    ) -> GraphProto:
        """The finished graph."""
        return helper.make_graph(
            self.nodes, self.prefix or "model", list(inputs), list(outputs), list(initializers)
        )


def value(name: str, dtype: int, shape: Sequence[int | str]) -> ValueInfoProto:
    """The type of an input or output: a TensorProto dtype and a shape of sizes and symbols."""
    return helper.make_tensor_value_info(name, dtype, list(shape))


def tensor(name: str, array: npt.NDArray[Any]) -> TensorProto:
    """An initializer."""
    return numpy_helper.from_array(array, name)


def model(graph: GraphProto, metadata: Mapping[str, str]) -> ModelProto:
    """The model, with the pinned opsets that its graph uses and the metadata in order of its keys."""
    used = _domains(graph)
    built = helper.make_model(
        graph,
        producer_name="bowsprit",
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid(name, OPSETS[name]) for name in OPSETS if name in used],
    )
    helper.set_model_props(built, dict(sorted(metadata.items())))
    return built


def to_bytes(built: ModelProto) -> bytes:
    """The file of a model, after the checker has seen it; the same model gives the same bytes."""
    content: bytes = built.SerializeToString(deterministic=True)
    # The checker is given the bytes: of a message it would make them again.
    checker.check_model(content)
    return content


def _domains(graph: GraphProto) -> set[str]:
    """The operator domains of a graph and of the graphs within it."""
    domains = {""}
    for node in graph.node:
        domains.add(node.domain)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                domains |= _domains(attribute.g)
    return domains
