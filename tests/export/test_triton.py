"""`python -m export triton`: a repository that a running Triton may look at in any moment."""

import errno
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from export import triton
from export.main import main
from export.publish import alone
from export.triton import Options, config, write
from job.environment import load_settings
from job.run import run
from job.telling.output import Output
from serving.bundle import FILES, Bundle, open_bundle
from serving.errors import ArtifactError, ExitCode, PlatformError, SettingsError

REPOSITORY = Path(__file__).parents[2]


def trained(folder: Path, name: str, rows: str) -> Path:
    data = folder / f"{name}.tsv"
    data.write_text("text\tlabel\n" + rows)
    environ = {"BOW_TRAIN_DATA": str(data), "BOW_OUTPUT_DIR": str(folder), "BOW_DEVICE": "cpu"}
    return run(load_settings(environ | {"BOW_RUN_NAME": name}), Output(False))


@pytest.fixture(scope="module")
def monday(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of two labels."""
    return open_bundle(trained(tmp_path_factory.mktemp("monday"), "monday", "a b\tx\nc d\tprivé\n"))


@pytest.fixture(scope="module")
def tuesday(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle of three labels."""
    return open_bundle(trained(tmp_path_factory.mktemp("tuesday"), "tuesday", "a b\tx\nc d\ty\ne\tz\n"))


def contents(repository: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(repository)): path.read_bytes()
        for path in repository.rglob("*")
        if path.is_file()
    }


def test_a_repository_has_the_model_its_configuration_and_labels(tmp_path: Path, monday: Bundle) -> None:
    """If it failed, Triton would find no model, or another one than the bundle's."""
    written = write(monday, tmp_path / "models", Options())
    assert written.version == 1
    found = contents(tmp_path / "models")
    assert set(found) == {"bowsprit/1/model.onnx", "bowsprit/labels.txt", "bowsprit/config.pbtxt"}
    assert {str(path.relative_to(tmp_path / "models")) for path in written.paths} == set(found)
    assert found["bowsprit/1/model.onnx"] == (monday.path / FILES.text_model).read_bytes()
    assert found["bowsprit/labels.txt"].decode().splitlines() == monday.manifest.labels
    assert found["bowsprit/config.pbtxt"].decode() == config(monday.labels(), monday.bundle_id, Options())
    # Triton takes every other folder for a model or a version.
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["bowsprit"]


def test_the_next_bundle_is_the_next_version(tmp_path: Path, monday: Bundle, tuesday: Bundle) -> None:
    """If it failed, a version that Triton has loaded would change beneath it, or the labels would not."""
    write(monday, tmp_path, Options())
    before = contents(tmp_path)
    (tmp_path / "bowsprit" / "09").mkdir()
    assert write(tuesday, tmp_path, Options()).version == 2
    after = contents(tmp_path)
    assert after["bowsprit/1/model.onnx"] == before["bowsprit/1/model.onnx"]
    assert after["bowsprit/2/model.onnx"] == (tuesday.path / FILES.text_model).read_bytes()
    assert after["bowsprit/labels.txt"] == b"x\ny\nz\n"
    assert b"dims: [ 3 ]" in after["bowsprit/config.pbtxt"]
    assert tuesday.bundle_id.encode() in after["bowsprit/config.pbtxt"]
    for number in range(3, 12):
        assert write((tuesday, monday)[number % 2], tmp_path, Options()).version == number


def test_the_same_bundle_adds_nothing(tmp_path: Path, monday: Bundle) -> None:
    """If it failed, a job that is tried again would make Triton load the same model once more."""
    write(monday, tmp_path, Options())
    before = contents(tmp_path)
    assert write(monday, tmp_path, Options()).paths == []
    assert contents(tmp_path) == before


