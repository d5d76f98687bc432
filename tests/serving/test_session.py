"""A session: its file, and its execution providers and their options; a real GPU's in tests/test_gpu.py."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper
from onnx.external_data_helper import set_external_data

from serving.bundle import FILES, Bundle
from serving.errors import ArtifactError
from serving.session import TextModel, load, text_signature
from tests.serving.damage import attribute, in_onnx, nodes

CUDA = "CUDAExecutionProvider"
Given = list[list[tuple[str, dict[str, int]]]]


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Given:
    """The providers of each session that was asked for; one with a GPU is refused, as CUDA refuses text."""
    asked: Given = []
    real = ort.InferenceSession

    def session(path: str, options: Any, *, providers: list[tuple[str, dict[str, int]]], **more: Any) -> Any:
        asked.append(providers)
        if any(name == CUDA for name, _ in providers):
            raise RuntimeError("Type 'tensor(string)' of input parameter (text) is invalid")
        return real(path, options, providers=providers, **more)

    monkeypatch.setattr(ort, "InferenceSession", session)
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["Other", CUDA, "CPUExecutionProvider"])
    return asked


def test_a_gpu_is_told_to_compute_in_float32(bundle: Bundle, given: Given) -> None:
    """If it failed, a GPU would round what it multiplies to 10 bits, and no model would pass its check."""
    path = bundle.path / FILES.bow_model
    with pytest.raises(ArtifactError):
        load(path, text_signature(5), providers=[(CUDA, {"device_id": 1})])
    assert given == [[(CUDA, {"use_tf32": 0, "device_id": 1})]]


def test_a_provider_that_takes_no_text_is_passed_over(bundle: Bundle, given: Given) -> None:
    """If it failed, a server that is told to use a GPU would refuse a bundle that is whole."""
    model = TextModel(bundle.path / FILES.text_model, 5, [CUDA, "CPUExecutionProvider"])
    assert model.provider == "CPUExecutionProvider"
    assert model.log_probs(["w1"]).shape == (1, 5)
    assert [[name for name, _ in providers] for providers in given] == [
        [CUDA, "CPUExecutionProvider"],
        ["CPUExecutionProvider"],
    ]


def test_a_broken_model_is_refused_whatever_is_preferred(tmp_path: Path, given: Given) -> None:
    """If it failed, the reason why a file is refused would be lost among providers."""
    path = tmp_path / "model.onnx"
    path.write_bytes(b"not a model")
    with pytest.raises(ArtifactError, match=r"onnxruntime [\d.]+ cannot load it"):
        TextModel(path, 5, [CUDA])
    assert len(given) == 2


def moved(tensor: onnx.TensorProto, folder: Path) -> None:
    """Puts a tensor's numbers into a file beside the model."""
    (folder / "w.bin").write_bytes(numpy_helper.to_array(tensor).tobytes())
    set_external_data(tensor, "w.bin")
    tensor.ClearField("raw_data")


@pytest.mark.parametrize("place", ["initializer", "attribute within a loop", "padded lengths"])
def test_weights_in_a_file_that_nobody_hashes_are_refused(copy: Path, place: str) -> None:
    """If it failed, a served model could be altered, and its bundle would keep its ID."""
    path = copy / FILES.text_model

    def move(model: onnx.ModelProto) -> None:
        if place != "attribute within a loop":
            moved(next(each for each in model.graph.initializer if each.name == "weight"), copy)
            return
        (loop, *_) = nodes(model.graph, "Loop")
        body = attribute(loop, "body").g
        constant = onnx.helper.make_node("Constant", [], ["unused"], value=onnx.TensorProto())
        constant.attribute[0].t.CopyFrom(numpy_helper.from_array(np.zeros(9, dtype=np.float32)))
        moved(constant.attribute[0].t, copy)
        body.node.append(constant)

    in_onnx(path.name, move)(copy)
    if place == "padded lengths":
        key, padded = b"\n\x08location", b"\n\x88\x80\0location"
        content = path.read_bytes()
        assert key in content
        path.write_bytes(content.replace(key, padded))
    with pytest.raises(ArtifactError, match=r"model\.onnx: expected a model that is one file"):
        load(path, text_signature(5))


def test_a_word_or_label_may_be_what_external_data_is_told_by(copy: Path) -> None:
    """If it failed, a model with the word "location" could not be published."""
    path = copy / FILES.text_model

    def change(model: onnx.ModelProto) -> None:
        (labels,) = [each for each in model.graph.initializer if each.name == "labels"]
        labels.string_data[0] = b"location"
        for node in nodes(model.graph, "LabelEncoder"):
            attribute(node, "keys_strings").strings[0] = b"location"

    in_onnx(path.name, change)(copy)
    assert b"location" in path.read_bytes()
    _, label = load(path, text_signature(5)).run(None, {"text": np.array(["no known word"], dtype=object)})
    assert len(label) == 1
