"""Whether an execution provider can be used is found out by trying, and told in words."""

import onnxruntime as ort
import pytest
import torch

from export.provider import why_unusable
from serving.session import CPU

CUDA = ("CUDAExecutionProvider", {"device_id": 0})
without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")


@without_gpu
def test_a_gpu_that_is_not_there_is_a_reason_and_no_error() -> None:
    """If it failed, the gate would say that it checked `bow.onnx` on a GPU, or crash where there is none."""
    reason = why_unusable(CUDA)
    assert reason
    assert "\n" not in reason
    assert "CUDAExecutionProvider" in reason


@without_gpu
def test_finding_out_says_nothing_on_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    """If it failed, lines of onnxruntime's would stand between the job's own results."""
    why_unusable(CUDA)
    assert capfd.readouterr().out == ""


def test_a_provider_that_the_build_lacks_is_named() -> None:
    """If it failed, nobody would know that another wheel of onnxruntime is needed."""
    name = "NoSuchExecutionProvider"
    assert why_unusable((name, {})) == f"this build of onnxruntime ({ort.__version__}) has no {name}"


def test_the_cpu_can_always_be_used() -> None:
    """If it failed, a usable provider would be left out of the gate."""
    assert why_unusable(CPU) is None
