"""A file for one run, on a disk, for what memory would not hold."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from serving.errors import PlatformError

Place: TypeAlias = tuple[int, int]
"""Where something is in a file: its first byte, and how many there are."""


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


def unnamed_file(folder: Path) -> IO[bytes]:
    """A file without a name: however the process ends, it is gone. Raises OSError."""
    return tempfile.TemporaryFile(dir=folder, buffering=0)


class ScratchFile:
    """Takes arrays and gives their bytes back, to several threads if need be.

    Every method raises PlatformError where the disk is full or fails.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()
        self._end = 0

    def __enter__(self) -> Self:
        with cache_errors(self._folder):
            self._file = self._stack.enter_context(unnamed_file(self._folder))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def put(self, values: npt.NDArray[Any]) -> Place:
        """Writes an array, in one thread at a time; returns where it is."""
        place = (self._end, values.nbytes)
        self._end += values.nbytes
        data = memoryview(values.tobytes())
        with cache_errors(self._folder):
            while data:
                data = data[os.pwrite(self._file.fileno(), data, self._end - len(data)) :]
        return place

    def get(self, place: Place) -> npt.NDArray[np.uint8]:
        """Reads the bytes of an array."""
        start, size = place
        found = np.empty(size, np.uint8)
        data = found.data
        with cache_errors(self._folder):
            while data:
                number = os.preadv(self._file.fileno(), [data], start + size - len(data))
                if not number:
                    raise OSError(errno.EIO, "the file is shorter than what was written")
                data = data[number:]
        return found
