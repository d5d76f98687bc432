"""What BOW_CACHE_DIR keeps, and when it is not to be believed."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from job.corpus import cache as cache_module
from job.corpus.bags import concatenate
from job.corpus.cache import ABANDONED_AFTER, UNUSED_AFTER, Cache
from job.corpus.collect import RowBlock, tokenize_rows
from job.corpus.corpus_files import InFolder
from job.dataset import DataSpec, Summary, TooManyRejected
from job.dataset import read as read_rows
from job.inputs import Inputs, read_inputs
from serving.errors import PlatformError

TEXTS = "text\tlabel\ngood morning\ten\nbuenos días\tes\n\ten\nbad row\ngood night\ten\n"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "train.tsv"
    path.write_text(TEXTS, encoding="utf-8")
    return path


def read(
    path: Path,
    folder: Path | None,
    *,
    max_rejected: float = 0.5,
    max_vocabulary: int | None = None,
    **spec: str,
) -> Inputs:
    specs = {"train": DataSpec(location=str(path), setting="BOW_TRAIN_DATA", **spec)}  # type: ignore[arg-type]
    cache = None if folder is None else Cache(folder)
    return read_inputs(
        specs,
        None,
        num_threads=1,
        max_rejected=max_rejected,
        max_vocabulary=max_vocabulary,
        cache=cache,
    )


def assert_equal(one: Inputs, other: Inputs) -> None:
    assert (one.records, one.label_names) == (other.records, other.label_names)
    assert (one.rejected.counts, one.rejected.details) == (other.rejected.counts, other.rejected.details)
    corpus, expected = one.corpora["train"], other.corpora["train"]
    assert corpus.tokens.equals(expected.tokens)
    assert (corpus.label_names, one.samples) == (expected.label_names, other.samples)
    found, wanted = concatenate(list(corpus)), concatenate(list(expected))
    for name in ("ids", "offsets", "labels", "weights"):
        np.testing.assert_array_equal(getattr(found, name), getattr(wanted, name))


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_unchanged_files_are_not_read_again(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it failed, every run would read and tokenize all texts anew, or learn from something else."""
    expected = read(data, None)
    first = read(data, tmp_path / "cache")
    assert_equal(first, expected)
    assert not first.cached
    monkeypatch.setattr("job.inputs.read", lambda *_, **__: pytest.fail("the text was read again"))
    second = read(data, tmp_path / "cache")
    assert_equal(second, expected)
    assert second.cached == {"train"}


def test_files_that_changed_are_read_again(tmp_path: Path, data: Path) -> None:
    """If it failed, a model would be trained on yesterday's data."""
    read(data, tmp_path / "cache")
    before = data.stat()
    data.write_text(TEXTS.replace("night", "mourn"), encoding="utf-8")
    os.utime(data, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (data.stat().st_size, data.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    changed = read(data, tmp_path / "cache")
    assert not changed.cached
    assert_equal(changed, read(data, None))


def test_the_same_texts_elsewhere_are_kept_once(tmp_path: Path, data: Path) -> None:
    """If it failed, each copy or re-mount of the data would fill the cache with the same again."""
    read(data, tmp_path / "cache")
    copy = tmp_path / "copy.tsv"
    copy.write_bytes(data.read_bytes())
    moved = read(copy, tmp_path / "cache")
    assert not moved.cached
    assert len(list((tmp_path / "cache" / "corpora").iterdir())) == 1
    assert moved.rejected.details[0].file == str(copy)
    assert read(copy, tmp_path / "cache").rejected.details[0].file == str(copy)


def test_the_same_files_read_in_another_way_are_other_data(tmp_path: Path) -> None:
    """If it failed, a run that names another column would learn from the first one's."""
    path = tmp_path / "train.tsv"
    path.write_text("text\ttitle\tlabel\na b\tc\tx\nd\te\ty\n")
    by_text = read(path, tmp_path / "cache")
    by_title = read(path, tmp_path / "cache", text_column="title")
    assert not by_title.cached
    assert by_text.corpora["train"].tokens.to_pylist() == ["a", "b", "d"]
    assert by_title.corpora["train"].tokens.to_pylist() == ["c", "e"]


def test_rows_with_and_without_weights_are_other_data(tmp_path: Path) -> None:
    """If it failed, a run would have the weights of an earlier one, or none."""
    path = tmp_path / "train.tsv"
    path.write_text("text\tlabel\tw\tv\na\tx\t1\t5\nb\ty\t2\t6\n")
    found = [
        read(path, tmp_path / "cache", **spec)
        for spec in ({}, {"weight_column": "w"}, {"weight_column": "v"}, {}, {"weight_column": "w"})
    ]
    assert [bool(inputs.cached) for inputs in found] == [False, False, False, True, True]
    weights = [concatenate(list(inputs.corpora["train"])).weights for inputs in found]
    assert [None if each is None else each.tolist() for each in weights] == [
        None,
        [1, 2],
        [5, 6],
        None,
        [1, 2],
    ]


def test_two_files_are_not_taken_for_one_with_the_same_bytes(tmp_path: Path) -> None:
    """If it failed, a header between two files would become a row, or a row a header."""
    parts = ["text\tlabel\na\tx\n", "text\tlabel\nb\ty\n"]
    for name, contents in {"two": parts, "one": ["".join(parts)]}.items():
        for number, content in enumerate(contents):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / f"{number}.tsv").write_text(content)
    assert read(tmp_path / "two", tmp_path / "cache").corpora["train"].num_rows == 2
    assert read(tmp_path / "one", tmp_path / "cache").corpora["train"].num_rows == 3
    assert read(tmp_path / "one", tmp_path / "cache").corpora["train"].num_rows == 3


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [cut, flip, empty, Path.unlink])
@pytest.mark.parametrize("part", ["ids", "offsets", "labels", "weights", "tokens.arrow"])
def test_a_damaged_cache_is_made_anew(tmp_path: Path, part: str, damage: Callable[[Path], None]) -> None:
    """If it failed, a disk error would end in a wrong model or in a cache that fails every run."""
    data = tmp_path / "train.tsv"
    data.write_text("text\tlabel\tw\na\tx\t1\nb\ty\t2\n")
    expected = read(data, None, weight_column="w")
    read(data, tmp_path / "cache", weight_column="w")
    (path,) = (tmp_path / "cache" / "corpora").glob(f"*/{part}")
    damage(path)
    mended = read(data, tmp_path / "cache", weight_column="w")
    assert not mended.cached
    assert_equal(mended, expected)
    assert read(data, tmp_path / "cache", weight_column="w").cached


