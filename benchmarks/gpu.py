"""What a GPU allows, where one is at hand."""

from typing import Any

from benchmarks.limits import copied_bytes_per_second
from job.device import choose_device


def reason_for_none() -> str | None:
    """Why no GPU is measured; None where one is at hand."""
    return choose_device("cuda:0", require_gpu=False).reason


def limits() -> dict[str, Any]:
    """The GPU's name, and the bytes a second that it copies from memory to memory."""
    device = choose_device("cuda:0", require_gpu=True)
    return {
        "name": device.description,
        "copied_bytes_per_second": copied_bytes_per_second(device.torch_device),
    }
