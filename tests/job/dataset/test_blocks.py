"""From a file to blocks of whole records, and every way in which its bytes cannot be read."""

import errno
import os
from pathlib import Path

import pytest

from job.dataset import blocks
from job.dataset.blocks import Fingerprint, read_blocks
from job.dataset.sources import find_sources
from serving.errors import DataError, ExitCode, PlatformError
from tests.job.dataset.test_sources import compressed


def contents(path: Path) -> bytes:
    (source,) = find_sources(str(path), "auto", "BOW_TRAIN_DATA")
    return b"".join(block.data for block in read_blocks(source, Fingerprint()))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "found an empty file"),
        ("text".encode("utf-16"), "UTF-16; convert it to UTF-8"),
        (b"\xfe\xff\0t", "UTF-16; convert it to UTF-8"),
        (b"\x1f\x8b\x08\0", r"compressed with gzip; end its name in \.gz"),
        (b"\x28\xb5\x2f\xfd\0", r"compressed with zstd; end its name in \.zst"),
        (b"PAR1\0", "Parquet; end its name"),
    ],
)
def test_a_file_that_is_not_text_is_named_for_what_it_is(tmp_path: Path, data: bytes, expected: str) -> None:
    """Its rows would all be rejected for reasons that hide the cause."""
    (tmp_path / "data.tsv").write_bytes(data)
    with pytest.raises(DataError, match=expected):
        contents(tmp_path / "data.tsv")


@pytest.mark.parametrize("name", ["data.tsv.gz", "data.tsv.zst"])
@pytest.mark.parametrize("damage", ["truncated", "checksum", "not compressed", "empty"])
def test_damaged_compression_is_a_data_error(tmp_path: Path, name: str, damage: str) -> None:
    """An interrupted download would otherwise train on a part of the data, or end in a traceback."""
    path = tmp_path / name
    data = compressed(path, os.urandom(100_000))
    damaged = {
        "truncated": data[:-3],
        "checksum": data[:5000] + bytes([data[5000] ^ 255]) + data[5001:],
        "not compressed": b"label\ttext\n",
        "empty": b"",
    }[damage]
    if damage == "checksum" and name.endswith(".zst"):
        pytest.skip("Arrow writes zstd frames without a checksum")
    path.write_bytes(damaged)
    with pytest.raises(DataError, match=r"damaged or truncated|empty file"):
        contents(path)


@pytest.mark.parametrize("name", ["data.tsv.gz", "data.tsv.zst"])
def test_compressed_files_may_be_joined(tmp_path: Path, name: str) -> None:
    """`cat a.gz b.gz` is a valid file; reading its first member alone would lose the rest."""
    data = compressed(tmp_path / name, b"a\tb\n" * 1000)
    (tmp_path / name).write_bytes(data * 2)
    assert contents(tmp_path / name) == b"a\tb\n" * 2000


@pytest.mark.parametrize("name", ["data.tsv", "data.tsv.gz"])
def test_a_failing_disk_is_not_the_users_fault(tmp_path: Path, name: str) -> None:
    """The scheduler tries elsewhere on PLATFORM, and not on DATA."""
    # Address 0 of a process's memory cannot be read: a real EIO without a broken disk.
    (tmp_path / name).symlink_to("/proc/self/mem")
    with pytest.raises(PlatformError, match="Input/output error") as caught:
        contents(tmp_path / name)
    assert caught.value.exit_code == ExitCode.PLATFORM
    assert caught.value.__cause__ is not None
    assert getattr(caught.value.__cause__, "errno", None) == errno.EIO


def test_a_name_that_is_not_utf8_is_read(tmp_path: Path) -> None:
    """Linux allows any bytes in a name, and archives bring such files; rejects must name them too."""
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.tsv.gz"))
    plain = tmp_path / "plain.gz"
    path.write_bytes(compressed(plain, b"label\ttext\n"))
    assert contents(path) == b"label\ttext\n"


@pytest.mark.parametrize("size", [1, 3, 10, 1000])
def test_blocks_end_at_records_and_know_their_first_line(
    tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record cut in two would be two rejects, and a wrong line would be a wrong place in every message."""
    monkeypatch.setattr(blocks, "BLOCK_BYTES", size)
    data = b'text,label\r\n"a\n""b""\n",x\n\nc,y\nlast,z'
    (tmp_path / "data.csv").write_bytes(data)
    (source,) = find_sources(str(tmp_path / "data.csv"), "auto", "BOW_TRAIN_DATA")
    fingerprint = Fingerprint()
    found = list(read_blocks(source, fingerprint))
    assert b"".join(block.data for block in found) == data
    assert fingerprint.num_bytes == len(data)
    position = 0
    for block in found:
        assert block.first_line == 1 + data[:position].count(b"\n")
        assert data[:position].count(b'"') % 2 == 0
        position += len(block.data)
