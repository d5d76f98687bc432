"""One job at a time under a run's name: whoever comes second is told who holds it."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from serving.errors import PlatformError


@contextmanager
def only_job(output_dir: Path, run_name: str) -> Iterator[None]:
    """Holds the name within an output folder; however the process ends, it is free again.

    Raises PlatformError where another job holds it. On a file system without locks nobody is kept out; the
    bundle is whole all the same, since it gets its name in one step.
    """
    path = output_dir / f".{run_name}.lock"
    with contextlib.ExitStack() as stack:
        try:
            descriptor = _locked(path, stack)
        except BlockingIOError:
            raise PlatformError(
                f"{output_dir / run_name}: another job is making it ({_holder(path)}); wait until it has "
                "ended, or set another BOW_RUN_NAME"
            ) from None
        except OSError:
            descriptor = None
        if descriptor is not None:
            stack.callback(path.unlink, missing_ok=True)
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
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        stack.callback(os.close, descriptor)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The last holder removes the file: what was opened just before is no lock any more.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                return descriptor


def _holder(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text() or "it has just begun"
    return "it has just ended"
