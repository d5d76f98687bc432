"""The weights in every file of a bundle, read without running anything: no two files may differ by a bit."""

import operator
import zipfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import safetensors
from onnx import TensorProto, numpy_helper
from safetensors.numpy import load_file

from serving.bundle import FILES, read_lines
from serving.errors import ArtifactError
from serving.features.lookup import Lookup
from serving.features.specification import PLAIN, FeatureSpec
from serving.features.tables import Tables
from serving.parity.rungs import Rung, compare_exactly

Float32 = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """A model as plain arrays, with the names of its rows and columns."""

    weight: Float32
    """A, [K, V]."""
    bias: Float32
    """b, [K]."""
    vocabulary: Sequence[str]
    """[V]."""
    labels: Sequence[str]
    """[K]."""
    spec: FeatureSpec = PLAIN
    """How texts become the features that the vocabulary names."""
    idf: Float32 | None = None
    """Of every feature, [V]; None where the weighting needs none."""

    @cached_property
    def tables(self) -> Tables | None:
        """What finds the features in texts; None where they are the tokens of `str.split()`."""
        return None if self.spec.is_plain else Tables.of(self.vocabulary, self.spec)


def tensor_names(spec: FeatureSpec) -> tuple[str, ...]:
    """The tensors of a bundle's safetensors file: `weight` [K, V], `bias` [K], and for tfidf `idf` [V]."""
    return ("weight", "bias", "idf") if spec.weighting == "tfidf" else ("weight", "bias")


def read_safetensors(folder: Path, spec: FeatureSpec) -> dict[str, Float32]:
    """What a bundle's safetensors file has, by name."""
    path = folder / FILES.weights
    try:
        tensors = load_file(path)
    # It raises AttributeError for a type that numpy lacks.
    except (OSError, safetensors.SafetensorError, AttributeError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path}: cannot be read ({error}); get the bundle again") from error
    names = tensor_names(spec)
    if tensors.keys() != set(names) or any(value.dtype != np.float32 for value in tensors.values()):
        raise ArtifactError(
            f"{path}: expected the float32 tensors {', '.join(names)}, found "
            + ", ".join(f"{name} {value.dtype}" for name, value in sorted(tensors.items()))
        )
    return {name: tensors[name] for name in names}


def compare_weights(folder: Path, expected: Parameters, metadata: Mapping[str, str]) -> list[Rung]:
    """A rung for each file that holds weights: its weights, bit by bit, against the expected ones.

    Words and labels are compared as well, and in the ONNX files the `metadata`. Raises ArtifactError where
    these differ, or a file cannot be read as what it should be.
    """
    readers: dict[str, Callable[[], Float32]] = {
        FILES.weights: lambda: _of_safetensors(folder, expected),
        FILES.bow_model: lambda: _of_bow_model(load_onnx(folder / FILES.bow_model, metadata), folder),
        FILES.text_model: lambda: _of_text_model(
            load_onnx(folder / FILES.text_model, metadata), folder, expected
        ),
        FILES.torchscript: lambda: _of_torchscript(folder, expected),
    }
    for name, names in ((FILES.vocabulary, expected.vocabulary), (FILES.labels, expected.labels)):
        if read_lines(folder / name, str) != list(names):
            raise ArtifactError(f"{folder / name}: is not what the model was made with; get the bundle again")
    wanted = np.append(expected.weight.ravel(), expected.bias)
    # One after the other, so that only one file's weights are in memory beside the expected ones.
    return [compare_exactly(name, "weights", read(), wanted) for name, read in readers.items()]


def load_onnx(path: Path, metadata: Mapping[str, str]) -> onnx.ModelProto:
    """An ONNX file as its protobuf message, after the checker looked at it and its metadata was compared."""
    try:
        content = path.read_bytes()
        # The checker is given the bytes: of a message it would make them again.
        onnx.checker.check_model(content)
        model = onnx.load_model_from_string(content)
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror}); get the bundle again") from error
    # Protobuf's decoding error and the checker's have no common base but Exception.
    except Exception as error:
        raise ArtifactError(
            f"{path}: is not a valid ONNX model ({str(error).splitlines()[0]}); get the bundle again"
        ) from error
    found = {entry.key: entry.value for entry in model.metadata_props}
    for key in sorted(metadata.keys() | found.keys()):
        if metadata.get(key) != found.get(key):
            raise ArtifactError(
                f"{path}: its metadata {key} differs from {FILES.manifest}; get the bundle again"
            )
    return model


def _of_safetensors(folder: Path, expected: Parameters) -> Float32:
    tensors = read_safetensors(folder, expected.spec)
    idf = tensors.get("idf")
    if idf is not None and not np.array_equal(idf, np.asarray(expected.idf)):
        raise ArtifactError(
            f"{folder / FILES.weights}: its idf is not what the model was made with; get the bundle again"
        )
    return np.append(tensors["weight"].ravel(), tensors["bias"])


def _of_bow_model(model: onnx.ModelProto, folder: Path) -> Float32:
    tensors = _initializers(
        model, folder / FILES.bow_model, {"weight": TensorProto.FLOAT, "bias": TensorProto.FLOAT}
    )
    weight, bias = _arrays(tensors, folder / FILES.bow_model)
    return np.append(weight.ravel(), bias)


