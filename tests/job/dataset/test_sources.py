"""From a location to files, and every way in which a file cannot be read."""

import errno
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from job.dataset import DataSpec, read, sources
from job.dataset.sources import Fingerprint, find_sources, read_blocks
from serving.errors import DataError, ExitCode, PlatformError


def names(root: Path, location: str) -> list[str]:
    found = find_sources(str(root / location), "auto", "BOW_TRAIN_DATA")
    return [source.path.relative_to(root).as_posix() for source in found]


def contents(path: Path) -> bytes:
    (source,) = find_sources(str(path), "auto", "BOW_TRAIN_DATA")
    return b"".join(block.data for block in read_blocks(source, Fingerprint()))


def compressed(path: Path, data: bytes) -> bytes:
    with pa.CompressedOutputStream(str(path), {".gz": "gzip", ".zst": "zstd"}[path.suffix]) as stream:
        stream.write(data)
    return path.read_bytes()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in [
        "b.tsv",
        "a.tsv.gz",
        "c/a.tsv",
        "c-d.tsv",
        ".hidden.tsv",
        "_SUCCESS",
        "_tmp/x.tsv",
        ".git/x.tsv",
    ]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_a_folder_is_read_in_the_order_of_its_paths(tree: Path) -> None:
    """Another order would be other data for the same seed; markers and hidden files are no data."""
    assert names(tree, "") == ["a.tsv.gz", "b.tsv", "c/a.tsv", "c-d.tsv"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.tsv", ["b.tsv", "c-d.tsv"]),
        ("**/*.tsv", ["_tmp/x.tsv", "b.tsv", "c/a.tsv", "c-d.tsv"]),  # as a shell would
        ("[ab].tsv*", ["a.tsv.gz", "b.tsv"]),
        ("c*", ["c-d.tsv"]),
    ],
)
def test_a_glob_is_read_in_the_order_of_its_paths(tree: Path, pattern: str, expected: list[str]) -> None:
    """The file system's own order differs from machine to machine; folders that match are no files."""
    assert names(tree, pattern) == expected


def test_a_name_that_looks_like_a_glob_is_a_name_first(tmp_path: Path) -> None:
    """A file called [a].tsv could otherwise not be named at all."""
    (tmp_path / "[a].tsv").touch()
    assert names(tmp_path, "[a].tsv") == ["[a].tsv"]


def test_links_are_followed_once(tmp_path: Path) -> None:
    """Kubernetes mounts volumes as links to hidden folders; a link to a parent must not go on forever."""
    (tmp_path / "..data").mkdir()
    (tmp_path / "..data" / "a.tsv").touch()
    (tmp_path / "a.tsv").symlink_to("..data/a.tsv")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "b.tsv").touch()
    (tmp_path / "deep" / "up").symlink_to("..")
    assert names(tmp_path, "") == ["a.tsv", "deep/b.tsv"]


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("missing.tsv", "found nothing at that path"),
        ("missing/*.tsv", "no file matches"),
        ("empty", "the folder holds no data file"),
        ("a.tsv/b.tsv", "Not a directory"),
        ("loop.tsv", "Too many levels of symbolic links"),
        ("x" * 300, "File name too long"),
        ("notes.md", r"cannot be told from the name; expected one of \.tsv, .*BOW_DATA_FORMAT"),
        ("plain.txt", "first line starts with __label__"),
        ("mixed", r"files of one format are expected, found tsv \(.*a\.tsv\) and csv"),
        ("a.parquet.gz", r"expected a name without \.gz"),
    ],
)
def test_a_location_without_usable_files_is_a_data_error(
    tmp_path: Path, location: str, expected: str
) -> None:
    """A typing error in the location is the commonest mistake of all, and no bug of ours."""
    (tmp_path / "empty").mkdir()
    (tmp_path / "mixed").mkdir()
    (tmp_path / "loop.tsv").symlink_to("loop.tsv")
    for name in ("a.tsv", "notes.md", "plain.txt", "mixed/a.tsv", "mixed/b.csv", "a.parquet.gz"):
        (tmp_path / name).write_bytes(b"text")
    with pytest.raises(DataError, match=expected) as caught:
        find_sources(str(tmp_path / location), "auto", "BOW_TRAIN_DATA")
    assert caught.value.exit_code == ExitCode.DATA


