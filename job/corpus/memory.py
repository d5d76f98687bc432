"""How this process uses memory."""

import contextlib
import ctypes
import resource
import sys
from pathlib import Path

import pyarrow as pa

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""As in glibc's malloc.h."""
_KEPT, _GIVEN_BACK = 1 << 30, 1 << 20
_SMALL = 3 << 28
"""Bytes of a process that need give nothing back: to get memory again takes time."""


def set_up_allocator(*, keep_freed: bool) -> None:
    """Has Arrow allocate as all else does, so that one's freed memory is the other's.

    With `keep_freed`, arrays of up to 1 GiB take the place of freed ones. The allocator would give each back
    to the system, which clears every page before it hands it out again: a fifth of the time from file to
    model. Without, arrays of 1 MiB are given back as they are freed, and all threads share what is smaller: a
    quarter less memory for a quarter more time. By itself the allocator would raise that size to 32 MiB once
    such an array was freed, and leave gaps in a heap of each thread.

    Nothing happens where the C library is not glibc.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    pa.set_memory_pool(pa.system_memory_pool())
    if keep_freed:
        mallopt(_M_MMAP_THRESHOLD, _KEPT)
        mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    else:
        mallopt(_M_MMAP_THRESHOLD, _GIVEN_BACK)
        mallopt(_M_ARENA_MAX, 1)


def give_back_freed_memory() -> None:
    """Gives what the allocators of the C library and of Arrow hold, and nobody uses, back to the system.

    A process of less than 768 MiB keeps it for its next arrays.
    """
    if _status("VmRSS") < _SMALL:
        return
    pa.default_memory_pool().release_unused()
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(0)


def peak_memory() -> int:
    """The most bytes of memory that this process has held."""
    # Linux hands getrusage's figure down from the process that started this one.
    unit = 1 if sys.platform == "darwin" else 1024
    return _status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _status(name: str) -> int:
    """A figure of Linux's about this process, in bytes; 0 where there is none."""
    with contextlib.suppress(OSError):
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        for line in lines:
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return 0
