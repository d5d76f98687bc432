"""Which execution providers a session is given, and with what options; tests/test_gpu.py has a real GPU's."""

from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest

from serving.bundle import FILES, Bundle
from serving.errors import ArtifactError
from serving.session import TextModel, load, text_signature

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