@pytest.mark.parametrize("damage", [cut, empty, Path.unlink])
@pytest.mark.parametrize("pattern", ["corpora/*/facts.json", "files/*.json"])
def test_damaged_facts_are_made_anew(
    tmp_path: Path, data: Path, pattern: str, damage: Callable[[Path], None]
) -> None:
    """If it failed, a job that was killed while it wrote would break every run after it."""
    read(data, tmp_path / "cache")
    (path,) = (tmp_path / "cache").glob(pattern)
    damage(path)
    assert not read(data, tmp_path / "cache").cached
    assert read(data, tmp_path / "cache").cached


def test_facts_that_lead_out_of_the_cache_are_not_followed(tmp_path: Path, data: Path) -> None:
    """If it failed, a file that somebody altered could have the job read from anywhere."""
    read(data, tmp_path / "cache")
    (corpus,) = (tmp_path / "cache" / "corpora").iterdir()
    (path,) = (tmp_path / "cache" / "files").iterdir()
    corpus.rename(tmp_path / corpus.name)
    path.write_text(path.read_text().replace(corpus.name, f"../../{corpus.name}"))
    assert not read(data, tmp_path / "cache").cached


@pytest.mark.parametrize("done", range(11))
def test_a_full_disk_leaves_no_half_of_a_corpus(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, done: int
) -> None:
    """If it failed, the next run would train on half a corpus, or the full disk would stay full.

    Three files are opened, written to five times in all, and three more written at once.
    """
    left = [done]
    whole_open, whole_write = Path.open, InFolder._write

    def spend() -> None:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fail_to_open(path: Path, mode: str = "r", **options: Any) -> Any:
        if "w" in mode and tmp_path / "cache" in path.parents:
            spend()
        return whole_open(path, mode, **options)

    def fail_to_write(writer: InFolder, *arguments: Any) -> None:
        whole_write(writer, *arguments)
        spend()

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", fail_to_open)
        patched.setattr(InFolder, "_write", fail_to_write)
        with pytest.raises(PlatformError, match=r"BOW_CACHE_DIR=.*No space left on device.*free some space"):
            read(data, tmp_path / "cache")
    assert [path.name for path in files(tmp_path / "cache") if path.name.startswith(".")] == []
    assert list((tmp_path / "cache" / "corpora").glob(".*")) == []
    assert not read(data, tmp_path / "cache").cached
    assert_equal(read(data, tmp_path / "cache"), read(data, None))


