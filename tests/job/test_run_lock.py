import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from job.run_lock import only_job
from serving.errors import PlatformError

HOLD = """
import sys
from pathlib import Path
from job.run_lock import only_job
with only_job(Path(sys.argv[1]), "night"):
    print("held", flush=True)
    sys.stdin.read()
"""
REPOSITORY = Path(__file__).parents[2]


def test_the_second_job_of_a_name_is_told_who_holds_it(tmp_path: Path) -> None:
    """If it failed, two jobs would write one run's checkpoint in turns."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=REPOSITORY,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        message = rf"night: another job is making it \(process {other.pid} on"
        with pytest.raises(PlatformError, match=message), only_job(tmp_path, "night"):
            pass
        with only_job(tmp_path, "another"):
            pass
        other.kill()
        other.wait()
    with only_job(tmp_path, "night"):
        assert str(os.getpid()) in (tmp_path / ".night.lock").read_text()


@pytest.mark.parametrize("readable", [True, False])
def test_another_users_job_keeps_others_out_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, readable: bool
) -> None:
    """If it failed, two people's jobs of one name would train at once, one of them in vain."""
    opened = os.open

    def refuse(path: Path, flags: int, *mode: int) -> int:  # a stand-in for a file of another user's
        if flags & os.O_CREAT or not readable:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return opened(path, flags, *mode)

    with only_job(tmp_path, "night"):
        monkeypatch.setattr("job.run_lock.os.open", refuse)
        message = "night: another job is making it" if readable else r"\.night\.lock: .* remove the file"
        with pytest.raises(PlatformError, match=message), only_job(tmp_path, "night"):
            pass
    if readable:  # what a job that was killed has left
        (tmp_path / ".night.lock").write_text("")
        with only_job(tmp_path, "night"), pytest.raises(PlatformError), only_job(tmp_path, "night"):
            pass


def test_the_name_is_free_again_afterwards(tmp_path: Path) -> None:
    """If it failed, a run that failed could not be tried again, or files would pile up."""
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), only_job(tmp_path, "night"):
            raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


def test_a_lock_that_was_removed_meanwhile_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it failed, a job that opened the file just before its holder removed it would hold nothing."""
    path = tmp_path / ".night.lock"
    path.write_text("")
    is_first = True

    def open_and_remove(*arguments: object) -> int:
        nonlocal is_first
        descriptor: int = opened(*arguments)
        if is_first:
            path.unlink()
            is_first = False
        return descriptor

    opened = os.open
    monkeypatch.setattr("job.run_lock.os.open", open_and_remove)
    with only_job(tmp_path, "night"):
        assert path.read_text().startswith("process ")
