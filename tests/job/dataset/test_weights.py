"""The column of weights, in every format: which rows it gives, and which it refuses."""

import csv
import io
import json
import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from job.dataset import DataSpec, Rows, Summary, jsonlines, read, readers
from job.dataset.blocks import Block
from job.dataset.columns import Columns
from job.dataset.weights import to_numbers
from serving.errors import DataError

NAMES = ("weight", "text", "label")
GOOD = [("1", "a b", "x"), ("0", "", "y"), ("2.5", "c, d", "x"), ("1e-3", "e", "y"), ("+.5", "f", "x")]
WEIGHTS = np.array([1, 0, 2.5, 1e-3, 0.5], np.float32)
BAD = "weight is not a finite number of at least 0"
EXTENSIONS = ["tsv", "csv", "jsonl", "parquet", "tsv.gz", "csv.zst", "jsonl.gz"]


def put(folder: Path, extension: str, rows: list[tuple[Any, ...]], names: tuple[str, ...] = NAMES) -> Path:
    path = folder / f"data.{extension}"
    file_format, _, compression = extension.partition(".")
    out = io.StringIO(newline="")
    match file_format:
        case "parquet":
            columns = zip(*rows, strict=True)
            pq.write_table(pa.table(dict(zip(names, map(pa.array, map(list, columns)), strict=True))), path)
            return path
        case "tsv":
            out.writelines("\t".join(row) + "\n" for row in (names, *rows))
        case "csv":
            csv.writer(out).writerows([names, *rows])
        case "jsonl":
            out.writelines(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows)
    data = out.getvalue().encode()
    if compression:
        kind = {"gz": "gzip", "zst": "zstd"}[compression]
        with pa.CompressedOutputStream(str(path), kind) as stream:
            stream.write(data)
    else:
        path.write_bytes(data)
    return path


def load(path: Path, weight_column: str | None = "weight") -> tuple[list[Rows], Summary]:
    spec = DataSpec(location=str(path), setting="BOW_TRAIN_DATA", weight_column=weight_column)
    blocks: list[Rows] = []
    summary = read(spec, lambda rows: rows, blocks.append, num_threads=2, max_rejected=1)
    return blocks, summary


def weights_of(blocks: list[Rows]) -> list[tuple[str, float]]:
    found = []
    for rows in blocks:
        assert rows.weights is not None
        assert rows.weights.dtype == np.float32
        found += list(zip(rows.texts.to_pylist(), rows.weights.tolist(), strict=True))
    return found


@pytest.mark.parametrize("block_bytes", [7, 1 << 23])
@pytest.mark.parametrize("extension", EXTENSIONS)
def test_every_format_gives_each_row_its_weight(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, extension: str, block_bytes: int
) -> None:
    """If it failed, the same data would train another model in another format."""
    monkeypatch.setattr("job.dataset.blocks.BLOCK_BYTES", block_bytes)
    blocks, summary = load(put(tmp_path, extension, GOOD))
    assert weights_of(blocks) == [
        (text, weight) for (_, text, _), weight in zip(GOOD, WEIGHTS.tolist(), strict=True)
    ]
    assert not summary.rejected


@pytest.mark.parametrize("extension", EXTENSIONS)
def test_a_column_that_nobody_named_is_no_weight(tmp_path: Path, extension: str) -> None:
    """If it failed, a column that happens to be called weight would change the model."""
    blocks, _ = load(put(tmp_path, extension, GOOD), weight_column=None)
    assert [rows.weights for rows in blocks] == [None] * len(blocks)


@pytest.mark.parametrize(
    "column",
    [
        pa.array([2, 0, 1]),
        pa.array([2, 0, 1], pa.uint8()),
        pa.array([2, 0, 1], pa.float32()),
        pa.array(np.array([2, 0, 1], np.float16)),
        pa.array([Decimal("2.00"), Decimal(0), Decimal(1)]),
        pa.array(["2", "0", "1"]).dictionary_encode(),
        pa.array([2.0, 0.0, 1.0]).dictionary_encode(),
        pa.array([b"2", b"0", b"1"], pa.large_binary()),
    ],
    ids=lambda column: str(column.type).split("<", maxsplit=1)[0],
)
def test_parquet_weights_may_have_any_type_of_number(tmp_path: Path, column: Any) -> None:
    """If it failed, a table that another program wrote would have to be converted first."""
    table = pa.table({"text": ["a", "b", "c"], "label": ["x", "y", "x"], "weight": column})
    pq.write_table(table, tmp_path / "data.parquet")
    assert weights_of(load(tmp_path / "data.parquet")[0]) == [("a", 2), ("b", 0), ("c", 1)]