def test_an_explicit_format_overrides_the_name(tmp_path: Path) -> None:
    """Files of other systems often have no extension; the compression still follows the name."""
    compressed(tmp_path / "part-0.gz", b"text")
    (source,) = find_sources(str(tmp_path / "part-0.gz"), "csv", "BOW_TRAIN_DATA")
    assert (source.format, source.compression) == ("csv", "gzip")


@pytest.mark.parametrize("name", ["data.txt", "data.txt.gz", "data.txt.zst"])
def test_a_txt_file_that_starts_with_a_label_is_fasttext(tmp_path: Path, name: str) -> None:
    """fastText's own examples are called .txt, compressed or not, with or without a byte-order mark."""
    data = b"\xef\xbb\xbf__label__x text\n"
    path = tmp_path / name
    if path.suffix == ".txt":
        path.write_bytes(data)
    else:
        compressed(path, data)
    assert find_sources(str(path), "auto", "BOW_TRAIN_DATA")[0].format == "fasttext"


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


@pytest.mark.parametrize("location", ["closed/data.tsv", "closed", "closed/*/x.tsv", "data.tsv"])
def test_a_missing_permission_is_a_data_error(tmp_path: Path, location: str) -> None:
    """A file that another user owns must be told from one that does not exist."""
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed" / "data.tsv").write_bytes(b"label\ttext\n")
    (tmp_path / "data.tsv").write_bytes(b"label\ttext\n")
    (tmp_path / "data.tsv").chmod(0)
    (tmp_path / "closed").chmod(0)
    is_root = os.geteuid() == 0
    if is_root:  # root may read anything: act as nobody, in a process of its own
        for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
            folder.chmod(0o755)
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from job.dataset.sources import Fingerprint, find_sources, read_blocks\n"
        "from serving.errors import DataError\n"
        "if os.geteuid() == 0: os.setuid(65534)\n"
        "try:\n"
        "    for source in find_sources(sys.argv[1], 'auto', 'BOW_TRAIN_DATA'):\n"
        "        list(read_blocks(source, Fingerprint()))\n"
        "except DataError as error:\n"
        "    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / location)], capture_output=True, text=True, check=False
    )
    (tmp_path / "closed").chmod(0o755)
    assert done.stderr == ""
    assert "Permission denied" in done.stdout


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
    monkeypatch.setattr(sources, "BLOCK_BYTES", size)
    data = b'text,label\r\n"a\n""b""\n",x\n\nc,y\nlast,z'
    (tmp_path / "data.csv").write_bytes(data)
    (source,) = find_sources(str(tmp_path / "data.csv"), "auto", "BOW_TRAIN_DATA")
    fingerprint = Fingerprint()
    blocks = list(read_blocks(source, fingerprint))
    assert b"".join(block.data for block in blocks) == data
    assert fingerprint.num_bytes == len(data)
    position = 0
    for block in blocks:
        assert block.first_line == 1 + data[:position].count(b"\n")
        assert data[:position].count(b'"') % 2 == 0
        position += len(block.data)


def test_damaged_parquet_is_a_data_error(tmp_path: Path) -> None:
    """Thrift, codec and footer each fail in a way of their own."""
    path = tmp_path / "data.parquet"
    pq.write_table(pa.table({"text": ["some text"] * 100, "label": ["x"] * 100}), path)
    good = path.read_bytes()
    for position in range(0, len(good), 7):
        path.write_bytes(good[:position] + b"\xff" * 5 + good[position + 5 :])
        spec = DataSpec(location=str(path), setting="BOW_TRAIN_DATA")
        with suppress(DataError):
            read(spec, len_of_texts, print, num_threads=1, max_rejected=1)


def len_of_texts(rows: object) -> int:
    return len(getattr(rows, "texts", ()))
