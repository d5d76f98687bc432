"""The file of a model, written field by field: what protobuf and onnx read is what was put in."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

from export.graph import Graph, value
from export.onnx_file import OnnxFile


def file_of(**arrays: list[np.ndarray]) -> OnnxFile:
    graph = Graph()
    graph.add("Identity", "input", output="output")
    return OnnxFile(
        graph=graph.build(
            inputs=[value("input", TensorProto.FLOAT, ["N"])],
            outputs=[value("output", TensorProto.FLOAT, ["N"])],
        ),
        arrays=arrays,
        strings={"names": ["", "é", "x" * 1000]},
        metadata={"b": "2", "a": "1"},
    )


@pytest.mark.parametrize("rows", [0, 1, 31, 5000])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_read_is_what_was_written(rows: int, dtype: type) -> None:
    """If it failed, a size on the wire would be wrong, and no runtime could read the model."""
    weight = np.random.default_rng(0).standard_normal((rows, 3)).astype(dtype)
    model = onnx.load_model_from_string(file_of(weight=[weight], bias=[weight[:, 0]]).to_bytes())
    onnx.checker.check_model(model)
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    np.testing.assert_array_equal(tensors["weight"], weight)
    np.testing.assert_array_equal(tensors["bias"], weight[:, 0])
    assert tensors["weight"].dtype == dtype
    assert tensors["names"].tolist() == ["", "é", "x" * 1000]
    assert [(entry.key, entry.value) for entry in model.metadata_props] == [("a", "1"), ("b", "2")]
    assert [node.op_type for node in model.graph.node] == ["Identity"]


def test_parts_follow_each_other_by_row() -> None:
    """If it failed, the row of the unknown words would stand among those of others."""
    parts = [np.arange(6, dtype=np.float32).reshape(3, 2), np.zeros((1, 2), np.float32)]
    one, other = file_of(weight=parts), file_of(weight=[np.vstack(parts)])
    assert one.to_bytes() == other.to_bytes()


def test_the_order_of_memory_makes_no_difference() -> None:
    """If it failed, a transposed view would be written as it lies in memory."""
    weight = np.arange(12, dtype=np.float32).reshape(4, 3)
    assert file_of(weight=[weight.T]).to_bytes() == file_of(weight=[weight.T.copy()]).to_bytes()


def test_the_file_holds_what_to_bytes_gives(tmp_path: Path) -> None:
    """If it failed, what is tested would not be what is published."""
    file = file_of(weight=[np.ones((2, 2), np.float32)])
    file.write(tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").read_bytes() == file.to_bytes()