@pytest.mark.parametrize("types", [(1, 2.5), ("1", "2.5"), (1, "2.5")])
def test_json_weights_may_be_numbers_or_strings(tmp_path: Path, types: tuple[Any, Any]) -> None:
    """If it failed, an export that quotes its numbers would be refused."""
    path = put(tmp_path, "jsonl", [(types[0], "a", "x"), (types[1], "b", "y")])
    assert weights_of(load(path)[0]) == [("a", 1), ("b", 2.5)]


@pytest.mark.parametrize("weight", [2, 2.5, "2"])
@pytest.mark.parametrize("label", ["x", 7])
def test_json_of_one_type_each_takes_the_fast_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, label: Any, weight: Any
) -> None:
    """If it failed, such files would be read an order of magnitude slower."""
    monkeypatch.setattr("job.dataset.jsonlines._parse_json_lines", None)
    path = put(tmp_path, "jsonl", [(weight, "a", label)] * 2)
    assert weights_of(load(path)[0]) == [("a", float(weight))] * 2


MISSING = ["", " "]
NO_NUMBERS = [
    "-1",
    "-1e-9",
    "nan",
    "inf",
    "-inf",
    "1e39",
    "1e999",
    "much",
    "1,5",
    "1_0",
    "0x1",
    "1e",
    ".",
    "١",
]


@pytest.mark.parametrize("extension", ["tsv", "csv", "jsonl", "parquet"])
def test_rows_without_a_weight_that_can_be_used_are_rejected(tmp_path: Path, extension: str) -> None:
    """If it failed, such a row would end the run, turn the gradient around, or count as something else."""
    values = [*MISSING, *NO_NUMBERS]
    rows = [("1", "first", "x"), *((value, "bad", "x") for value in values), ("2", "last", "y")]
    blocks, summary = load(put(tmp_path, extension, rows))
    assert weights_of(blocks) == [("first", 1), ("last", 2)]
    first = 3 if extension in ("tsv", "csv") else 2
    reasons = ["no weight"] * len(MISSING) + [BAD] * len(NO_NUMBERS)
    assert [(row.line, row.reason) for row in summary.rejected.details] == list(enumerate(reasons, first))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b'{"text": "a", "label": "x"}', "no weight"),
        (b'{"text": "a", "label": "x", "weight": null}', "no weight"),
        (b'{"text": "a", "label": "x", "weight": NaN}', "no weight"),
        (b'{"text": "a", "label": "x", "weight": -2}', BAD),
        (b'{"text": "a", "label": "x", "weight": 1e999}', BAD),
        (b'{"text": "a", "label": "x", "weight": 1e300}', BAD),
        (b'{"text": "a", "label": "x", "weight": true}', BAD),
        (b'{"text": "a", "label": "x", "weight": [1]}', "weight is not a plain value"),
        (b'{"text": "a", "weight": -2}', "no label"),
    ],
)
def test_a_bad_json_weight_is_rejected_with_its_line(tmp_path: Path, value: bytes, reason: str) -> None:
    """If it failed, the row could not be found and corrected."""
    good = b'{"text": "a", "label": "x", "weight": 1}'
    (tmp_path / "data.jsonl").write_bytes(b"\n".join([good, value, good]))
    blocks, summary = load(tmp_path / "data.jsonl")
    assert weights_of(blocks) == [("a", 1), ("a", 1)]
    assert [(row.line, row.reason) for row in summary.rejected.details] == [(2, reason)]


@pytest.mark.parametrize("column", [[1.0, None, math.nan, math.inf, -1.0], ["1", None, "\xff", "x", "-1"]])
def test_a_bad_parquet_weight_is_rejected_with_its_row(tmp_path: Path, column: list[Any]) -> None:
    """If it failed, a null or a NaN of a data frame would become the weight 0, or end training."""
    blocks, summary = load(put(tmp_path, "parquet", [(each, "a", "x") for each in column]))
    assert weights_of(blocks) == [("a", 1)]
    assert [(row.line, row.reason) for row in summary.rejected.details] == [
        (2, "no weight"),
        *((line, BAD) for line in (3, 4, 5)),
    ]


