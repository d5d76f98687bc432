from collections.abc import Callable
from typing import Any

import pytest
import torch

from job.device import choose_device, peak_device_memory
from serving.errors import ExitCode, PlatformError

REAL_ONES = torch.ones


def raising(error: Exception) -> Callable[..., Any]:
    def fail(*_args: object, **_kwargs: object) -> Any:
        raise error

    return fail


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Makes torch see so many GPUs. A stand-in: real ones are not to be counted on; `gpu` tests use them."""

    def pretend(count: int) -> None:
        monkeypatch.setattr(torch.backends.cuda, "is_built", lambda: True)
        monkeypatch.setattr(torch.cuda, "init", lambda: None)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda gpu: f"Stand-in {gpu.index}")
        monkeypatch.setattr(torch, "ones", lambda size, device: REAL_ONES(size))

    return pretend


@pytest.mark.parametrize(("name", "used"), [("cuda:0", "cuda:0"), ("cuda:1", "cuda:1"), ("cuda", "cuda:0")])
def test_the_gpu_that_was_asked_for_is_used(name: str, used: str, gpus: Callable[[int], None]) -> None:
    """If it failed, training would leave the GPU idle, or take somebody else's."""
    gpus(2)
    chosen = choose_device(name, require_gpu=True)
    assert chosen.torch_device == torch.device(used)
    assert (chosen.requested, chosen.reason) == (name, None)
    assert chosen.description == f"Stand-in {used[-1]}"


def test_the_cpu_is_no_fallback_when_it_was_asked_for() -> None:
    """If it failed, a run on the CPU by choice would be warned about."""
    chosen = choose_device("cpu", require_gpu=False)
    assert chosen.torch_device == torch.device("cpu")
    assert chosen.reason is None
    assert chosen.description


def without_cuda_build(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(torch.backends.cuda, "is_built", lambda: False)


def without_driver(patch: pytest.MonkeyPatch) -> None:
    error = RuntimeError("Found no NVIDIA driver on your system. Please check ...")
    patch.setattr(torch.cuda, "init", raising(error))


def with_hidden_gpus(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(torch.cuda, "init", raising(RuntimeError("No CUDA GPUs are available")))
    patch.setenv("CUDA_VISIBLE_DEVICES", "7")


def with_old_driver(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(torch.cuda, "init", raising(RuntimeError("The NVIDIA driver is too old\nmore\nlines")))


def with_broken_build(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(torch.cuda, "init", raising(AssertionError("libcudart functions unavailable")))


def with_one_gpu_too_few(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(torch.cuda, "device_count", lambda: 1)


def with_full_gpu(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(torch, "ones", raising(torch.OutOfMemoryError("CUDA out of memory. Tried ...")))


def with_broken_gpu(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(torch, "ones", raising(RuntimeError("CUDA error: no kernel image is available\nhints")))


def with_miscounting_gpu(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(torch, "ones", lambda size, device: torch.zeros(size))


FAULTS = [
    (without_cuda_build, "has no CUDA support"),
    (without_driver, "no NVIDIA driver was found"),
    (with_hidden_gpus, "the NVIDIA driver shows no GPU; CUDA_VISIBLE_DEVICES='7'"),
    (with_old_driver, "CUDA did not start: The NVIDIA driver is too old"),
    (with_broken_build, "CUDA did not start: libcudart functions unavailable"),
    (with_one_gpu_too_few, "there is no cuda:1: the driver shows 1 GPU, counted from cuda:0"),
    (with_full_gpu, "cuda:1 is out of memory before training starts"),
    (with_broken_gpu, "cuda:1 failed at its first computation: CUDA error: no kernel image is available"),
    (with_miscounting_gpu, "cuda:1 computed a wrong result"),
]


@pytest.mark.parametrize(("fault", "reason"), FAULTS)
def test_without_the_gpu_the_cpu_trains_and_the_reason_is_told(
    fault: Callable[[pytest.MonkeyPatch], None],
    reason: str,
    gpus: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If it failed, a run would crash where it could train, or be slow without saying why."""
    gpus(2)
    fault(monkeypatch)
    chosen = choose_device("cuda:1", require_gpu=False)
    assert chosen.torch_device == torch.device("cpu")
    assert chosen.requested == "cuda:1"
    assert chosen.reason is not None
    assert reason in chosen.reason
    assert "\n" not in chosen.reason


@pytest.mark.parametrize(("fault", "reason"), FAULTS)
def test_a_required_gpu_that_is_missing_ends_the_job(
    fault: Callable[[pytest.MonkeyPatch], None],
    reason: str,
    gpus: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If it failed, a cluster would pay for a GPU job that crawls on a CPU."""
    gpus(2)
    fault(monkeypatch)
    with pytest.raises(PlatformError) as caught:
        choose_device("cuda:1", require_gpu=True)
    assert caught.value.exit_code is ExitCode.PLATFORM
    assert reason in str(caught.value)
    assert "BOW_REQUIRE_GPU=false" in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU: the fallback is not taken")
def test_this_machines_missing_gpu_is_noticed() -> None:
    """If it failed, the real torch would fail in a way that the stand-ins above do not show."""
    chosen = choose_device("cuda:0", require_gpu=False)
    assert chosen.torch_device == torch.device("cpu")
    assert chosen.reason


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
def test_this_machines_gpu_is_used() -> None:
    """If it failed, the real GPU would be refused by the probe."""
    chosen = choose_device("cuda:0", require_gpu=True)
    assert chosen.reason is None
    assert chosen.description == torch.cuda.get_device_name(0)
    assert (peak_device_memory(chosen) or 0) > 0


def test_the_cpu_counts_no_device_memory() -> None:
    """If it failed, a CPU run's report would claim GPU memory."""
    assert peak_device_memory(choose_device("cpu", require_gpu=False)) is None