def _of_text_model(model: onnx.ModelProto, folder: Path, expected: Parameters) -> Float32:
    path = folder / FILES.text_model
    arrays = {} if expected.tables is None else expected.tables.arrays(expected.idf)
    dtypes = {name: onnx.helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in arrays.items()}
    tensors = _initializers(
        model,
        path,
        {"weight": TensorProto.FLOAT, "bias": TensorProto.DOUBLE, "labels": TensorProto.STRING, **dtypes},
    )
    if list(tensors["labels"].string_data) != [label.encode() for label in expected.labels]:
        raise ArtifactError(
            f"{path}: the labels or their order differ from {FILES.labels}; get the bundle again"
        )
    same = [
        np.array_equal(table, array)
        for table, array in zip(_arrays(tensors, path, arrays), arrays.values(), strict=True)
    ]
    if not all(same) or not all(_look_ups_agree(model, expected)):
        raise ArtifactError(
            f"{path}: the words or their ids differ from {FILES.vocabulary}; "
            "get the bundle again, or use the release of bowsprit that made it"
        )
    # The text model holds A transposed, with a row of zeros for unknown words, and b in float64.
    table, bias = _arrays(tensors, path)
    with np.errstate(over="ignore"):
        rounded = bias.astype(np.float32)
    if table.ndim != 2 or table[-1:].any() or not np.array_equal(bias, rounded):
        raise ArtifactError(f"{path}: its weights are not those of a trained model; get the bundle again")
    return np.append(table[:-1].T.ravel(), rounded)


def _look_ups_agree(model: onnx.ModelProto, expected: Parameters) -> Iterator[bool]:
    """Whether each LabelEncoder gives what it should: each word its place, or what the tables say."""
    found = [node for node in _nodes(model.graph) if node.op_type == "LabelEncoder"]
    if expected.tables is None:
        words, number = expected.vocabulary, len(expected.vocabulary)
        for node in found:
            yield _looks_up(node, number, map(str.encode, words), range(number), default=number)
        return
    lookups = expected.tables.lookups()
    yield Counter(node.name for node in found) == {name: each.times for name, each in lookups.items()}
    for node in found:
        lookup = lookups.get(node.name, Lookup(keys=[], numbers=[], default=0, times=0))
        yield _looks_up(node, len(lookup.keys), lookup.keys, lookup.numbers, default=lookup.default)


def _looks_up(
    node: onnx.NodeProto, number: int, keys: Iterable[bytes | int], values: Iterable[int], *, default: int
) -> bool:
    """Whether a LabelEncoder gives each of so many keys its value, and others the default."""
    attributes = {attribute.name: attribute for attribute in node.attribute}
    (key_name,) = attributes.keys() - {"values_int64s", "default_int64"} or {""}
    if len(attributes) != 3 or key_name not in ("keys_strings", "keys_int64s"):
        return False
    own_keys = attributes[key_name].strings if key_name == "keys_strings" else attributes[key_name].ints
    own_values = attributes["values_int64s"].ints
    # One by one, since lists of them all would take more memory than the model.
    return (
        len(own_keys) == len(own_values) == number
        and attributes["default_int64"].i == default
        and all(map(operator.eq, own_keys, keys))
        and all(map(operator.eq, own_values, values))
    )


def _of_torchscript(folder: Path, expected: Parameters) -> Float32:
    """The tensors of a TorchScript archive, as raw bytes: its pickles are not read."""
    path = folder / FILES.torchscript
    try:
        with zipfile.ZipFile(path) as archive:
            _check_stored(archive, path.stat().st_size)
            names = archive.namelist()
            records = {name.split("/", 1)[-1]: archive.read(name) for name in names}
    # zipfile raises RuntimeError for an encrypted entry, NotImplementedError for an unknown compression,
    # zlib's own error, UnicodeDecodeError and others.
    except Exception as error:
        raise ArtifactError(
            f"{path}: is not a TorchScript archive ({error}); get the bundle again"
        ) from error
    if len(records) != len(names):
        raise ArtifactError(f"{path}: two of its records have the same name; get the bundle again")
    for name in (FILES.vocabulary, FILES.labels):
        if records.get(f"extra/{name}") != (folder / name).read_bytes():
            raise ArtifactError(
                f"{path}: its extra file {name} differs from {folder / name}; get the bundle again"
            )
    # torch numbers the tensors in the order of the module's parameters: weight, then bias.
    data = [records.get(f"data/{number}", b"") for number in range(2)]
    others = [name for name in records if name.startswith("data/") and name not in ("data/0", "data/1")]
    if others or [len(part) for part in data] != [4 * expected.weight.size, 4 * expected.bias.size]:
        raise ArtifactError(f"{path}: expected the tensors weight and bias; get the bundle again")
    return np.frombuffer(b"".join(data), dtype="<f4")


def _check_stored(archive: zipfile.ZipFile, size: int) -> None:
    """Refuses records that take more memory than an archive of `size` bytes: a small one could fill it."""
    entries = archive.infolist()
    if any(each.compress_type != zipfile.ZIP_STORED for each in entries) or (
        sum(each.compress_size for each in entries) > size
    ):
        raise zipfile.BadZipFile("its records are compressed, or overlap")


def _initializers(
    model: onnx.ModelProto, path: Path, dtypes: Mapping[str, int]
) -> dict[str, onnx.TensorProto]:
    """The initializers of a model, which must have these names and element types, and no others."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    if {name: tensor.data_type for name, tensor in tensors.items()} != dtypes:
        found = ", ".join(sorted(tensors)) or "none"
        raise ArtifactError(
            f"{path}: expected the initializers {', '.join(dtypes)}, found {found} or other types; "
            "get the bundle again, or use the release of bowsprit that made it"
        )
    return tensors


def _arrays(
    tensors: Mapping[str, onnx.TensorProto], path: Path, names: Iterable[str] = ("weight", "bias")
) -> Iterator[npt.NDArray[Any]]:
    """The initializers of these names; raises ArtifactError where the data are not of their shape."""
    for name in names:
        try:
            yield numpy_helper.to_array(tensors[name])
        except ValueError as error:
            raise ArtifactError(f"{path}: {name} has no shape ({error}); get the bundle again") from error


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a graph and of the graphs within it."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)
