"""Publishing: a bundle appears whole or not at all, and `latest` never points at anything but a whole one."""

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from serving.errors import PlatformError, SettingsError

LATEST = "latest"
"""The symbolic link to the bundle that was published last."""

_STAGING = ".staging-"
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100


def prepare_folder(folder: Path) -> None:
    """Makes the output folder and tries whether it can be written, so that a long run need not find out last.

    Removes what killed jobs left there. Raises PlatformError where it cannot be written.
    """
    with _storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        for leftover in folder.glob(f"{_STAGING}*"):
            _remove_if_abandoned(leftover)


@contextlib.contextmanager
def staging(output_dir: Path) -> Iterator[Path]:
    """A folder of this process's own beside the bundles, gone at the end unless it was published.

    It is locked while in use, so that other jobs can tell it from one that a killed job left behind.
    """
    with _storage_errors(output_dir), contextlib.ExitStack() as stack:
        while True:
            folder = Path(tempfile.mkdtemp(prefix=_STAGING, dir=output_dir))
            lock = os.open(folder, os.O_RDONLY)
            stack.callback(os.close, lock)
            # Where the file system has no such locks nobody removes anything.
            with contextlib.suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX)
            # Another job may have taken it for abandoned before it was locked.
            if folder.exists():
                break
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        yield folder


def publish(folder: Path, output_dir: Path, run_name: str, *, overwrite: bool) -> Path:
    """Gives a finished bundle its name, then moves `latest` to it; returns where it is.

    With `overwrite`, a bundle of that name is exchanged for the new one in one step (on file systems that
    cannot do this there is a moment in which neither has the name). Raises SettingsError where one appeared
    meanwhile, PlatformError where the storage fails.
    """
    target = output_dir / run_name
    with _storage_errors(output_dir):
        # mkdtemp lets its owner alone in.
        folder.chmod(0o755)
        for path in [*folder.iterdir(), folder]:
            _sync(path)
        if not os.path.lexists(target):
            folder.rename(target)
        elif not overwrite:
            raise SettingsError(
                f"{target}: there was no such bundle when the job began, and there is one now; another job "
                "has the same BOW_RUN_NAME. Set another, or BOW_OVERWRITE=true"
            )
        else:
            _replace(folder, target)
        _sync(output_dir)
    try:
        _point(output_dir / LATEST, run_name)
        _sync(output_dir)
    except OSError as error:
        raise PlatformError(
            f"{output_dir / LATEST}: cannot be made to point at {run_name} ({error.strerror}); the bundle is "
            f"whole and in {target}. Remove what has that name, or use a file system with symbolic links"
        ) from error
    return target


def _replace(folder: Path, target: Path) -> None:
    if _exchange(folder, target):
        return  # `staging` removes the old one, which now has the folder's name
    aside = target.with_name(f".{target.name}.replaced")
    shutil.rmtree(aside, ignore_errors=True)
    target.rename(aside)
    folder.rename(target)
    shutil.rmtree(aside, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Swaps two names in one step; False where the system or the file system does not offer it."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    if renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL):
        return False
    raise OSError(code, os.strerror(code))


def _point(link: Path, target: str) -> None:
    """Moves a symbolic link in one step."""
    fresh = link.with_name(f"{_STAGING}{os.getpid()}-{link.name}")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(target)
    try:
        fresh.replace(link)
    except OSError:
        fresh.unlink()
        raise


def _remove_if_abandoned(path: Path) -> None:
    if not path.is_dir() or path.is_symlink():
        return
    try:
        lock = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(path, ignore_errors=True)
    except OSError:
        pass  # in use, or no such locks here
    finally:
        os.close(lock)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _storage_errors(folder: Path) -> Iterator[None]:
    """Turns the system's errors into one that says which folder, and what to do."""
    try:
        yield
    except OSError as error:
        raise PlatformError(
            f"{error.filename or folder}: cannot be written ({error.strerror or error}); check the space "
            f"and the permissions of {folder}, or set BOW_OUTPUT_DIR to another folder"
        ) from error
