"""Ways to alter a bundle on purpose, as a broken disk or a careless hand would; `seal_again` hides them."""

import json
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper
from safetensors.numpy import load_file, save

from serving.bundle import FILES, FileRecord

Damage = Callable[[Path], None]

WEIGHT, BIAS = "archive/data/0", "archive/data/1"
"""The records of model.ts that hold the tensors."""


def seal_again(folder: Path) -> None:
    """Makes the manifest's hashes and sizes those of the files, so that no hash tells what was altered."""

    def change(manifest: Any) -> None:
        for name in FILES.hashed:
            record = FileRecord.of(folder / name)
            manifest["files"][name] = {"sha256": record.sha256, "size": record.size}

    in_manifest(change)(folder)


def whole(name: str, change: Callable[[bytes], bytes]) -> Damage:
    """Rewrites a file as bytes."""

    def damage(folder: Path) -> None:
        (folder / name).write_bytes(change((folder / name).read_bytes()))

    return damage


def replaced(name: str, old: bytes, new: bytes) -> Damage:
    """Replaces bytes of a file that must be in it."""

    def change(content: bytes) -> bytes:
        assert old in content, f"{name} holds no {old!r}"
        return content.replace(old, new)

    return whole(name, change)


def with_flipped_bit(content: bytes, place: int, bit: int = 0) -> bytes:
    """The content with one bit of the byte at `place` flipped."""
    altered = bytearray(content)
    altered[place] ^= 1 << bit
    return bytes(altered)


def in_manifest(change: Callable[[Any], object]) -> Damage:
    """Changes the manifest as plain JSON."""

    def damage(folder: Path) -> None:
        content = json.loads((folder / FILES.manifest).read_bytes())
        change(content)
        (folder / FILES.manifest).write_text(json.dumps(content))

    return damage


def in_lines(name: str, change: Callable[[list[Any]], object]) -> Damage:
    """Changes a file of JSON lines as a list."""

    def damage(folder: Path) -> None:
        # Not splitlines(), which separates at U+2028 and others too.
        lines = [json.loads(line) for line in (folder / name).read_text().rstrip("\n").split("\n")]
        change(lines)
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))

    return damage


def swap(first: int, second: int) -> Callable[[Any], None]:
    """Exchanges two items of a list."""

    def change(items: Any) -> None:
        items[first], items[second] = items[second], items[first]

    return change


def in_safetensors(change: Callable[[dict[str, npt.NDArray[Any]]], object]) -> Damage:
    """Changes the tensors by name."""

    def damage(folder: Path) -> None:
        tensors = {name: tensor.copy() for name, tensor in load_file(folder / FILES.weights).items()}
        change(tensors)
        (folder / FILES.weights).write_bytes(save(tensors))

    return damage


def weights_of_type(dtype: str, num_bytes: int) -> Damage:
    """Says in the header of the safetensors file that its bytes are of another type."""

    def damage(folder: Path) -> None:
        header, start = {}, 0
        tensors = load_file(folder / FILES.weights)
        for name, tensor in tensors.items():
            shape = [*tensor.shape[:-1], tensor.shape[-1] * 4 // num_bytes]
            end = start + tensor.nbytes
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
            start = end
        text = json.dumps(header).encode()
        content = struct.pack("<Q", len(text)) + text + b"".join(each.tobytes() for each in tensors.values())
        (folder / FILES.weights).write_bytes(content)

    return damage


def in_onnx(name: str, change: Callable[[onnx.ModelProto], object]) -> Damage:
    """Changes an ONNX file as its protobuf message."""

    def damage(folder: Path) -> None:
        model = onnx.load_model_from_string((folder / name).read_bytes())
        change(model)
        (folder / name).write_bytes(model.SerializeToString(deterministic=True))

    return damage


def in_initializer(name: str, tensor: str, change: Callable[[Any], Any]) -> Damage:
    """Changes the numbers of an initializer; `change` gets a copy and returns the new array, or alters it."""

    def in_model(model: onnx.ModelProto) -> None:
        (proto,) = [each for each in model.graph.initializer if each.name == tensor]
        array = numpy_helper.to_array(proto).copy()
        returned = change(array)
        proto.CopyFrom(numpy_helper.from_array(array if returned is None else returned, tensor))

    return in_onnx(name, in_model)


def with_dims(name: str, tensor: str, *dims: int) -> Damage:
    """Changes the shape of an initializer, and leaves its data."""

    def in_model(model: onnx.ModelProto) -> None:
        (proto,) = [each for each in model.graph.initializer if each.name == tensor]
        del proto.dims[:]
        proto.dims.extend(dims)

    return in_onnx(name, in_model)


def nodes(graph: onnx.GraphProto, op_type: str) -> Iterator[onnx.NodeProto]:
    """The nodes of a type in a graph and in those within it."""
    for node in graph.node:
        if node.op_type == op_type:
            yield node
        for each in node.attribute:
            if each.HasField("g"):
                yield from nodes(each.g, op_type)


def attribute(node: onnx.NodeProto, name: str) -> onnx.AttributeProto:
    """An attribute of a node."""
    (found,) = [each for each in node.attribute if each.name == name]
    return found


def in_node(name: str, op_type: str, change: Callable[[onnx.NodeProto], object], within: str = "") -> Damage:
    """Changes the nodes of a type, or only those in the subgraph whose names begin with `within`."""

    def in_model(model: onnx.ModelProto) -> None:
        found = [node for node in nodes(model.graph, op_type) if node.output[0].startswith(within)]
        assert found, f"{name} has no {op_type} within {within}"
        for node in found:
            change(node)

    return in_onnx(name, in_model)


def another_operator(op_type: str) -> Callable[[onnx.NodeProto], None]:
    """Makes a node one of another type, without attributes."""

    def change(node: onnx.NodeProto) -> None:
        node.op_type = op_type
        del node.attribute[:]

    return change


def in_archive(change: Callable[[dict[str, bytes]], object], compression: int = zipfile.ZIP_STORED) -> Damage:
    """Changes the records of the TorchScript archive by name, and writes it with CRCs that are right."""

    def damage(folder: Path) -> None:
        with zipfile.ZipFile(folder / FILES.torchscript) as archive:
            records = {name: archive.read(name) for name in archive.namelist()}
        change(records)
        with zipfile.ZipFile(folder / FILES.torchscript, "w") as archive:
            for name, content in records.items():
                archive.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), content, compression)

    return damage


def in_record(name: str, change: Callable[[bytes], bytes]) -> Damage:
    """Changes a record of the TorchScript archive."""

    def in_records(records: dict[str, bytes]) -> None:
        before = records[name]
        records[name] = change(before)
        assert records[name] != before

    return in_archive(in_records)


def in_zip_entries(offset: int, value: int) -> Damage:
    """Sets a byte of every entry in the zip's central directory."""

    def change(content: bytes) -> bytes:
        altered, place = bytearray(content), -1
        while (place := altered.find(b"PK\x01\x02", place + 1)) >= 0:
            altered[place + offset] = value
        return bytes(altered)

    return whole(FILES.torchscript, change)


def added(place: tuple[int, ...] | int, number: float) -> Callable[[Any], None]:
    """Adds to one number of an array."""

    def change(array: Any) -> None:
        before = array[place]
        array[place] += np.asarray(number, dtype=array.dtype)
        assert array[place] != before

    return change


def added_to_bytes(place: int, number: float) -> Callable[[bytes], bytes]:
    """Adds to one number of an array of float32 in bytes."""

    def change(content: bytes) -> bytes:
        array = np.frombuffer(content, dtype="<f4").copy()
        added(place, number)(array)
        return array.tobytes()

    return change
