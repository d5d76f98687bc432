"""A small builder over `onnx.helper`: nodes are added in order, and every name is deterministic."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, NodeProto, ValueInfoProto, helper, numpy_helper


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

    def add_if(
        self,
        condition: str,
        *,
        then: "Graph",
        otherwise: "Graph",
        outputs: Mapping[str, tuple[int, Sequence[int | str]]],
    ) -> list[str]:
        """Adds an If and returns its outputs' names: in each graph its prefix and the output's own.

        outputs: the dtype and shape of each.
        """

        def branch(of: "Graph") -> GraphProto:
            return of.build([value(of.prefix + name, *kind) for name, kind in outputs.items()])

        names = [self.prefix + name for name in outputs]
        self.add("If", condition, output=names, then_branch=branch(then), else_branch=branch(otherwise))
        return names

    def tokenize(
        self, texts: str, *, separator: str | None = None, token: str | None = None, output: str | None = None
    ) -> str:
        """The parts of c texts that a pattern separates, or that it matches: string [c, T], padded with "".

        separator, token: either, in RE2's syntax; the separator "" makes a part of each code point.
        """
        assert (separator is None) != (token is None)
        return self.add(
            "Tokenizer",
            texts,
            domain="com.microsoft",
            mark=0,
            mincharnum=1,
            pad_value="",
            output=output,
            **({"tokenexp": token} if separator is None else {"separators": [separator]}),
        )

    def take(self, vector: str, places: str) -> str:
        """The values at the places of a vector: `places` is one too.

        As Gather does, which calls for each value a function that copies it.
        """
        return self.add("GatherElements", vector, places, axis=0)

    def constant(self, value: npt.ArrayLike) -> str:
        """Adds a constant: bool, int64, float32 or float64, by the dtype that numpy gives the value."""
        return self.add("Constant", value=numpy_helper.from_array(np.asarray(value)))

    def build(
        self,
        outputs: Sequence[ValueInfoProto],
        inputs: Sequence[ValueInfoProto] = (),
    ) -> GraphProto:
        """The finished graph."""
        return helper.make_graph(self.nodes, self.prefix or "model", list(inputs), list(outputs))


def value(name: str, dtype: int, shape: Sequence[int | str]) -> ValueInfoProto:
    """The type of an input or output: a TensorProto dtype and a shape of sizes and symbols."""
    return helper.make_tensor_value_info(name, dtype, list(shape))


def nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """The nodes of a graph and of the graphs within it."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from nodes(attribute.g)