@pytest.mark.parametrize("extension", ["tsv", "csv", "jsonl", "parquet"])
def test_a_column_that_there_is_not_is_named_with_those_there_are(tmp_path: Path, extension: str) -> None:
    """If it failed, a misspelt column would leave all rows with the same weight."""
    path = put(tmp_path, extension, GOOD)
    found = r"expected a column 'wight' \(BOW_WEIGHT_COLUMN\); found the columns 'weight', 'text', 'label'"
    with pytest.raises(DataError, match=f"{found}; set BOW_WEIGHT_COLUMN"):
        load(path, "wight")


@pytest.mark.parametrize(("column", "what"), [("text", "texts"), ("label", "labels")])
def test_a_column_that_holds_something_else_is_refused(tmp_path: Path, column: str, what: str) -> None:
    """If it failed, every row would be rejected, or numbers that are labels would be weights."""
    path = put(tmp_path, "tsv", GOOD)
    with pytest.raises(DataError, match=f"weights and {what} .* '{column}'.*correct BOW_WEIGHT_COLUMN"):
        load(path, column)


def test_a_column_of_lists_is_refused(tmp_path: Path) -> None:
    """If it failed, the run would end in a traceback."""
    path = put(tmp_path, "parquet", [([1.0], "a", "x")])
    with pytest.raises(DataError, match=r"'weight' to hold plain values, found list.*with BOW_WEIGHT_COLUMN"):
        load(path)


def test_fasttext_files_have_no_column_of_weights(tmp_path: Path) -> None:
    """If it failed, BOW_DATA_FORMAT=auto would train such files without the weights that were asked for."""
    (tmp_path / "data.ft").write_text("__label__x a\n")
    with pytest.raises(DataError, match=r"data\.ft: .*'weight' \(BOW_WEIGHT_COLUMN\).*fastText"):
        load(tmp_path / "data.ft")


def test_fasttext_files_may_stand_beside_files_with_columns() -> None:
    """If it failed, a column that the training data needs would keep a fastText file from being test data."""
    block = Block(path=Path("data.ft"), first_line=1, data=b"__label__x a\n")
    columns, _ = readers.read_header(
        block, "fasttext", text_column="body", label_column="kind", weight_column=None
    )
    assert (columns.names, columns.text, columns.label) == (("text", "label"), 0, 1)


def plain_number(value: str | None) -> float:
    """A weight by Python's own reading; NaN where there is none, or it is written as a word."""
    try:
        return math.nan if value is None or set(value) & set("naif") else float(value)
    except ValueError:
        return math.nan


@given(st.lists(st.one_of(st.text(alphabet="0123456789+-.eE \t\xffnaif", max_size=6), st.none())))
def test_numbers_are_read_as_python_reads_them_whatever_stands_beside_them(values: list[str | None]) -> None:
    """If it failed, a bad row would change what the good ones of its block count."""
    fields = [None if value is None else value.encode("latin-1") for value in values]
    numbers = to_numbers(pa.array(fields, pa.binary()))
    blank = [value is None or not value.strip() for value in values]
    assert numbers.is_null().to_pylist() == blank
    with np.errstate(over="ignore"):
        expected = np.array([plain_number(value) for value in values]).astype(np.float32)
    np.testing.assert_array_equal(numbers.to_numpy(zero_copy_only=False), expected)


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    st.sampled_from(["", " ", "1", "1.5", "x", "nan"]),
)


@given(st.lists(st.fixed_dictionaries({"text": st.just("a"), "label": st.just("x")}, optional={"w": VALUES})))
def test_json_weights_are_read_alike_by_arrow_and_by_python(rows: list[dict[str, Any]]) -> None:
    """If it failed, a row's weight would depend on the other rows of its block."""
    columns = Columns(names=("text", "label", "w"), text=0, label=1, weight=2)
    lines = [json.dumps(row).encode() for row in rows]
    block = Block(path=Path("data"), first_line=1, data=b"\n".join(lines))
    found = readers.parse(block, "jsonl", columns)
    plain = jsonlines._parse_json_lines(lines, list(range(1, len(lines) + 1)), columns)
    assert found.rejects == plain.rejects
    assert found.weights is not None
    assert plain.weights is not None
    np.testing.assert_array_equal(found.weights, plain.weights)
