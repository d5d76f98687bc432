"""Runs in processes of their own: the same bytes everywhere, and a clean end when one is stopped."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from serving.bundle import FILES, open_bundle
from serving.errors import ExitCode
from serving.parity.rungs import check
from serving.parity.verify import verify

pytestmark = pytest.mark.system

REPOSITORY = Path(__file__).parents[1]
WORDS = [f"w{number}é" for number in range(60)]


def write_data(path: Path, num_rows: int) -> Path:
    rows = [
        f"{WORDS[row * 7 % 60]} {WORDS[row % 5]} {WORDS[row * row % 60]}\tlabel {row % 5}"
        for row in range(num_rows)
    ]
    path.write_text("text\tlabel\n" + "\n".join(rows) + "\n")
    return path


def start(checkout: Path, output_dir: Path, data: Path, **settings: str) -> subprocess.Popen[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("BOW_", "PYTHON"))}
    environ |= {
        "PYTHONPATH": str(checkout),
        "PYTHONSAFEPATH": "1",
        "BOW_TRAIN_DATA": str(data),
        "BOW_OUTPUT_DIR": str(output_dir),
        "BOW_RUN_NAME": "run",
        "BOW_DEVICE": "cpu",
        "BOW_NUM_THREADS": "1",
        **settings,
    }
    return subprocess.Popen(
        [sys.executable, "-m", "job"],
        env=environ,
        cwd=checkout,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def copy_of_the_packages(folder: Path) -> Path:
    for package in ("job", "export", "serving"):
        shutil.copytree(REPOSITORY / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def test_two_checkouts_give_the_same_bytes(tmp_path: Path) -> None:
    """If it failed, nobody could rebuild a bundle and get its ID, or a file would tell where it was made."""
    here, there = copy_of_the_packages(tmp_path / "here"), copy_of_the_packages(tmp_path / "a" / "folder")
    runs = []
    for number, checkout in enumerate((here, there)):
        data = write_data(checkout / "train.tsv", 300)
        settings = {"PYTHONHASHSEED": str(number + 1), "BOW_VALIDATION_SPLIT": "0.2", "BOW_INIT": "uniform"}
        runs.append((checkout, start(checkout, checkout / f"out{number}", data, **settings)))
    for _, process in runs:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    one, other = (checkout / f"out{number}" / "run" for number, (checkout, _) in enumerate(runs))
    for name in [*FILES.hashed, FILES.manifest]:
        content = (one / name).read_bytes()
        assert content == (other / name).read_bytes(), name
        for path in (tmp_path, REPOSITORY, Path.home(), Path(sys.prefix)):
            assert str(path).encode() not in content or path == Path("/"), name
    assert open_bundle(one).bundle_id == open_bundle(other).bundle_id


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_job_with_code_75_and_no_traceback(tmp_path: Path, stop: signal.Signals) -> None:
    """If it failed, Ctrl-C would print a traceback, and a scheduler would not know to run the job again."""
    data = write_data(tmp_path / "train.tsv", 2000)
    process = start(REPOSITORY, tmp_path / "out", data, BOW_EPOCHS="100000", BOW_LOG_FORMAT="console")
    assert process.stderr is not None
    for line in process.stderr:
        if " model " in line:
            break
    time.sleep(0.3)
    process.send_signal(stop)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == ExitCode.INTERRUPTED
    assert "Traceback" not in errors
    kept = tmp_path / "out" / ".run.checkpoint"
    found = re.search(
        r"error: interrupted by (SIG\w+): what was learned in ([\d,]+) steps is in (.*); run", errors
    )
    assert found is not None, errors
    assert (found[1], found[3]) == (stop.name, str(kept))
    assert list((tmp_path / "out").iterdir()) == [kept]


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_training_ends_the_job_at_once(tmp_path: Path, stop: signal.Signals) -> None:
    """If it failed, a pod that is evicted while it imports or reads would be killed, or tell nothing."""
    data = write_data(tmp_path / "train.tsv", 200_000)
    process = start(REPOSITORY, tmp_path / "out", data, BOW_LOG_FORMAT="console")
    assert process.stderr is not None
    for line in process.stderr:
        if " device " in line:
            break
    process.send_signal(stop)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == ExitCode.INTERRUPTED
    assert errors.endswith(f"error: interrupted by {stop.name}: nothing was published; run it again\n")
    assert list(tmp_path.glob("out/*")) == []


def test_a_signal_while_the_job_imports_ends_it_with_code_75(tmp_path: Path) -> None:
    """If it failed, a pod that is evicted right after its start would count as failed."""
    data = write_data(tmp_path / "train.tsv", 20)
    codes = []
    for wait in (0.15, 0.3, 0.6, 1.0):
        process = start(REPOSITORY, tmp_path / "out", data)
        while process.poll() is None and not _handles_sigterm(process.pid):
            time.sleep(0.005)
        time.sleep(wait)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
        assert "Traceback" not in errors
        codes.append(process.returncode)
    assert set(codes) <= {ExitCode.INTERRUPTED, ExitCode.DONE}
    assert ExitCode.INTERRUPTED in codes


def _handles_sigterm(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(re.search(r"SigCgt:\s*(\w+)", status)[1], 16)  # type: ignore[index]
    return bool(caught >> (signal.SIGTERM - 1) & 1)


def test_a_signal_does_not_wait_for_objects_that_are_fetched(tmp_path: Path) -> None:
    """If it failed, a pod that is evicted while it copies its data would be killed before it says so."""
    code = (
        "import runpy, time; from fsspec.implementations.memory import MemoryFileSystem\n"
        "class Slow(MemoryFileSystem):\n"
        "    def get_file(self, *_, **__):\n"
        "        print('fetching', flush=True)\n"
        "        time.sleep(600)\n"
        "import fsspec; fsspec.register_implementation('memory', Slow, clobber=True)\n"
        "Slow().pipe('/bucket/a.tsv', b'text'); Slow().pipe('/bucket/b.tsv', b'text')\n"
        "runpy.run_module('job', run_name='__main__', alter_sys=True)"
    )
    environ = {"BOW_TRAIN_DATA": "memory://bucket/", "BOW_OUTPUT_DIR": str(tmp_path / "out")}
    environ |= {"BOW_RUN_NAME": "run", "BOW_LOG_FORMAT": "console"}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("BOW_")}
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env=inherited | environ | {"TMPDIR": str(tmp_path)},
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == ExitCode.INTERRUPTED
    assert errors.endswith("error: interrupted by SIGTERM: nothing was published; run it again\n")
    assert list(tmp_path.glob("bowsprit-*")) == []


def test_a_second_signal_ends_the_job_without_waiting(tmp_path: Path) -> None:
    """If it failed, who presses Ctrl-C twice would wait for a checkpoint on a slow disk."""
    code = (
        "import signal, time; from job.stopping import ALWAYS, Stop; stop = Stop(); stop.on(*ALWAYS)\n"
        "with stop.deferred():\n    print('ready', flush=True)\n    time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=REPOSITORY, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=10) == ExitCode.INTERRUPTED


def test_a_killed_job_leaves_nothing_that_looks_like_a_bundle(tmp_path: Path) -> None:
    """If it failed, a node that dies could leave a broken model where the server looks for one."""
    output, data = tmp_path / "out", write_data(tmp_path / "train.tsv", 500)
    first = start(REPOSITORY, output, data)
    _, errors = first.communicate(timeout=60)
    assert first.returncode == 0, errors
    for wait in (0.0, 0.05, 0.2, 0.4):
        process = start(REPOSITORY, output, data, BOW_OVERWRITE="true", BOW_SEED=str(2 + int(wait * 100)))
        assert process.stderr is not None
        for line in process.stderr:
            if '"epoch"' in line:
                break
        time.sleep(wait)
        process.kill()
        process.communicate(timeout=60)
        check(verify(output / "latest").rungs, "latest")
        for path in output.iterdir():
            if (path / FILES.manifest).exists():
                check(verify(path).rungs, str(path))
    last = start(REPOSITORY, output, data, BOW_OVERWRITE="true")
    _, errors = last.communicate(timeout=60)
    assert last.returncode == 0, errors
    assert sorted(path.name for path in output.iterdir()) == ["latest", "run"]


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize("streams", [">/dev/full", "2>/dev/full", "<&- >&- 2>&-", "2>&1 | head -1"])
def test_a_run_whose_output_nobody_takes_goes_on(tmp_path: Path, streams: str, log_format: str) -> None:
    """If it failed, a full log disk or a closed terminal would cost hours of training."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("BOW_")}
    environ |= {"BOW_TRAIN_DATA": "tutorial", "BOW_OUTPUT_DIR": str(tmp_path), "BOW_LOG_FORMAT": log_format}
    command = f"set -o pipefail; {sys.executable} -m job {streams}"
    subprocess.run(
        ["bash", "-c", command],
        cwd=REPOSITORY,
        env=environ | {"BOW_DEVICE": "cpu", "BOW_RUN_NAME": "run"},
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert open_bundle(tmp_path / "run").bundle_id


def test_help_on_a_full_disk_ends_in_74() -> None:
    """If it failed, half a help page would pass for the whole, or look like a bug of ours."""
    command = f"{sys.executable} -m job --help >/dev/full"
    done = subprocess.run(command, shell=True, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == ExitCode.PLATFORM
    assert "standard output: cannot be written (No space left on device)" in done.stderr


def test_a_closed_pipe_ends_help_quietly(tmp_path: Path) -> None:
    """If it failed, `python -m job --help | head` would end in a traceback."""
    command = f"{sys.executable} -m job --help | head -1"
    done = subprocess.run(command, shell=True, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: ")
    assert done.stderr == ""
