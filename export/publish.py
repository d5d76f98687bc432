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

from serving.bundle import FILES
from serving.errors import PlatformError, SettingsError
from serving.storage import published

LATEST = published.LATEST
"""The symbolic link to the bundle that was published last."""

FAILED = ".failed"
"""Behind the name of a bundle that did not pass the quality gate, where the one in service has the name."""

_STAGING = ".staging-"
"""What the name of a staging folder begins with. In it are, at one time or another:"""
_BUNDLE, _REPLACED = "bundle", "replaced"
"""The bundle until it is published, and the folder of the one that makes way for it, under its own name."""
_RENAME_EXCHANGE = 2
_AT_FDCWD = -100
_ADVICE = "set BOW_OUTPUT_DIR to another folder"


def prepare_folder(folder: Path) -> None:
    """Makes the output folder and tries whether it can be written, so that a long run need not find out last.

    Removes what killed jobs left there. Raises PlatformError where it cannot be written.
    """
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
        for leftover in folder.glob(f"{_STAGING}*"):
            _discard_if_abandoned(leftover)


@contextlib.contextmanager
def staging(output_dir: Path) -> Iterator[Path]:
    """A folder to make a bundle in, gone at the end unless it was published.

    What it is in is locked meanwhile, so that other jobs can tell it from one that a killed job left behind.
    """
    with storage_errors(output_dir), contextlib.ExitStack() as stack:
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
        stack.callback(_discard, folder)
        (folder / _BUNDLE).mkdir()
        yield folder / _BUNDLE


@contextlib.contextmanager
def alone(output_dir: Path, advice: str = _ADVICE) -> Iterator[None]:
    """Waits until no other job publishes here, and keeps others waiting meanwhile.

    What was found out about `latest` and the bundles beside it holds until the end.

    advice: what to do where the folder cannot be used, for the message.
    """
    with storage_errors(output_dir, advice):
        lock = os.open(output_dir, os.O_RDONLY)
    try:
        # Where the file system has no such locks, two jobs that end in the same moment may both be compared
        # with the bundle that was there before them.
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def publish(
    folder: Path, output_dir: Path, run_name: str, *, overwrite: bool, move_latest: bool = True
) -> Path:
    """Gives a bundle that was made in a staging folder its name, then moves `latest` to it.

    Returns where it is. Without `move_latest` the link stays where it is, and so does the bundle that it
    names: one that was to be overwritten keeps its name, and the new one gets it with FAILED behind it.

    With `overwrite`, a bundle of that name is exchanged for the new one in one step (on file systems that
    cannot do this there is a moment in which neither has the name). Raises SettingsError where one appeared
    meanwhile, PlatformError where the storage fails.
    """
    target = output_dir / run_name
    if not move_latest and overwrite and _is_latest(target):
        target = output_dir / f"{run_name}{FAILED}"
    with storage_errors(output_dir):
        for path in [*folder.iterdir(), folder]:
            sync(path)
        if not os.path.lexists(target):
            folder.rename(target)
        elif not overwrite:
            raise SettingsError(
                f"{target}: there was no such bundle when the job began, and there is one now; another job "
                "has the same BOW_RUN_NAME. Set another, or BOW_OVERWRITE=true"
            )
        else:
            _replace(folder, target)
        sync(output_dir)
    if move_latest:
        _point_latest(output_dir, run_name, folder.parent / LATEST)
    return target


def is_newer_than_latest(bundle: Path) -> bool:
    """Whether `latest` would move to a bundle that is published already; so where it names none."""
    return written(bundle.with_name(LATEST)) < written(bundle)


def point_latest_again(output_dir: Path, run_name: str) -> None:
    """Moves `latest` to a bundle that is published already, unless it is at a newer one.

    A job that was killed between the two steps of publishing leaves it behind; its retry comes here. So does
    one whose bundle did not pass the quality gate, and passes now: it is not marked any more.
    """
    with staging(output_dir) as folder:
        (output_dir / run_name / FILES.failed_gate).unlink(missing_ok=True)
        if is_newer_than_latest(output_dir / run_name):
            _point_latest(output_dir, run_name, folder.parent / LATEST)


def _replace(folder: Path, target: Path) -> None:
    if _exchange(folder, target):
        return  # `staging` removes the old one, which now has the folder's name
    aside = folder.with_name(_REPLACED)
    aside.mkdir()
    # `_discard` puts it back should this end between the two.
    target.rename(aside / target.name)
    folder.rename(target)


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


def _point_latest(output_dir: Path, run_name: str, fresh: Path) -> None:
    """Moves `latest` in one step; `fresh` is where the new link is made."""
    link = output_dir / LATEST
    try:
        if os.path.lexists(link) and not link.is_symlink():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        fresh.symlink_to(run_name)
        fresh.replace(link)
        sync(output_dir)
    except OSError as error:
        raise PlatformError(
            f"{link}: cannot be made to point at {run_name} ({error.strerror}); the bundle is "
            f"whole and in {output_dir / run_name}. Remove what has that name, or use a file system with "
            "symbolic links"
        ) from error


def _is_latest(bundle: Path) -> bool:
    """Whether `latest` names what is there under this name."""
    link = bundle.with_name(LATEST)
    return link.exists() and bundle.exists() and link.samefile(bundle)


def written(bundle: Path) -> int:
    """When a bundle's manifest, its last file, was written; 0 where there is none."""
    try:
        return (bundle / FILES.manifest).stat().st_mtime_ns
    except OSError:
        return 0


def _discard(folder: Path) -> None:
    """Removes a staging folder; a bundle that was to make way gets its name back if nothing has it."""
    with contextlib.suppress(OSError):
        for replaced in (folder / _REPLACED).iterdir():
            if not os.path.lexists(folder.parent / replaced.name):
                replaced.rename(folder.parent / replaced.name)
    shutil.rmtree(folder, ignore_errors=True)


def _discard_if_abandoned(path: Path) -> None:
    if not path.is_dir() or path.is_symlink():
        return
    try:
        lock = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _discard(path)
    except OSError:
        pass  # in use, or no such locks here
    finally:
        os.close(lock)


def sync(path: Path) -> None:
    """Waits until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def storage_errors(folder: Path, advice: str = _ADVICE) -> Iterator[None]:
    """Turns the system's errors into one that says which folder, and what to do: look at it, or `advice`."""
    try:
        yield
    except OSError as error:
        raise PlatformError(
            f"{error.filename or folder}: cannot be written ({error.strerror or error}); check the space "
            f"and the permissions of {folder}, or {advice}"
        ) from error
