"""An ONNX file, written straight from the arrays that it holds: a protobuf message would copy them thrice."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, ModelProto, TensorProto, helper

from export.graph import nodes

OPSETS = {"": 20, "ai.onnx.ml": 3, "com.microsoft": 1}
"""Pinned, with the IR version, so that onnxruntime 1.20 and later load the models."""
IR_VERSION = 9

_GRAPH = ModelProto.DESCRIPTOR.fields_by_name["graph"].number
_INITIALIZER = GraphProto.DESCRIPTOR.fields_by_name["initializer"].number
_RAW_DATA = TensorProto.DESCRIPTOR.fields_by_name["raw_data"].number

Piece: TypeAlias = bytes | memoryview


@dataclass(frozen=True, kw_only=True)
class OnnxFile:
    """A graph and its initializers, each as one array, or as parts that follow each other by row."""

    graph: GraphProto
    """Without initializers."""
    arrays: Mapping[str, Sequence[npt.NDArray[Any]]]
    """Of numbers, by name."""
    strings: Mapping[str, Sequence[str]]
    """One-dimensional, by name."""
    metadata: Mapping[str, str]

    def write(self, path: Path) -> None:
        """Writes the file; the same model gives the same bytes."""
        with path.open("wb") as file:
            file.writelines(self.pieces())

    def to_bytes(self) -> bytes:
        """What `write` writes."""
        return b"".join(self.pieces())

    def pieces(self) -> list[Piece]:
        """The bytes of the file, one piece after the other: a ModelProto with the graph as its last field."""
        used = {node.domain for node in nodes(self.graph)} | {""}
        model = ModelProto(
            ir_version=IR_VERSION,
            producer_name="bowsprit",
            opset_import=[helper.make_opsetid(name, OPSETS[name]) for name in OPSETS if name in used],
        )
        helper.set_model_props(model, dict(sorted(self.metadata.items())))
        graph: list[Piece] = [self.graph.SerializeToString(deterministic=True)]
        for tensor in [*self._arrays(), *self._strings()]:
            graph += [_head(_INITIALIZER, _size(tensor)), *tensor]
        return [model.SerializeToString(deterministic=True), _head(_GRAPH, _size(graph)), *graph]

    def _arrays(self) -> Iterator[list[Piece]]:
        for name, parts in self.arrays.items():
            dims = (sum(len(part) for part in parts), *parts[0].shape[1:])
            header = TensorProto(
                name=name, dims=dims, data_type=helper.np_dtype_to_tensor_dtype(parts[0].dtype)
            )
            # ONNX stores numbers in little-endian order.
            little = [np.ascontiguousarray(part, part.dtype.newbyteorder("<")) for part in parts]
            data: list[Piece] = [part.data.cast("B") for part in little if part.size]
            yield [header.SerializeToString(deterministic=True), _head(_RAW_DATA, _size(data)), *data]

    def _strings(self) -> Iterator[list[Piece]]:
        for name, strings in self.strings.items():
            tensor = TensorProto(name=name, dims=[len(strings)], data_type=TensorProto.STRING)
            tensor.string_data.extend([string.encode() for string in strings])
            yield [tensor.SerializeToString(deterministic=True)]


def _head(field: int, size: int) -> bytes:
    """What stands before a field of bytes, strings or a message, on the wire: its tag and its size."""
    return _varint(field << 3 | 2) + _varint(size)


def _varint(number: int) -> bytes:
    """Seven bits a byte, the lowest first; the highest bit says that more follow.

    >>> _varint(300)
    b'\\xac\\x02'
    """
    groups = []
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*groups, number])


def _size(pieces: Sequence[Piece]) -> int:
    return sum(len(piece) for piece in pieces)
