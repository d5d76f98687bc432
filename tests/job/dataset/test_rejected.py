"""Rejected rows: counted, described, and written whole or not at all."""

import json
import os
from pathlib import Path

import pytest

from job.dataset import rejected
from job.dataset.rejected import RejectedRows
from serving.errors import PlatformError


def test_all_rows_are_counted_and_the_first_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of nothing but bad rows must not fill the memory, nor be reported as fewer than it has."""
    monkeypatch.setattr(rejected, "MAX_DETAILS", 3)
    rows = RejectedRows()
    rows.add("a", [(1, "no label"), (2, "no text")])
    rows.add("b", [(9, "no label"), (10, "no label")])
    assert len(rows) == 4
    assert rows.counts == {"no label": 3, "no text": 1}
    assert [(row.file, row.line) for row in rows.details] == [("a", 1), ("a", 2), ("b", 9)]


def test_the_description_names_the_commonest_reasons_and_their_first_rows() -> None:
    """A broken file can have a hundred reasons; the message must stay readable."""
    rows = RejectedRows()
    rows.add("f", [(line, f"expected 2 columns, found {line}") for line in range(3, 9)])
    rows.add("f", [(20, "no label"), (21, "no label"), (22, "no label"), (23, "no label")])
    lines = rows.describe().splitlines()
    assert lines[0] == "  4 × no label, first f:20, f:21, f:22"
    assert lines[1] == "  1 × expected 2 columns, found 3, first f:3"
    assert lines[5:] == ["  2 × other reasons"]


def test_rows_are_written_as_json_lines_over_an_earlier_file(tmp_path: Path) -> None:
    """Another program corrects the rows by this file; any file name must survive it."""
    rows = RejectedRows()
    names = ["plain", 'with "quotes"\n', os.fsdecode(b"\xff"), "ਪ"]
    for name in names:
        rows.add(name, [(1, "no label")])
    path = tmp_path / "rejected.jsonl"
    path.write_text("old")
    rows.write(path)
    found = [json.loads(line) for line in path.read_text().splitlines()]
    assert found == [{"file": name, "line": 1, "reason": "no label"} for name in names]
    assert list(tmp_path.iterdir()) == [path]


def test_two_jobs_may_write_one_list_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs without a name share a list; one would end with the other's half, or blame the disk."""
    mine, others = RejectedRows(), RejectedRows()
    mine.add("mine", [(1, "no label")])
    others.add("others", [(2, "no text")])
    path, dumps = tmp_path / "run.rejected.jsonl", json.dumps

    def meanwhile(row: object) -> str:
        monkeypatch.undo()
        others.write(path)
        assert json.loads(path.read_text())["file"] == "others"
        return dumps(row)

    monkeypatch.setattr(json, "dumps", meanwhile)
    mine.write(path)
    assert json.loads(path.read_text())["file"] == "mine"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    """Half a file would look like a complete list."""
    rows = RejectedRows()
    rows.add("f", [(1, "no label")])
    (tmp_path / "folder").mkdir()
    with pytest.raises(PlatformError, match="cannot be written"):
        rows.write(tmp_path / "folder")
    with pytest.raises(PlatformError, match="cannot be written"):
        rows.write(tmp_path / "missing" / "rejected.jsonl")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
