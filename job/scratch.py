"""Arrays and files for one run, on a disk, where memory would not hold them."""

import mmap
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TypeVar

import numpy as np
import numpy.typing as npt

from serving.errors import PlatformError

S = TypeVar("S", bound=np.generic)


@contextmanager
def cache_errors(folder: Path) -> Iterator[None]:
    """Turns what the disk under BOW_CACHE_DIR can raise into PlatformError, with what to do."""
    try:
        yield
    except OSError as error:
        raise PlatformError(
            f"BOW_CACHE_DIR={folder}: cannot be written or read ({error.strerror or error}); "
            "free some space, name another folder, or unset BOW_CACHE_DIR"
        ) from error


def scratch_file(folder: Path) -> IO[bytes]:
    """A file without a name: however the process ends, it is gone. Raises OSError."""
    return tempfile.TemporaryFile(dir=folder, buffering=0)


def scratch_array(size: int, dtype: type[S], folder: Path | None) -> npt.NDArray[S]:
    """An array [size] to fill: in memory, or in a file in a folder, which memory holds as far as it can.

    Raises PlatformError where the disk has no room for it: what is written to it later then always fits.
    """
    num_bytes = size * np.dtype(dtype).itemsize
    if folder is None or not num_bytes:
        return np.empty(size, dtype)
    with cache_errors(folder), scratch_file(folder) as file:
        # Where there is no such call (macOS), a full disk ends the process by a signal.
        allocate = getattr(os, "posix_fallocate", lambda file, _, size: os.truncate(file, size))
        allocate(file.fileno(), 0, num_bytes)
        return np.frombuffer(mmap.mmap(file.fileno(), num_bytes), dtype)
