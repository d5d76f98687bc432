"""What to train on: the GPU asked for, else the CPU and the reason. No other module names a device."""

import contextlib
import os
import platform
import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from serving.errors import PlatformError

OnnxProvider = tuple[str, dict[str, int]]
"""A provider's name and its options."""


@dataclass(frozen=True, kw_only=True)
class Device:
    """What training runs on, and why it is not what was asked for, where it is not."""

    torch_device: torch.device
    requested: str
    reason: str | None
    """Why the requested GPU is not used; None when the request was met."""
    description: str
    """The GPU's or the CPU's name, as its maker gives it."""

    @property
    def onnx_provider(self) -> OnnxProvider | None:
        """The execution provider of onnxruntime for the same GPU; None on the CPU, which needs no other."""
        if self.torch_device.type == "cpu":
            return None
        return "CUDAExecutionProvider", {"device_id": self.torch_device.index}


def choose_device(name: str, require_gpu: bool) -> Device:
    """The device called `name` (`cpu`, `cuda` or `cuda:N`), or the CPU when that GPU cannot be used.

    Raises `PlatformError` instead of going to the CPU when `require_gpu` is set.
    """
    if name == "cpu":
        reason: str | None = None
    else:
        gpu = torch.device("cuda", int(name.partition(":")[2] or 0))
        reason = _why_unusable(gpu)
        if reason is None:
            return Device(
                torch_device=gpu,
                requested=name,
                reason=None,
                description=torch.cuda.get_device_name(gpu),
            )
    if require_gpu:
        raise PlatformError(
            f"BOW_REQUIRE_GPU=true, but BOW_DEVICE={name} cannot be used: {reason or 'it is not a GPU'}; "
            "run this where there is such a GPU, or set BOW_REQUIRE_GPU=false to train on the CPU"
        )
    return Device(
        torch_device=torch.device("cpu"), requested=name, reason=reason, description=_cpu_description()
    )


@contextlib.contextmanager
def device_errors(device: Device) -> Iterator[None]:
    """Turns what the device fails with inside into a `PlatformError` that says what to do."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise PlatformError(
            f"{device.torch_device} ({device.description}) is out of memory: {_first_line(error)}; "
            "lower BOW_MAX_VOCABULARY or BOW_BATCH_SIZE, or use a larger GPU"
        ) from error
    except torch.AcceleratorError as error:
        raise PlatformError(
            f"{device.torch_device} ({device.description}) failed: {_first_line(error)}; run this elsewhere"
        ) from error
    except MemoryError as error:
        raise _out_of_memory(error) from error
    except RuntimeError as error:
        # torch has no type of its own for an allocation on the CPU that failed.
        if "not enough memory" in str(error) or "can't allocate memory" in str(error):
            raise _out_of_memory(error) from error
        raise


def peak_device_memory(device: Device) -> int | None:
    """The most bytes that tensors took on the GPU so far; None on the CPU, which counts none."""
    if device.torch_device.type == "cpu":
        return None
    return torch.cuda.max_memory_allocated(device.torch_device)


def free_memory(device: Device) -> int | None:
    """The bytes that are free on the GPU; None on the CPU, whose memory is the batches' own already."""
    if device.torch_device.type == "cpu":
        return None
    return torch.cuda.mem_get_info(device.torch_device)[0]


COPIES_AHEAD = 2
"""Copies whose work the GPU may have before it: the host waits for the one before them."""


class CopyStream:
    """Copies tensors to a GPU beside the work that it does, while the host goes on, a little ahead of it."""

    def __init__(self, device: Device) -> None:
        self._device = device.torch_device
        self._stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        self._begun: deque[torch.cuda.Event] = deque()

    def copy(self, tensor: torch.Tensor) -> "Copy":
        """Begins to copy; only from pinned memory does the host not wait for the end of it."""
        # All that the GPU was given to do before this copy: a slow GPU would have very many copies wait else.
        self._begun.append(torch.cuda.current_stream(self._device).record_event())
        if len(self._begun) > COPIES_AHEAD:
            self._begun.popleft().synchronize()
        pinned = tensor.pin_memory()
        with torch.cuda.stream(self._stream):
            return Copy(pinned.to(self._device, non_blocking=True), self._stream.record_event())


@dataclass(frozen=True)
class Copy:
    """A tensor on its way to a GPU."""

    tensor: torch.Tensor
    event: torch.cuda.Event
    """That it has arrived."""

    def arrived(self) -> torch.Tensor:
        """The tensor; all further work on the GPU waits for it, and its memory is kept until that is done."""
        current = torch.cuda.current_stream(self.tensor.device)
        current.wait_event(self.event)
        self.tensor.record_stream(current)
        return self.tensor


def recorded(work: Callable[[], torch.Tensor], device: torch.device) -> Callable[[], torch.Tensor]:
    """Work that is done with the same tensors each time; on a GPU, launched at once from the second time on.

    What it returns is at the same place each time.
    """
    return _Recording(work) if device.type == "cuda" else work


class _Recording:
    def __init__(self, work: Callable[[], torch.Tensor]) -> None:
        self._work = work
        self._times = 0
        self._graph = torch.cuda.CUDAGraph()

    def __call__(self) -> torch.Tensor:
        self._times += 1
        if self._times == 1:
            return self._work()  # which loads all that it needs: that cannot be recorded
        if self._times == 2:
            with torch.cuda.graph(self._graph):
                self._result = self._work()
        self._graph.replay()
        return self._result


def _why_unusable(gpu: torch.device) -> str | None:
    """Why `gpu` cannot be used, or None when a first computation on it gave the right result."""
    if not torch.backends.cuda.is_built():  # type: ignore[no-untyped-call]
        return f"this build of torch ({torch.__version__}) has no CUDA support; install the CUDA build"
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]
    # torch raises an AssertionError where its CUDA libraries cannot be loaded.
    except (RuntimeError, AssertionError) as error:
        return _why_cuda_did_not_start(error)
    count = torch.cuda.device_count()
    if gpu.index >= count:
        return (
            f"there is no {gpu}: the driver shows {count} GPU{'' if count == 1 else 's'}, counted from cuda:0"
        )
    try:
        probe = torch.ones(1024, device=gpu)
        total = float((probe + probe).sum())  # waits for the GPU
    except torch.OutOfMemoryError:
        return f"{gpu} is out of memory before training starts: other processes hold it"
    except RuntimeError as error:
        return f"{gpu} failed at its first computation: {_first_line(error)}"
    if total != 2048:
        return f"{gpu} computed a wrong result at its first computation: 1024 times 2 gave {total}"
    return None


def _why_cuda_did_not_start(error: Exception) -> str:
    text = str(error)
    if "no NVIDIA driver" in text:
        return "no NVIDIA driver was found; a container needs the NVIDIA container toolkit and --gpus all"
    if "No CUDA GPUs are available" in text:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        hint = (
            "" if visible is None else f"; CUDA_VISIBLE_DEVICES={visible!r} hides those that it does not name"
        )
        return f"the NVIDIA driver shows no GPU{hint}"
    return f"CUDA did not start: {_first_line(error)}"


def _out_of_memory(error: Exception) -> PlatformError:
    return PlatformError(
        f"this machine is out of memory: {_first_line(error)}; lower BOW_MAX_VOCABULARY or BOW_BATCH_SIZE, "
        "or use a machine with more memory"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _cpu_description() -> str:
    """The processor's name as Linux gives it, else its architecture."""
    cpuinfo = Path("/proc/cpuinfo")
    text = cpuinfo.read_text(errors="replace") if cpuinfo.exists() else ""
    model = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return model[1].strip() if model else platform.machine()
