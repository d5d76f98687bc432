"""One job at a time under a run's name: whoever comes second is told who holds it."""

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from serving.errors import PlatformError


@contextmanager
def only_job(folder: Path, run_name: str) -> Iterator[None]:
    """Holds the name within a folder of bundles or checkpoints; however the process ends, it is free again.

    Raises PlatformError where another job holds it, or may: the file is another user's and cannot be locked.
    On a file system without locks, and in object storage, nobody is kept out; the bundle is whole all the
    same, since it gets its name in one step, and whoever comes second learns then that the name is taken.
    """
    path = folder / f".{run_name}.lock"
    with contextlib.ExitStack() as stack:
        try:
            descriptor = _locked(path, stack)
        except BlockingIOError:
            raise PlatformError(
                f"{folder / run_name}: another job is making it ({_holder(path)}); wait until it has "
                "ended, or set another BOW_RUN_NAME"
            ) from None
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EBADF):  # EBADF: NFS locks only what may be written
                raise PlatformError(
                    f"{path}: another user's job has made it, and may be at work ({error.strerror}); wait "
                    "until it has ended, or set another BOW_RUN_NAME; where none runs, remove the file"
                ) from None
            descriptor = None
        if descriptor is not None:
            stack.callback(_remove, path)
            since = datetime.now(UTC).isoformat(timespec="seconds")
            with contextlib.suppress(OSError):  # on a full disk it keeps others out all the same
                os.ftruncate(descriptor, 0)
                os.write(
                    descriptor, f"process {os.getpid()} on {socket.gethostname()} since {since}".encode()
                )
        yield


def _locked(path: Path, stack: contextlib.ExitStack) -> int:
    """A descriptor of the locked file, closed at the end; raises BlockingIOError where it is taken."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except PermissionError:  # another user's file, which may be locked by who may read it
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The last holder removes the file: what was opened just before is no lock any more.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # another user's, in a folder where one removes only one's own
        path.unlink()


def _holder(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text() or "it has just begun"
    return "it has just ended"
