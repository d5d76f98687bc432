"""What the machine allows: how fast it copies, and how fast it fetches rows from places in no order."""

import platform
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from job.device import choose_device

COPIED = 1 << 28
"""Bytes: more than any cache holds."""
LABELS = 2
ROWS = (1 << 12, 1 << 20, 1 << 23)
"""Rows of the tables that are fetched from: within the nearest cache, in the last one, in memory alone."""
FETCHED = 1 << 20


def machine(num_threads: int) -> dict[str, Any]:
    """Where this was measured."""
    cpu = choose_device("cpu", require_gpu=False).description
    return {
        "cpu": cpu,
        "system": f"{platform.system()} on {platform.machine()}",
        "num_threads": num_threads,
        "python": platform.python_version(),
    }


def measure(num_threads: int) -> dict[str, Any]:
    """Bytes a second copied, and nanoseconds a row of two float32 fetched, by the size of the table."""
    torch.set_num_threads(num_threads)
    fetched = {}
    for rows in ROWS:
        table = torch.zeros(rows, LABELS)
        places = torch.randint(0, rows, (FETCHED,), dtype=torch.int32)
        found = torch.empty(FETCHED, LABELS)
        fetched[rows * LABELS * 4] = (
            1e9 / FETCHED * _best(partial(torch.index_select, table, 0, places, out=found))
        )
    return {
        "copied_bytes_per_second": copied_bytes_per_second(torch.device("cpu")),
        "nanoseconds_per_row_by_table_bytes": fetched,
    }


def copied_bytes_per_second(device: torch.device) -> float:
    """Bytes read and written in a second by a copy within a device's memory."""
    source = torch.ones(COPIED // 4, device=device)
    sink = torch.empty_like(source)

    def copy() -> None:
        sink.copy_(source)
        float(sink[-1])  # waits for the device

    return 2 * COPIED / _best(copy)


def _best(call: Callable[[], object], rounds: int = 7) -> float:
    best = float("inf")
    for _ in range(rounds):
        begin = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - begin)
    return best
