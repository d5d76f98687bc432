"""From a location to files, and every way in which a file cannot be found or opened."""

import os
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from job.dataset import DataSpec, read
from job.dataset.sources import find_sources
from serving.errors import DataError, ExitCode


def names(root: Path, location: str) -> list[str]:
    found = find_sources(str(root / location), "auto", "BOW_TRAIN_DATA")
    return [source.path.relative_to(root).as_posix() for source in found]


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
        "from job.dataset.blocks import Fingerprint, read_blocks\n"
        "from job.dataset.sources import find_sources\n"
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


def test_damaged_parquet_is_a_data_error(tmp_path: Path) -> None:
    """Thrift, codec and footer each fail in a way of their own."""
    path = tmp_path / "data.parquet"
    pq.write_table(pa.table({"text": ["some text"] * 100, "label": ["x"] * 100}), path)
    good = path.read_bytes()
    said = []
    for position in range(0, len(good), 7):
        path.write_bytes(good[:position] + b"\xff" * 5 + good[position + 5 :])
        spec = DataSpec(location=str(path), setting="BOW_TRAIN_DATA")
        try:
            summary = read(spec, len_of_texts, print, num_threads=1, max_rejected=1)
        except DataError as error:
            said.append(str(error))
        else:  # some bytes mean nothing
            assert summary.num_rows + len(summary.rejected) == 100
    assert all(str(path) in each for each in said)
    for part in ("thrift", "page", "footer"):
        assert any("damaged or truncated" in each and part in each for each in said), part


def len_of_texts(rows: object) -> int:
    return len(getattr(rows, "texts", ()))