@pytest.mark.parametrize("step", range(1, 6))
def test_a_command_that_was_ended_between_its_steps_can_be_run_again(
    tmp_path: Path, monday: Bundle, tuesday: Bundle, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """If it failed, a killed job would leave a repository that Triton cannot load, for good."""
    write(monday, tmp_path, Options())
    calls = 0

    def fails(path: Path, *_: object) -> None:
        nonlocal calls
        calls += 1
        if calls == step:
            raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patched:
        patched.setattr(triton, "sync", fails)
        with pytest.raises(PlatformError, match="No space left on device"):
            write(tuesday, tmp_path, Options())
    (tmp_path / "bowsprit" / ".staging-killed").mkdir()
    assert write(tuesday, tmp_path, Options()).version == 2
    write(tuesday, tmp_path / "whole", Options())
    whole = contents(tmp_path / "whole")
    found = contents(tmp_path / "bowsprit")
    assert found["2/model.onnx"] == whole["bowsprit/1/model.onnx"]
    assert found["config.pbtxt"] == whole["bowsprit/config.pbtxt"]
    assert found["labels.txt"] == whole["bowsprit/labels.txt"]
    assert not list((tmp_path / "bowsprit").glob(".staging*"))


@pytest.mark.parametrize("name", [FILES.text_model, FILES.labels])
def test_a_damaged_bundle_is_not_written(tmp_path: Path, monday: Bundle, name: str) -> None:
    """If it failed, Triton would serve a model that nobody has checked."""
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for path in monday.path.iterdir():
        (damaged / path.name).write_bytes(path.read_bytes() + b"x" * (path.name == name))
    with pytest.raises(ArtifactError, match=name):
        write(open_bundle(damaged), tmp_path / "models", Options())
    assert not (tmp_path / "models").exists()


Change = Callable[[str], str]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda text: text.replace("count: 1", "count: 4"), "count: 4"),
        (lambda text: text + "max_queue_size: 7\n", "'max_queue_size: 7'"),
        (
            lambda text: text.replace("dynamic_batching { }\n", ""),
            "expected 'dynamic_batching { }', found 'noth",
        ),
        (lambda _: "", "found 'nothing'"),
    ],
)
def test_a_configuration_that_somebody_edited_is_not_replaced(
    tmp_path: Path, monday: Bundle, tuesday: Bundle, change: Change, says: str
) -> None:
    """If it failed, what was tuned by hand would be lost one night."""
    write(monday, tmp_path, Options())
    path = tmp_path / "bowsprit" / "config.pbtxt"
    path.write_text(change(path.read_text()))
    before = contents(tmp_path)
    with pytest.raises(SettingsError, match=r"configured otherwise") as raised:
        write(tuesday, tmp_path, Options())
    assert says in str(raised.value)
    assert contents(tmp_path) == before
    path.unlink()
    assert write(tuesday, tmp_path, Options()).version == 2
    assert path.exists()


def test_other_options_are_told_from_those_of_before(tmp_path: Path, monday: Bundle) -> None:
    """If it failed, a nightly command with a forgotten option would change how Triton batches."""
    write(monday, tmp_path, Options(max_batch_size=64))
    with pytest.raises(SettingsError, match="expected 'max_batch_size: 1024', found 'max_batch_size: 64'"):
        write(monday, tmp_path, Options())
    assert write(monday, tmp_path, Options(name="another")).version == 1


def test_a_label_that_is_no_line_leaves_the_labels_out(monday: Bundle) -> None:
    """If it failed, Triton would name every class after it wrongly."""
    text = config(["a\nb", "c"], monday.bundle_id, Options())
    assert "label_filename" not in text
    assert "label_filename" in config(["a b", "c"], monday.bundle_id, Options())


def test_one_who_writes_waits_for_another(tmp_path: Path, monday: Bundle) -> None:
    """If it failed, two jobs in one moment would take the same number, and one remove what the other made."""
    (tmp_path / "bowsprit").mkdir()
    writer = threading.Thread(target=write, args=(monday, tmp_path, Options()))
    with alone(tmp_path / "bowsprit"):
        writer.start()
        writer.join(0.2)
        assert writer.is_alive()
        assert contents(tmp_path) == {}
    writer.join(10)
    assert len(contents(tmp_path)) == 3


def test_a_repository_that_cannot_be_used_is_no_matter_of_the_jobs_settings(
    tmp_path: Path, monday: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it failed, a user of this command would be told to set a variable that it does not read."""

    def refuse(path: Path, _flags: int) -> int:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr("export.publish.os.open", refuse)
    with pytest.raises(PlatformError, match="name another REPOSITORY") as caught:
        write(monday, tmp_path, Options())
    assert "BOW_" not in str(caught.value)


def test_the_command_prints_what_it_wrote(
    tmp_path: Path, monday: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    """If it failed, a user would have to look for the files."""
    arguments = ["triton", str(monday.path), str(tmp_path), "--name", "intents"]
    assert main(arguments) == ExitCode.DONE
    shown = capsys.readouterr()
    assert shown.err == ""
    assert shown.out.splitlines() == [
        *(str(tmp_path / "intents" / name) for name in ("1/model.onnx", "labels.txt", "config.pbtxt")),
        "intents version 1; clients send texts as [N, 1]",
        f"bundle {monday.bundle_id}",
    ]
    assert main(arguments) == ExitCode.DONE
    assert capsys.readouterr().out.startswith("intents version 1, which was there already; ")


def test_it_needs_no_torch(tmp_path: Path, monday: Bundle) -> None:
    """If it failed, the image that serves could not write what Triton serves."""
    for name in ("torch", "job", "pyarrow", "pydantic"):
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name} was imported')\n")
    environ = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{REPOSITORY}", "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "export", "triton", str(monday.path), str(tmp_path / "models")],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_changed_manifest_shows_in_the_configuration_alone(tmp_path: Path, monday: Bundle) -> None:
    """If it failed, a bundle whose model is the same would be loaded anew, or have another bundle's ID."""
    write(monday, tmp_path, Options())
    written = write(replace(monday, bundle_id="c" * 64), tmp_path, Options())
    assert written.version == 1
    assert [path.name for path in written.paths] == ["config.pbtxt"]
