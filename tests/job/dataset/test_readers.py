"""The vectorised readers against plain Python, which they must equal on any input."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from job.dataset import jsonlines, readers
from job.dataset.blocks import Block
from job.dataset.columns import Columns, Parsed

COLUMNS = Columns(names=("text", "label"), text=0, label=1)


def block(data: bytes) -> Block:
    return Block(path=Path("data"), first_line=1, data=data)


def outcome(parsed: Parsed) -> tuple[list[str], list[str], list[tuple[int, str]]]:
    return parsed.texts.to_pylist(), parsed.labels.to_pylist(), parsed.rejects


@settings(max_examples=1000, deadline=None)
@given(st.text(alphabet='ab,,"\n\r\ufeff', max_size=40))
def test_csv_is_read_as_the_csv_module_reads_it(data: str) -> None:
    """Arrow and Python must agree on odd quotes too, since a block may go either way."""
    parsed = readers.parse(block(data.encode()), "csv", COLUMNS)
    rows = [row for row in csv.reader(io.StringIO(data, newline="")) if row]
    good = [tuple(row) for row in rows if len(row) == 2 and row[1].strip()]
    found = list(zip(parsed.texts.to_pylist(), parsed.labels.to_pylist(), strict=True))
    if any(reason == "unclosed quote" for _, reason in parsed.rejects):
        assert found in (good, good[:-1])
    else:
        assert found == good
        assert len(parsed.rejects) == len(rows) - len(good)


def test_a_long_text_survives_a_bad_row_beside_it() -> None:
    """Python's csv module refuses fields of 128 KiB by default; what Arrow takes must not be lost."""
    data = b"x" * 200_000 + b',label\none field\n"' + b"y\n" * 100_000 + b'",label\n'
    parsed = readers.parse(block(data), "csv", COLUMNS)
    assert [len(text.as_py()) for text in parsed.texts] == [200_000, 200_000]
    assert parsed.rejects == [(2, "expected 2 columns, found 1")]


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.sampled_from(["", "a", "é\u2028", "\0", "\ud800", "\\", '"', "2020-01-01", "1", "true", " "]),
    st.lists(st.integers(), max_size=1),
    st.just(1.5),
)


@settings(max_examples=500, deadline=None)
@given(
    st.lists(st.dictionaries(st.sampled_from(["text", "label", "other"]), VALUES), max_size=5),
    st.booleans(),
    st.sampled_from(["\n", "\r\n", "\n\n", " \n"]),
)
def test_json_lines_are_read_alike_by_arrow_and_by_python(
    rows: list[dict[str, Any]], ascii_only: bool, end: str
) -> None:
    """A block is read by either, depending on its other rows, and a row must not depend on its neighbours."""
    text = "".join(json.dumps(row, ensure_ascii=ascii_only) + end for row in rows)
    whole = block(text.encode(errors="surrogatepass"))
    lines = whole.data.split(b"\n")
    filled = [(line.removesuffix(b"\r"), i) for i, line in enumerate(lines, 1) if line.strip()]
    plain = jsonlines._parse_json_lines([line for line, _ in filled], [i for _, i in filled], COLUMNS)
    assert outcome(readers.parse(whole, "jsonl", COLUMNS)) == outcome(plain)


@pytest.mark.parametrize(
    "line",
    [
        b'{"text": "a", "text": "b", "label": "x"}',
        b'{"text": "b", "label": "x", "other": NaN}',
        b'{"text": "b", "label": "x", "other": {"text": "c"}}',
        b'  {"text": "b", "label": "x"}\t',
    ],
)
def test_odd_but_valid_json_is_read(line: bytes) -> None:
    """Other writers repeat keys, indent, or write NaN; these rows are good."""
    assert outcome(readers.parse(block(line), "jsonl", COLUMNS)) == (["b"], ["x"], [])


@settings(max_examples=500, deadline=None)
@given(st.lists(st.text(alphabet='ab"\t\r \ufeff', max_size=6), max_size=6))
def test_tab_separated_values_are_split_at_tabs_alone(rows: list[str]) -> None:
    """There is no quoting: what stands between two tabs is the field, a lone carriage return included."""
    data = "\n".join(rows).encode()
    parsed = readers.parse(block(data), "tsv", COLUMNS)
    fields = [row.removesuffix("\r").split("\t") if i < len(rows) else [] for i, row in enumerate(rows, 1)]
    if rows:
        fields[-1] = rows[-1].split("\t")
    good = [tuple(f) for f in fields if len(f) == 2 and f[1].strip()]
    assert list(zip(parsed.texts.to_pylist(), parsed.labels.to_pylist(), strict=True)) == good


@pytest.mark.parametrize("data", [b"", b"\n", b"\r\n\r\n"])
@pytest.mark.parametrize("file_format", ["tsv", "csv", "jsonl", "fasttext"])
def test_a_block_without_rows_is_empty(data: bytes, file_format: Any) -> None:
    """A file may hold a header alone, or end in blank lines that make a block of their own."""
    assert outcome(readers.parse(block(data), file_format, COLUMNS)) == ([], [], [])
