"""The processes of a server, watched by their parent; what they would do is told in a line or two."""

import io
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from serving.errors import ExitCode, PlatformError
from serving.server.log import Log
from serving.server.settings import server_settings
from serving.server.workers import Workers

REPOSITORY = Path(__file__).parents[3]
PROGRAM = """
import os, signal, socket, sys, time, types
from pathlib import Path
from serving.errors import ArtifactError, DataError, PlatformError
from serving.server.log import standard_error_log
from serving.server.settings import server_settings
from serving.server import workers

def work(*_, **__):
    {work}

sys.modules["serving.server.worker"] = types.SimpleNamespace(work=work)
workers.RESTART_SECONDS = 0.0
settings = server_settings({{"BOW_SERVE_WORKERS": "2"}})
log = standard_error_log("json", with_access=False)
sys.exit(workers.Workers(Path("bundle"), settings, socket.create_server(("127.0.0.1", 0)), log).run())
"""


def run(work: str, shell: str = 'exec "$@"') -> tuple[int, str]:
    """The exit code of a server whose workers do this, and what it said."""
    command = ["bash", "-c", shell, "bash", sys.executable, "-c", PROGRAM.format(work=work)]
    done = subprocess.run(command, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True, check=False, timeout=30)
    return done.returncode, done.stderr


def test_a_process_that_is_no_worker_is_not_replaced(tmp_path: Path) -> None:
    """If it failed, a container's first process would start a worker for each orphan that it is given."""
    ended = tmp_path / "ended"
    work = f"""
    while not Path({str(ended)!r}).exists(): time.sleep(0.01)
    time.sleep(0.3)
    os.kill(os.getppid(), signal.SIGTERM)
    time.sleep(0.3)"""
    assert run(work, f'(sleep 0.1; touch {ended}) & exec "$@"') == (0, "")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ("DataError('no text')", ExitCode.DATA),
        ("ArtifactError('damaged')", ExitCode.BUNDLE_DAMAGED),
        ("PlatformError('no storage')", ExitCode.PLATFORM),
        ("ValueError('a bug')", ExitCode.BUG),
    ],
)
def test_where_no_worker_can_begin_the_server_ends_as_it_did(error: str, code: ExitCode) -> None:
    """If it failed, a server that can never answer would go on starting workers, and nobody be told."""
    ended, said = run(f"raise {error}")
    assert ended == code
    assert "worker_died" not in said


def test_a_worker_that_is_killed_before_any_could_begin_is_replaced(tmp_path: Path) -> None:
    """If it failed, a moment without memory would be taken for a bundle that cannot be served."""
    killed = tmp_path / "killed"
    work = f"""
    if not Path({str(killed)!r}).exists():
        Path({str(killed)!r}).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.5)
    raise ArtifactError('damaged')"""
    ended, said = run(work)
    assert ended == ExitCode.BUNDLE_DAMAGED
    assert '"exit_code":-9' in said


def test_a_machine_without_a_temporary_folder_is_told_by_its_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it failed, nobody would find out what a container with a read-only disk lacks."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    log = Log(io.StringIO(), for_people=False)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        workers = Workers(tmp_path, server_settings({"BOW_SERVE_WORKERS": "2"}), listener, log)
        with pytest.raises(PlatformError, match=r"\(No such file or directory\); name one by TMPDIR"):
            workers.run()
