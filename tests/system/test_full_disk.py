"""A disk that is full at each stage: a clear message, its exit code, and nothing broken left behind."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.bundle import open_bundle
from serving.errors import ExitCode
from serving.parity.rungs import check
from serving.parity.verify import verify
from tests.test_processes import REPOSITORY, start, write_data

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(os.geteuid() != 0, reason="to mount a small file system needs root"),
]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(disk: Path, *, leave: int) -> Path:
    """A file that leaves so many bytes."""
    free = os.statvfs(disk)
    path = disk / "other"
    path.write_bytes(bytes(max(0, free.f_bavail * free.f_frsize - leave)))
    return path


def ended(process: subprocess.Popen[str]) -> str:
    _, errors = process.communicate(timeout=120)
    assert process.returncode == ExitCode.PLATFORM, errors
    assert "Traceback" not in errors
    assert "No space left on device" in errors
    return errors


@pytest.mark.parametrize("leave", [0, 8_000, 20_000, 40_000])
def test_while_it_is_published(tmp_path: Path, disk: Path, leave: int) -> None:
    """If it failed, half a bundle would be there, or what is published already would be lost."""
    data = write_data(tmp_path / "train.tsv", 400)
    first = start(REPOSITORY, disk, data, BOW_RUN_NAME="first", BOW_CHECKPOINT_EVERY="0")
    _, errors = first.communicate(timeout=120)
    assert first.returncode == 0, errors
    other = fill(disk, leave=leave)
    errors = ended(start(REPOSITORY, disk, data, BOW_RUN_NAME="second", BOW_CHECKPOINT_EVERY="0"))
    assert "BOW_OUTPUT_DIR" in errors
    assert sorted(path.name for path in disk.iterdir()) == ["first", "latest", "other"]
    check(verify(disk / "latest").rungs, "latest")
    other.unlink()
    second = start(REPOSITORY, disk, data, BOW_RUN_NAME="second")
    _, errors = second.communicate(timeout=120)
    assert second.returncode == 0, errors
    assert open_bundle(disk / "latest").path.resolve().name == "second"


def test_while_a_checkpoint_is_kept(tmp_path: Path, disk: Path) -> None:
    """If it failed, half a checkpoint would be there, which the next run refuses."""
    data = write_data(tmp_path / "train.tsv", 400)
    fill(disk, leave=4_000)
    settings = {"BOW_CHECKPOINT_DIR": str(disk / "kept"), "BOW_CHECKPOINT_EVERY": "0.000001"}
    words = {"BOW_CHAR_NGRAMS": "1-4", "BOW_MIN_CHAR_NGRAM_COUNT": "1"}
    errors = ended(start(REPOSITORY, tmp_path / "out", data, **settings, **words))
    assert "BOW_CHECKPOINT_DIR" in errors
    assert list((disk / "kept").iterdir()) == []
    assert list((tmp_path / "out").iterdir()) == []


def test_while_the_data_is_cached(tmp_path: Path, disk: Path) -> None:
    """If it failed, a part of the data would pass for all of it in the next run."""
    data = write_data(tmp_path / "train.tsv", 60_000)
    errors = ended(start(REPOSITORY, tmp_path / "out", data, BOW_CACHE_DIR=str(disk)))
    assert "BOW_CACHE_DIR" in errors
    assert [path for path in disk.rglob("*") if path.is_file()] == []
    assert list((tmp_path / "out").iterdir()) == []
