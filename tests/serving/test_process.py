"""The commands as processes: a signal at any moment, and standard streams that are closed."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from serving.errors import ExitCode
from tests.serving.test_main import TIMEOUT, environ, labels

INTERRUPTED = (ExitCode.INTERRUPTED, b"interrupted\n")
# As modules in C do, it makes an error of its own of what is raised in it.
LEFT_IN_THE_MIDDLE = """
import os, signal
try:
    os.kill(os.getpid(), signal.{name})
except BaseException:
    raise ImportError("initialization failed") from None
"""


@pytest.mark.parametrize(
    ("command", "module"),
    [
        ("serving verify", "msgspec"),
        ("serving verify", "numpy"),
        ("serving verify --against http://localhost:1", "ssl"),
        ("serving verify --torch", "torch"),
        ("serving predict", "onnxruntime"),
        ("serving serve", "pydantic"),
        ("serving serve", "uvloop"),
        ("export triton models", "msgspec"),
    ],
)
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_during_imports_ends_in_75(
    trained: Path, tmp_path: Path, command: str, module: str, name: str
) -> None:
    """If it failed, Ctrl-C soon after the start would give a traceback, or end the process by SIGSEGV."""
    (tmp_path / f"{module}.py").write_text(LEFT_IN_THE_MIDDLE.format(name=name))
    package, subcommand, *more = command.split()
    found = subprocess.run(
        [sys.executable, "-m", package, subcommand, str(trained), *more],
        env=environ(tmp_path) | {"BOW_SERVE_PORT": "0"},
        cwd=tmp_path,
        capture_output=True,
        check=False,
        timeout=TIMEOUT,
    )
    assert found.returncode == ExitCode.INTERRUPTED, found.stderr
    assert found.stderr.endswith(b"interrupted\n")
    assert b"Error" not in found.stderr


@pytest.mark.parametrize("moment", range(0, 320, 40))
def test_a_signal_between_two_imports_ends_in_75(trained: Path, moment: int) -> None:
    """If it failed, what is imported only when it is needed would be left in the middle by Ctrl-C."""
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "serving", "predict", str(trained)],
        env=environ(),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert process.stderr is not None
    with process.stderr as told:
        for line in told:
            if line.endswith(b"| serving.process\n"):
                break
        lines = []
        for number, line in enumerate(told):
            lines.append(line)
            if number == moment:
                process.send_signal(signal.SIGINT)
    code = process.wait(TIMEOUT)
    assert code == ExitCode.DONE or (code, lines[-1]) == INTERRUPTED, b"".join(lines[-5:])


@pytest.mark.parametrize(
    ("arguments", "closed", "shown"),
    [("predict", "2>&-", 1), ("predict", ">&-", 0), ("predict", "<&-", 0), ("verify", ">&- <&-", 0)],
)
def test_closed_streams_are_as_dev_null(trained: Path, arguments: str, closed: str, shown: int) -> None:
    """If it failed, a daemon that starts a command without them would have it fail, and not be told why."""
    found = subprocess.run(
        ["bash", "-c", f'echo w1 | "$0" -m serving {arguments} "$1" {closed}', sys.executable, str(trained)],
        env=environ(),
        capture_output=True,
        check=False,
        timeout=TIMEOUT,
    )
    assert (found.returncode, found.stderr) == (0, b"")
    assert len(labels(found.stdout)) == shown
