"""`bow.onnx`: dense word counts in, log-probabilities out."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from export import bow_graph
from serving.parity.reference import Scores
from serving.parity.rungs import Tolerance, compare
from serving.parity.verify import reference_of
from serving.session import BowModel
from serving.weights import Parameters
from tests.export.models import random_parameters, words


def loaded(path: Path, parameters: Parameters) -> BowModel:
    path.write_bytes(bow_graph.build(parameters.weight, parameters.bias, {}).to_bytes())
    return BowModel(path, *parameters.weight.shape)


@pytest.mark.parametrize(("num_labels", "num_words"), [(1, 1), (2, 26), (150, 300), (5000, 3)])
@pytest.mark.parametrize("number", [0, 1, 7, 256])
def test_counts_get_the_references_log_probs(
    tmp_path: Path, num_labels: int, num_words: int, number: int
) -> None:
    """If it failed, whoever makes the counts themselves would get other answers than `model.onnx` gives."""
    parameters = random_parameters(num_labels, words(num_words))
    generator = np.random.default_rng(1)
    bow = generator.poisson(0.1, (number, num_words)).astype(np.float32)
    bow[: number // 4] = 0
    log_probs = loaded(tmp_path / "bow.onnx", parameters).log_probs(bow)

    texts = [" ".join(word for word, n in zip(words(num_words), row, strict=True) for _ in range(int(n)))
             for row in bow]  # fmt: skip
    scores: Scores = reference_of(parameters).score(texts)
    assert log_probs.dtype == np.float32
    rung = compare("bow.onnx", "texts", log_probs, scores, Tolerance(), float32_sums=True)
    assert rung.holds, rung


def test_the_weights_are_in_the_file_as_they_were_trained() -> None:
    """If it failed, the weights could not be compared bit by bit with the trained ones."""
    parameters = random_parameters(3, words(5))
    model = onnx.load_model_from_string(bow_graph.build(parameters.weight, parameters.bias, {}).to_bytes())
    weight, bias = (onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer)
    np.testing.assert_array_equal(weight, parameters.weight)
    np.testing.assert_array_equal(bias, parameters.bias)


def test_the_file_is_of_the_pinned_versions_and_the_same_bytes_twice() -> None:
    """If it failed, an older onnxruntime would refuse it, or the same run have another bundle ID."""
    parameters = random_parameters(3, words(5))
    metadata = {"b": "2", "a": "1"}
    content = bow_graph.build(parameters.weight, parameters.bias, metadata).to_bytes()
    model = onnx.load_model_from_string(content)
    assert model.ir_version == 9
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 20)]
    assert [(entry.key, entry.value) for entry in model.metadata_props] == [("a", "1"), ("b", "2")]
    assert [node.op_type for node in model.graph.node] == ["Gemm", "LogSoftmax"]
    again = bow_graph.build(parameters.weight.copy(), parameters.bias.copy(), {"a": "1", "b": "2"})
    assert again.to_bytes() == content
