"""`python -m serving` as a user runs it."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from serving.bundle import FILES, open_bundle
from serving.errors import ExitCode
from serving.main import main
from serving.server.settings import ServerSettings
from tests.serving.conftest import REPOSITORY
from tests.serving.damage import added, in_initializer, in_lines, in_manifest, seal_again, swap

TIMEOUT = 60


def environ(*folders: Path) -> dict[str, str]:
    """The environment of the command; modules in the folders come before all others."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "BOW_"))}
    return ours | {"PYTHONPATH": os.pathsep.join(map(str, (*folders, REPOSITORY))), "PYTHONSAFEPATH": "1"}


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "serving", *map(str, arguments)]


def run(*arguments: object, **options: Any) -> "subprocess.CompletedProcess[bytes]":
    """The command in a process of its own."""
    options = {"input": b"", "capture_output": True, "env": environ(), "timeout": TIMEOUT} | options
    return subprocess.run(command(*arguments), check=False, **options)


def start(*arguments: object) -> "subprocess.Popen[bytes]":
    """The command with pipes at its ends; it is killed should it hang."""
    process = subprocess.Popen(
        command(*arguments),
        env=environ(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    killer = threading.Timer(TIMEOUT, process.kill)
    killer.daemon = True
    killer.start()
    return process


def labels(output: bytes) -> list[str]:
    return [json.loads(line)["predictions"][0]["label"] for line in output.splitlines()]


# --- verify ---------------------------------------------------------------------------------------------


def test_verify_shows_the_ladder_and_the_id(trained: Path) -> None:
    """If it failed, a user would not see that the bundle holds, or which one it is."""
    found = run("verify", trained)
    assert (found.returncode, found.stderr) == (0, b"")
    lines = found.stdout.decode().splitlines()
    names = [line.split("  ")[0] for line in lines[2:-2]]
    assert names == [
        *("reference", FILES.weights, FILES.bow_model, FILES.text_model, FILES.torchscript, FILES.text_model),
        "bow.onnx, CPUExecutionProvider",
    ]
    assert all(line.endswith("ok") for line in lines[2:-2])
    assert lines[-2] == f"{trained} holds: all {len(names)} checks"
    assert lines[-1] == f"bundle {open_bundle(trained).bundle_id}"


def test_verify_expects_an_id(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If it failed, a deployment could not pin its model."""
    assert main(["verify", str(trained), "--expect", open_bundle(trained).bundle_id]) == 0
    capsys.readouterr()
    assert main(["verify", str(trained), "--expect", "0" * 64]) == ExitCode.BUNDLE_DAMAGED
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith(f"error: {trained}: expected the bundle 000")
    assert shown.err.count("\n") == 1


def test_verify_adds_torchscript_where_it_is_asked_for(
    trained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """If it failed, `--torch` would check nothing."""
    assert main(["verify", str(trained), "--torch"]) == 0
    shown = capsys.readouterr().out
    assert "model.ts, forward" in shown
    assert "model.ts, score" in shown
    assert f"holds: all {len(shown.splitlines()[2:-2])} checks" in shown


def test_verify_of_a_model_that_answers_otherwise_ends_in_5_after_the_table(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """If it failed, a script would go on with a model that is not the trained one."""
    in_initializer(FILES.bow_model, "weight", added((3, 5), 1e-3))(copy)
    seal_again(copy)
    assert main(["verify", str(copy)]) == ExitCode.PARITY_FAILED == 5
    shown = capsys.readouterr()
    (line,) = [line for line in shown.out.splitlines() if line.startswith("bow.onnx ") and "weights" in line]
    assert line.split() == ["bow.onnx", "1,520", "weights", "1.0e-03", "FAILS"]
    assert "holds: all" not in shown.out
    assert shown.err.startswith(f"error: {copy}: 2 of 7 checks failed; ")
    assert len(shown.out.splitlines()[2:]) == 7
    assert shown.out.count("FAILS\n") == 2
    assert "\n  bow.onnx on 1,520 weights: 1 differ\n" in shown.err


def test_verify_of_damaged_files_ends_in_6(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If it failed, a script could not tell damage from a wrong argument."""
    in_lines(FILES.labels, swap(0, 1))(copy)
    assert main(["verify", str(copy)]) == ExitCode.BUNDLE_DAMAGED == 6
    seal_again(copy)
    assert main(["verify", str(copy)]) == ExitCode.BUNDLE_DAMAGED
    in_manifest(lambda manifest: manifest.update(schema_version=2))(copy)
    assert main(["verify", str(copy)]) == ExitCode.BUNDLE_DAMAGED
    assert main(["predict", str(copy)]) == ExitCode.BUNDLE_DAMAGED
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("error: ") == shown.err.count("\n") == 4


# --- predict --------------------------------------------------------------------------------------------


def test_predict_answers_standard_input_and_a_file_alike(trained: Path, tmp_path: Path) -> None:
    """If it failed, `predict` would not work in a pipe, or not with `--input`."""
    content = "w1 café\n\nw2\r\n東京".encode()
    texts = tmp_path / "téxts.txt"
    texts.write_bytes(content)
    piped = run("predict", trained, "--top-k", 2, "--threshold", "0.1", input=content)
    assert (piped.returncode, piped.stderr) == (0, b"")
    assert len(labels(piped.stdout)) == 4
    named = run("predict", trained, "--top-k", 2, "--threshold", "0.1", "--input", texts)
    assert (named.returncode, named.stdout, named.stderr) == (0, piped.stdout, b"")
    with texts.open("rb") as file:
        redirected = run("predict", trained, "--top-k=2", "--threshold=.1", input=None, stdin=file)
    assert (redirected.returncode, redirected.stdout) == (0, piped.stdout)


def test_nothing_in_gives_nothing_out(trained: Path) -> None:
    """If it failed, an empty file would be an error."""
    found = run("predict", trained)
    assert (found.returncode, found.stdout, found.stderr) == (0, b"", b"")


@pytest.mark.parametrize("place", ["{}", "file://{}"])
def test_a_bundle_that_did_not_pass_the_gate_is_told_and_answers(failed: Path, place: str) -> None:
    """If it failed, a model that is worse than the settings allow would be used without a word."""
    where = place.format(failed)
    found = run("predict", where, input=b"w1\nw2\n")
    assert (found.returncode, len(labels(found.stdout))) == (0, 2)
    told = f"warning: {where} did not pass the quality gate: too low; too little\n"
    assert found.stderr.decode() == told


def test_each_answer_comes_before_the_next_text_is_sent(trained: Path) -> None:
    """If it failed, a program that asks and waits for the answer would wait for ever."""
    process = start("predict", trained)
    assert process.stdin is not None
    assert process.stdout is not None
    for text in ("w1\n", "\n", "café w2\r\n"):
        process.stdin.write(text.encode())
        process.stdin.flush()
        assert labels(process.stdout.readline())
    rest, errors = process.communicate(b"w5")
    assert len(labels(rest)) == 1
    assert (process.returncode, errors) == (0, b"")


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_waiting_for_texts_ends_in_75(trained: Path, stop: signal.Signals) -> None:
    """If it failed, Ctrl-C would print a traceback, and a scheduler would take it for a bug."""
    process = start("predict", trained)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(b"w1\n")
    process.stdin.flush()
    assert labels(process.stdout.readline())
    process.send_signal(stop)
    # Standard input stays open: the signal alone must end it.
    assert process.wait(TIMEOUT) == ExitCode.INTERRUPTED == 75
    rest, errors = process.communicate()
    assert (rest, errors) == (b"", b"interrupted\n")


def test_a_closed_pipe_ends_predict_quietly(trained: Path, tmp_path: Path) -> None:
    """If it failed, `predict ... | head -1` would end in a traceback."""
    texts = tmp_path / "texts"
    texts.write_bytes(b"w1 w2\n" * 20_000)
    script = '"$0" -m serving predict "$1" --input "$2" | head -1; echo "${PIPESTATUS[0]}"'
    found = subprocess.run(
        ["bash", "-c", script, sys.executable, str(trained), str(texts)],
        env=environ(),
        capture_output=True,
        check=True,
        timeout=TIMEOUT,
    )
    first, code = found.stdout.splitlines()
    assert labels(first)
    assert (code, found.stderr) == (b"0", b"")


def with_closed_output(*arguments: object) -> "subprocess.CompletedProcess[bytes]":
    """The command with a standard output that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        return run(*arguments, input=b"w1\n", capture_output=False, stdout=writer, stderr=subprocess.PIPE)
    finally:
        os.close(writer)


@pytest.mark.parametrize("name", ["verify", "predict"])
def test_output_that_nobody_reads_ends_a_command_quietly(trained: Path, name: str) -> None:
    """If it failed, a pager that is closed early would show a traceback."""
    found = with_closed_output(name, trained)
    assert (found.returncode, found.stderr) == (0, b"")


@pytest.mark.parametrize("arguments", [["--help"], ["predict", "--help"]])
def test_help_that_nobody_reads_ends_quietly(arguments: list[str]) -> None:
    """If it failed, `python -m serving --help | true` would complain of a broken pipe."""
    found = with_closed_output(*arguments)
    assert (found.returncode, found.stderr) == (0, b"")


def test_a_bundle_that_fails_is_never_told_to_hold(copy: Path) -> None:
    """If it failed, `verify BUNDLE | head -1` with pipefail would let a wrong model through."""
    in_initializer(FILES.bow_model, "weight", added((3, 5), 1e-3))(copy)
    seal_again(copy)
    assert with_closed_output("verify", copy).returncode == ExitCode.PARITY_FAILED


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize("name", ["verify", "predict"])
def test_a_full_disk_ends_in_74(trained: Path, name: str) -> None:
    """If it failed, a scheduler would take a full disk for a bug of ours."""
    with Path("/dev/full").open("wb") as full:
        found = run(name, trained, input=b"w1\n", capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert found.returncode == ExitCode.PLATFORM == 74
    said = b"error: standard output: cannot be written (No space left on device); check the disk\n"
    assert found.stderr == said


def test_a_system_that_fails_elsewhere_is_not_told_as_standard_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If it failed, people would look at the wrong disk."""

    def fail(_: object) -> str:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("serving.health.health", fail)
    monkeypatch.setattr("serving.command.drop_output", lambda: None)
    assert main(["health"]) == ExitCode.PLATFORM
    assert capsys.readouterr().err.startswith(
        "error: the system failed ([Errno 24] Too many open files); check"
    )


@pytest.mark.parametrize(("name", "closed"), [("predict", "<&-"), ("predict", ">&-"), ("verify", ">&-")])
def test_a_closed_descriptor_is_no_bug_of_ours(trained: Path, name: str, closed: str) -> None:
    """If it failed, a daemon that starts the command without these would see a traceback."""
    found = subprocess.run(
        ["bash", "-c", f'echo w1 | "$0" -m serving {name} "$1" {closed}', sys.executable, str(trained)],
        env=environ(),
        capture_output=True,
        check=False,
        timeout=TIMEOUT,
    )
    assert b"Traceback" not in found.stderr
    assert found.returncode != ExitCode.BUG


@pytest.mark.parametrize(("bad", "found"), [(b"w1\0", "a NUL character"), (b"w1\xff", "byte 0xff")])
def test_a_bad_line_ends_in_3_after_the_lines_before_it(trained: Path, bad: bytes, found: str) -> None:
    """If it failed, a text that no runtime takes would be answered, or stop the lines before it."""
    outcome = run("predict", trained, input=b"w1\nw2\n" + bad + b"\nw4\n")
    assert outcome.returncode == ExitCode.DATA == 3
    assert len(labels(outcome.stdout)) == 2
    message = outcome.stderr.decode()
    assert message.startswith(f"error: standard input:3: expected a text in UTF-8 without NUL, found {found}")
    assert message.count("\n") == 1


# --- arguments ------------------------------------------------------------------------------------------

ARGUMENTS: list[tuple[list[str], int, str]] = [
    ([], 2, "the following arguments are required: COMMAND"),
    (["serve"], 2, "the following arguments are required: BUNDLE"),
    (["verify"], 2, "the following arguments are required: BUNDLE"),
    (["predict"], 2, "the following arguments are required: BUNDLE"),
    (["verify", "{bundle}", "--fast"], 2, "unrecognized arguments: --fast"),
    (["verify", "{bundle}", "--exp", "0"], 2, "unrecognized arguments: --exp"),
    (["verify", "{bundle}", "--expect"], 2, "argument --expect: expected one argument"),
    *(
        (
            ["verify", "{bundle}", f"--expect={value}"],
            2,
            f"64 hexadecimal digits, found {value!r}; it stands as",
        )
        for value in ("b12f6f39d96a", "not-an-id", "", "0" * 63 + "g", "0" * 65, "0" * 64 + "\n")
    ),
    (["verify", "{bundle}", "more"], 2, "unrecognized arguments: more"),
    *(
        (["predict", "{bundle}", f"--top-k={value}"], 2, f"expected a whole number from 1, found {value!r}")
        for value in ("0", "-1", "1.5", "many", "", " 1", "²")
    ),
    *(
        (
            ["predict", "{bundle}", f"--threshold={value}"],
            2,
            f"expected a probability from 0 to 1, found {value!r}",
        )
        for value in ("1.1", "-0.1", "nan", "inf", "half", "")
    ),
    (["predict", "{bundle}", "--input", "{folder}/none.txt"], 3, "none.txt: cannot be read (No such file"),
    (["predict", "{bundle}", "--input", "{folder}"], 3, "cannot be read (Is a directory); name a file"),
    (["predict", "{folder}"], 6, "found no manifest.json in the folder"),
    (["predict", "{folder}/none"], 6, "found nothing"),
    (["verify", "{folder}"], 6, "found no manifest.json in the folder"),
    (["verify", "{folder}/none"], 6, "found nothing. Name the folder that the training job published"),
    (["verify", "{bundle}/manifest.json"], 6, "found a file"),
]


@pytest.mark.parametrize(("arguments", "code", "message"), ARGUMENTS, ids=lambda value: str(value)[:60])
def test_a_wrong_argument_is_told_in_one_line(
    trained: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    """If it failed, a mistyped command would end in a traceback, or do something else than it says."""
    assert main([each.format(bundle=trained, folder=tmp_path) for each in arguments]) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("error: ")
    assert message in shown.err
    assert shown.err.count("\n") == 1


def test_a_wrong_argument_ends_the_process_with_its_code(tmp_path: Path) -> None:
    """If it failed, a script would not see that the command did nothing."""
    for arguments, code in ((["predict", tmp_path, "--top-k", "0"], 2), (["verify", tmp_path], 6)):
        found = run(*arguments)
        assert (found.returncode, found.stdout) == (code, b"")
        assert found.stderr.count(b"\n") == 1


def test_help_names_the_commands_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    """If it failed, a user would have to read the code."""
    for arguments, words in (
        (["--help"], ["verify", "predict", "5 A runtime's log-probabilities differ", "75 Ended by a signal"]),
        (
            ["verify", "--help"],
            ["--expect ID", "--against URL", "--torch", "only for a bundle that you trust"],
        ),
        (["predict", "--help"], ["--input FILE", "--top-k K", "--threshold P"]),
    ):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 0
        shown = " ".join(capsys.readouterr().out.split())
        assert all(word in shown for word in words)


# --- without torch --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def no_torch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose `torch` ends whoever imports it."""
    folder = tmp_path_factory.mktemp("modules")
    for name in ("torch", "job", "export", "pyarrow", "pydantic"):
        (folder / f"{name}.py").write_text(f"raise SystemExit('{name} was imported')\n")
    return folder


@pytest.mark.parametrize("arguments", [["--help"], ["verify"], ["predict"]])
def test_no_command_imports_torch(trained: Path, no_torch: Path, arguments: list[str]) -> None:
    """If it failed, serving would need 200 MB more, and start seconds later."""
    if arguments != ["--help"]:
        arguments = [*arguments, str(trained)]
    found = run(*arguments, input=b"w1\n", env=environ(no_torch))
    assert (found.returncode, found.stderr) == (0, b"")


def test_no_module_of_serving_imports_torch(no_torch: Path) -> None:
    """If it failed, a program that uses one of them would need torch."""
    paths = [path for path in (REPOSITORY / "serving").rglob("*.py") if not path.stem.startswith("__")]
    modules = [path.relative_to(REPOSITORY).with_suffix("").parts for path in paths]
    # The server and its settings are checked by pydantic, which is an extra of theirs.
    names = [".".join(parts) for parts in modules if parts[1] not in ("server", "settings")]
    assert "serving.parity.torchscript" in names
    names.remove("serving.kserve_model")  # it needs kserve, which is not here
    code = "".join(f"import {name}\n" for name in sorted(names))
    code += "import sys\nassert 'torch' not in sys.modules\n"
    found = subprocess.run(
        [sys.executable, "-c", code], env=environ(no_torch), capture_output=True, check=False, timeout=TIMEOUT
    )
    assert (found.returncode, found.stderr) == (0, b"")


def test_torch_is_asked_for_where_it_is_missing(trained: Path, tmp_path: Path) -> None:
    """If it failed, `--torch` without torch would end in a traceback, or pass without a check."""
    (tmp_path / "torch.py").write_text("raise ImportError('no torch here')\n")
    found = run("verify", trained, "--torch", env=environ(tmp_path))
    assert (found.returncode, found.stdout) == (ExitCode.SETTINGS, b"")
    assert found.stderr.startswith(b"error: --torch needs torch, which is not installed here; run it without")
    assert found.stderr.count(b"\n") == 1


def test_help_of_serve_names_every_setting() -> None:
    """If it failed, a user would look for the server's settings in its code."""
    shown = run("serve", "--help").stdout.decode()
    for name in ServerSettings.model_fields:
        assert f"  BOW_SERVE_{name.upper()} " in shown