def test_files_that_change_while_they_are_read_are_not_kept(tmp_path: Path, data: Path) -> None:
    """If it failed, a mixture of old and new rows would be kept under the new file's name."""
    spec = DataSpec(location=str(data), setting="BOW_TRAIN_DATA")

    def read_slowly(take: Callable[[RowBlock], object]) -> Summary:
        blocks: list[RowBlock] = []
        summary = read_rows(
            spec,
            lambda rows: tokenize_rows(rows, sample=1),
            blocks.append,
            num_threads=1,
            max_rejected=0.5,
        )
        for block in blocks:
            take(block)
        data.write_text(TEXTS + "late\ten\n", encoding="utf-8")
        return summary

    found, _ = Cache(tmp_path / "cache").get(spec, read_slowly, max_tokens=None)
    assert found.corpus.num_rows == 4
    assert list((tmp_path / "cache" / "files").iterdir()) == []
    assert read(data, tmp_path / "cache").corpora["train"].num_rows == 5


def test_a_stricter_limit_holds_for_cached_rows(tmp_path: Path, data: Path) -> None:
    """If it failed, BOW_MAX_REJECTED would say nothing about data that was read before."""
    read(data, tmp_path / "cache")
    with pytest.raises(TooManyRejected, match=r"1 of 5 rows"):
        read(data, tmp_path / "cache", max_rejected=0.1)


def test_a_folder_that_cannot_be_used_is_refused_before_reading(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it failed, an hour of reading would end in an error that could be known at the start."""
    monkeypatch.setattr("job.inputs.read", lambda *_, **__: pytest.fail("it was read all the same"))
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(PlatformError, match=r"BOW_CACHE_DIR=.*name another folder"):
        read(data, tmp_path / "cache")


def test_what_killed_jobs_left_is_removed_after_a_day(tmp_path: Path) -> None:
    """If it failed, killed jobs would fill the disk; sooner, a running job would lose what it writes."""
    old, new = (tmp_path / "cache" / "corpora" / f".unfinished-{name}" for name in ("old", "new"))
    for folder in (old, new):
        folder.mkdir(parents=True)
    before = old.stat().st_mtime - ABANDONED_AFTER - 1
    os.utime(old, (before, before))
    Cache(tmp_path / "cache")
    assert (old.exists(), new.exists()) == (False, True)


def test_what_no_run_used_for_days_is_removed(tmp_path: Path, data: Path) -> None:
    """If it failed, new data each night would fill the disk; or what is in use would be read again."""
    cache = tmp_path / "cache"
    read(data, cache)
    used, copy = files(cache), cache / "objects" / "url" / "version"
    data.write_text(TEXTS.replace("night", "mourn"), encoding="utf-8")
    read(data, cache)
    data.write_text(TEXTS, encoding="utf-8")
    copy.parent.mkdir(parents=True)
    copy.touch()

    def age() -> None:
        for path in cache.rglob("*"):
            before = path.stat().st_mtime - UNUSED_AFTER / 2 - 1
            os.utime(path, (before, before))

    age()
    read(data, cache)  # the same corpus, of what is another file by its time of change
    read(data, cache)
    age()
    assert read(data, cache).cached == {"train"}
    assert not copy.exists()
    for _ in range(3):  # nobody but these runs keeps it from growing old
        age()
        assert read(data, cache).cached == {"train"}
    assert not copy.parent.exists()
    left = [path for path in files(cache) if path.parent.parent.name == "corpora"]
    assert left == [path for path in used if path.parent.parent.name == "corpora"]
    assert len(list((cache / "files").iterdir())) == 1


def test_another_layout_is_made_anew(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it failed, a new release would misread what an older one kept."""
    read(data, tmp_path / "cache")
    monkeypatch.setattr(cache_module, "LAYOUT", cache_module.LAYOUT + 1)
    assert not read(data, tmp_path / "cache").cached


def test_words_that_were_dropped_while_counting_are_kept_for_that_limit_alone(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it failed, BOW_MAX_VOCABULARY would give another model where the cache holds the data."""
    monkeypatch.setattr("job.inputs.limit_for", lambda size: size)
    whole = read(data, tmp_path / "cache")
    assert len(whole.corpora["train"].tokens) == 6
    # Five words and the one that stands for none: at most as many are the same corpus.
    enough = read(data, tmp_path / "cache", max_vocabulary=6)
    assert enough.cached
    assert_equal(enough, whole)
    fewer = read(data, tmp_path / "cache", max_vocabulary=5)
    assert not fewer.cached
    assert fewer.corpora["train"].tokens.to_pylist() == ["good", "morning"]
    assert_equal(fewer, read(data, None, max_vocabulary=5))
    for limit, expected in ((5, fewer), (None, whole), (6, whole)):
        again = read(data, tmp_path / "cache", max_vocabulary=limit)
        assert again.cached
        assert_equal(again, expected)
