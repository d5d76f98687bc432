"""Reading labelled data as a whole: every format and compression, the rejects, the order, the fingerprint."""

import csv
import hashlib
import io
import json
import math
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from job.dataset import DataSpec, Rows, Summary, TooManyRejected, read
from job.dataset.blocks import read_blocks
from serving.errors import DataError, ExitCode

TEXT_FORMATS = ["tsv", "csv", "jsonl", "fasttext"]
FORMATS = [*TEXT_FORMATS, "parquet"]
COMPRESSIONS = ["", ".gz", ".zst"]
EXTENSIONS = {"tsv": ".tsv", "csv": ".csv", "jsonl": ".jsonl", "fasttext": ".txt", "parquet": ".parquet"}
ROWS = [
    ("hello world", "greeting"),
    ("", "empty"),
    (" spaces  kept ", "a/b"),
    ("ਪ੍ਰੇਮ ਸਿੰਘ 😀", "pa"),
    ('say "hi", twice', "quoted"),
    ("ends in a \\ backslash", "1"),
    ("U+2028 \u2028 and NEL \x85 are no line ends", "2"),
]
CSV_ROWS = [*ROWS, ("two\nlines", "multi"), ("a\r\nb", "multi"), ("\n", "multi"), ("tab\there", "tab")]

Row = tuple[str, str]


def encode(rows: list[Row], file_format: str, end: str = "\n") -> bytes:
    if file_format == "parquet":
        buffer = io.BytesIO()
        pq.write_table(pa.table({"text": [t for t, _ in rows], "label": [n for _, n in rows]}), buffer)
        return buffer.getvalue()
    out = io.StringIO(newline="")
    match file_format:
        case "tsv":
            out.write(f"label\ttext{end}" + "".join(f"{label}\t{text}{end}" for text, label in rows))
        case "csv":
            csv.writer(out, lineterminator=end).writerows([("text", "label"), *rows])
        case "jsonl":
            out.write("".join(json.dumps({"text": t, "label": n}, ensure_ascii=False) + end for t, n in rows))
        case "fasttext":
            out.write("".join(f"__label__{label} {text}{end}" for text, label in rows))
    return out.getvalue().encode()


def put(path: Path, data: bytes) -> Path:
    compression = {".gz": "gzip", ".zst": "zstd"}.get(path.suffix)
    if compression is None:
        path.write_bytes(data)
    else:
        with pa.CompressedOutputStream(str(path), compression) as stream:
            stream.write(data)
    return path


def load(
    location: Path | str, *, max_rejected: float = 1.0, num_threads: int = 2, **fields: Any
) -> tuple[list[Row], Summary]:
    spec = DataSpec(location=str(location), setting="BOW_TRAIN_DATA", **fields)
    blocks: list[list[Row]] = []
    summary = read(spec, pairs, blocks.append, num_threads=num_threads, max_rejected=max_rejected)
    return [row for block in blocks for row in block], summary


def pairs(rows: Rows) -> list[Row]:
    assert rows.texts.type == rows.labels.type == pa.string()
    assert rows.texts.null_count == rows.labels.null_count == 0
    rows.texts.validate(full=True)
    rows.labels.validate(full=True)
    return list(zip(rows.texts.to_pylist(), rows.labels.to_pylist(), strict=True))


def rejects(summary: Summary) -> list[tuple[int, str]]:
    return [(row.line, row.reason) for row in summary.rejected.details]


@pytest.fixture(params=[1, 7, 64, None], ids=lambda size: f"{size or 'default'}-byte-blocks")
def block_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int | None:
    if request.param is not None:
        monkeypatch.setattr("job.dataset.blocks.BLOCK_BYTES", request.param)
    return request.param


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("file_format", TEXT_FORMATS)
def test_rows_survive_every_format_and_compression(
    tmp_path: Path, file_format: str, end: str, compression: str, block_bytes: int | None
) -> None:
    """Otherwise the same data would train another model in another format, or lose rows between blocks."""
    rows = CSV_ROWS if file_format == "csv" else ROWS
    path = put(tmp_path / f"data{EXTENSIONS[file_format]}{compression}", encode(rows, file_format, end))
    found, summary = load(path)
    assert found == rows
    assert (summary.num_files, summary.num_rows, len(summary.rejected)) == (1, len(rows), 0)
    assert summary.num_bytes == len(encode(rows, file_format, end))


def test_rows_survive_parquet(tmp_path: Path, block_bytes: int | None) -> None:
    """Otherwise Parquet would lose or change rows between batches."""
    found, summary = load(put(tmp_path / "data.parquet", encode(CSV_ROWS, "parquet")))
    assert found == CSV_ROWS
    assert summary.num_bytes == (tmp_path / "data.parquet").stat().st_size


@pytest.mark.parametrize("file_format", TEXT_FORMATS)
def test_a_last_row_without_line_end_is_read(
    tmp_path: Path, file_format: str, block_bytes: int | None
) -> None:
    """Many editors leave it out, and its row would be lost."""
    data = encode(ROWS, file_format).removesuffix(b"\n")
    assert load(put(tmp_path / f"data{EXTENSIONS[file_format]}", data))[0] == ROWS


@pytest.mark.parametrize("file_format", TEXT_FORMATS)
def test_a_byte_order_mark_is_not_part_of_the_first_name(tmp_path: Path, file_format: str) -> None:
    """Files saved by spreadsheet programs start with one, and their first column would not be found."""
    data = b"\xef\xbb\xbf" + encode(ROWS, file_format)
    found, summary = load(put(tmp_path / f"data{EXTENSIONS[file_format]}", data))
    assert found == ROWS
    assert summary.fingerprint == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("file_format", TEXT_FORMATS)
def test_blank_lines_are_skipped_but_counted_as_lines(
    tmp_path: Path, file_format: str, block_bytes: int | None
) -> None:
    """They are no rows, yet every reject behind them would point to the wrong line."""
    lines = encode([("a", "x"), ("b", "y"), ("c", "z")], file_format).splitlines(keepends=True)
    bad = {"tsv": b"x\n", "csv": b"x\n", "jsonl": b"[]\n", "fasttext": b"x\n"}[file_format]
    lines[-1:-1] = [b"\n", b"\r\n", bad, b"\n"]
    found, summary = load(put(tmp_path / f"data{EXTENSIONS[file_format]}", b"".join(lines)))
    assert found == [("a", "x"), ("b", "y"), ("c", "z")]
    assert [line for line, _ in rejects(summary)] == [lines.index(bad) + 1]


TSV_REJECTS = b"""label\ttext
x\tgood
\tno label
  \tblank label
x\ta\tthird field
single
x\t\xff
\xff\tx
x\ta\0b
x\0\tb
x\t
\tno label and \xff
"""
CSV_REJECTS = b"""text,label
"good
over
lines",x
"no label
",
,x
"a
b",x,"third
field"
single
\xff,x
"\xed\xa0\x80
",x
"late\0",x
stray " quote " and "more",x
last,x
"""
JSONL_REJECTS = b"""{"text": "good", "label": "x"}
{"text": "no label"}
{"text": "null label", "label": null}
{"text": "blank label", "label": " \\u00a0"}
{"label": "no text"}
{"text": null, "label": "null text"}
[1, 2]
{"text": "cut", "lab
{"text": "\xff", "label": "x"}
{"text": "\\ud800", "label": "x"}
{"text": "a\\u0000b", "label": "x"}
{"text": ["nested"], "label": "x"}
{"text": "nested", "label": {"a": 1}}
{"text": "", "label": 7}
{"text": "float", "label": 7.50}
{"text": "bool", "label": true}
{"text": 12, "label": "x"}
{"text": "not a number", "label": NaN}
"""
FASTTEXT_REJECTS = b"""__label__x good
__label__ no label
hello __label__x
__label__x __label__y two
__label__x in the end __label__y
__label__x a__label__b is one word
__label__x \xff
__label__x a\0b
__label__\xff b
__label__x
__label__x\ttab
 __label__x
"""


@pytest.mark.parametrize(
    ("name", "data", "good", "bad"),
    [
        pytest.param(
            "data.tsv",
            TSV_REJECTS,
            [("good", "x"), ("", "x")],
            [
                (3, "no label"),
                (4, "no label"),
                (5, "expected 2 columns, found 3"),
                (6, "expected 2 columns, found 1"),
                (7, "invalid UTF-8"),
                (8, "invalid UTF-8"),
                (9, "NUL character"),
                (10, "NUL character"),
                (12, "invalid UTF-8"),
            ],
            id="tsv",
        ),
        pytest.param(
            "data.csv",
            CSV_REJECTS,
            [("good\nover\nlines", "x"), ("", "x"), ('stray " quote " and "more"', "x"), ("last", "x")],
            [
                (5, "no label"),
                (8, "expected 2 columns, found 3"),
                (11, "expected 2 columns, found 1"),
                (12, "invalid UTF-8"),
                (13, "invalid UTF-8"),
                (15, "NUL character"),
            ],
            id="csv",
        ),
        pytest.param(
            "data.jsonl",
            JSONL_REJECTS,
            [("good", "x"), ("", "7"), ("float", "7.50"), ("bool", "true"), ("12", "x")],
            [
                (2, "no label"),
                (3, "no label"),
                (4, "no label"),
                (5, "no text"),
                (6, "no text"),
                (7, "not a JSON object"),
                (8, "not a JSON object"),
                (9, "invalid UTF-8"),
                (10, "invalid UTF-8"),
                (11, "NUL character"),
                (12, "text is not a plain value"),
                (13, "label is not a plain value"),
                (18, "no label"),
            ],
            id="jsonl",
        ),
        pytest.param(
            "data.ft",
            FASTTEXT_REJECTS,
            [("good", "x"), ("a__label__b is one word", "x"), ("", "x"), ("tab", "x")],
            [
                (2, "no label"),
                (3, "no label at the start"),
                (4, "several labels; one is expected"),
                (5, "several labels; one is expected"),
                (7, "invalid UTF-8"),
                (8, "NUL character"),
                (9, "invalid UTF-8"),
                (12, "no label at the start"),
            ],
            id="fasttext",
        ),
    ],
)
def test_each_bad_row_is_rejected_with_its_line_and_reason(
    tmp_path: Path,
    name: str,
    data: bytes,
    good: list[Row],
    bad: list[tuple[int, str]],
    block_bytes: int | None,
) -> None:
    """A bad row that is kept spoils the model; one with a wrong line cannot be corrected."""
    found, summary = load(put(tmp_path / name, data))
    assert found == good
    assert rejects(summary) == bad
    assert summary.rejected.details[0].file == str(tmp_path / name)


def test_parquet_rejects_carry_the_number_of_the_row(tmp_path: Path, block_bytes: int | None) -> None:
    """Rows without text or label, with bytes that are not UTF-8, would otherwise reach the model."""
    texts = pa.array([b"good", None, b"a", b"\xff", b"a\0", b"", b"b"], pa.binary())
    labels = pa.array(["x", "x", None, "x", "x", "x", ""]).dictionary_encode()
    pq.write_table(pa.table({"extra": range(7), "label": labels, "text": texts}), tmp_path / "data.parquet")
    found, summary = load(tmp_path / "data.parquet")
    assert found == [("good", "x"), ("", "x")]
    assert rejects(summary) == [
        (2, "no text"),
        (3, "no label"),
        (4, "invalid UTF-8"),
        (5, "NUL character"),
        (7, "no label"),
    ]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (pa.array([1, 2]), ["1", "2"]),
        (pa.array([1, 2], pa.uint8()), ["1", "2"]),
        (pa.array(["a", "b"], pa.large_string()), ["a", "b"]),
        (pa.array(["a", "b"], pa.string_view()), ["a", "b"]),
        (pa.array([True, False]), ["true", "false"]),
        (pa.array([3, 4]).dictionary_encode(), ["3", "4"]),
    ],
    ids=lambda value: str(getattr(value, "type", "")),
)
def test_parquet_labels_of_other_types_become_strings(
    tmp_path: Path, labels: Any, expected: list[str]
) -> None:
    """Class numbers and categories are the usual labels of exported tables."""
    pq.write_table(pa.table({"text": ["p", "q"], "label": labels}), tmp_path / "data.parquet")
    assert load(tmp_path / "data.parquet")[0] == [("p", expected[0]), ("q", expected[1])]


@pytest.mark.parametrize("number", [pa.float64(), pa.float32(), pa.float16()], ids=str)
def test_numbers_are_the_same_labels_in_parquet_and_json_lines(tmp_path: Path, number: Any) -> None:
    """If it failed, a model trained on one format would not know the other's labels, or know one `nan`."""
    values = [1.0, -2.0, 0.5, math.nan, math.inf, None]
    texts = list("abcdef")
    pq.write_table(pa.table({"text": texts, "label": pa.array(values, number)}), tmp_path / "data.parquet")
    lines = [json.dumps({"text": text, "label": value}) for text, value in zip(texts, values, strict=True)]
    (tmp_path / "data.jsonl").write_text("\n".join(lines))
    expected = [("a", "1.0"), ("b", "-2.0"), ("c", "0.5")]
    for name in ("data.parquet", "data.jsonl"):
        found, summary = load(tmp_path / name)
        assert (name, found) == (name, expected)
        assert rejects(summary) == [(4, "no label"), (5, "no label"), (6, "no label")]


def test_large_whole_numbers_stay_whole(tmp_path: Path) -> None:
    """If it failed, identifiers of eleven digits would be other labels than in CSV."""
    labels = pa.array([12345678901.0, 3.0], pa.float64())
    pq.write_table(pa.table({"text": ["a", "b"], "label": labels}), tmp_path / "data.parquet")
    assert load(tmp_path / "data.parquet")[0] == [("a", "12345678901.0"), ("b", "3.0")]


def test_parquet_lists_are_refused(tmp_path: Path) -> None:
    """A column of lists has no one label a row, and must not end in a traceback."""
    pq.write_table(pa.table({"text": ["p"], "label": [["a", "b"]]}), tmp_path / "data.parquet")
    with pytest.raises(DataError, match=r"'label' to hold plain values, found list"):
        load(tmp_path / "data.parquet")


def test_json_labels_that_are_all_integers_take_the_fast_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Class numbers are common; reading them line by line would be an order of magnitude slower."""
    monkeypatch.setattr("job.dataset.jsonlines._parse_json_lines", None)
    path = put(tmp_path / "data.json", b'{"text": "a", "label": 3}\n\n{"text": "b", "label": -1}\n')
    assert load(path)[0] == [("a", "3"), ("b", "-1")]


@pytest.mark.parametrize(
    "data",
    [
        b'{"text": "a", "label": "x"}{"text": "b", "label": "y"}\n{"text": "c", "label": "z"}\n',
        b'{"text":\n"a", "label": "x"}{"text": "b", "label": "y"}\n{"text": "c", "label": "z"}\n',
    ],
)
def test_a_json_line_is_one_object(tmp_path: Path, data: bytes) -> None:
    """Arrow reads objects wherever they begin; the rows would then not be those of the lines."""
    found, summary = load(put(tmp_path / "data.jsonl", data))
    assert found == [("c", "z")]
    assert set(summary.rejected.counts) == {"not a JSON object"}


@pytest.mark.parametrize("depth", [2_000, 200_000])
def test_deeply_nested_json_is_a_reject(tmp_path: Path, depth: int) -> None:
    """A hostile row must not end the run by a full stack."""
    row = b'{"text": ' + b"[" * depth + b"]" * depth + b', "label": "x"}\n'
    found, summary = load(put(tmp_path / "data.jsonl", b'{"text": "a", "label": "x"}\n' + row))
    assert found == [("a", "x")]
    assert [line for line, _ in rejects(summary)] == [2]


def test_an_unclosed_quote_rejects_every_line_it_swallows(tmp_path: Path, block_bytes: int | None) -> None:
    """Otherwise one stray quote would turn the rest of a file into a single long text, unnoticed."""
    path = put(tmp_path / "data.csv", b'text,label\na,x\n"b,y\nc,z\nd,x\n')
    found, summary = load(path)
    assert found == [("a", "x")]
    assert rejects(summary) == [(3, "unclosed quote"), (4, "unclosed quote"), (5, "unclosed quote")]


def test_a_record_longer_than_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unclosed quote at the start of a huge file would otherwise fill the memory."""
    monkeypatch.setattr("job.dataset.blocks.BLOCK_BYTES", 16)
    monkeypatch.setattr("job.dataset.blocks.MAX_RECORD_BYTES", 64)
    path = put(tmp_path / "data.csv", b'text,label\na,x\n"b,y\n' + b"c,z\n" * 100)
    with pytest.raises(DataError, match=r"data\.csv:3: .*close the quote"):
        load(path)


@pytest.mark.parametrize("file_format", FORMATS)
def test_columns_are_found_in_each_file_by_name(tmp_path: Path, file_format: str) -> None:
    """Files exported at different times order their columns differently; texts would become labels."""
    if file_format == "fasttext":
        pytest.skip("fastText has no columns")
    (tmp_path / "data").mkdir()
    for name, columns in (("1", ("Sentence", "INTENT", "id")), ("2", ("id", "intent", "sentence"))):
        values = {"sentence": f"text {name}", "intent": f"label {name}", "id": "0"}
        row = [values[column.lower()] for column in columns]
        path = tmp_path / "data" / f"{name}{EXTENSIONS[file_format]}"
        match file_format:
            case "parquet":
                pq.write_table(pa.table({c: [v] for c, v in zip(columns, row, strict=True)}), path)
            case "jsonl":
                put(path, json.dumps(dict(zip(columns, row, strict=True))).encode())
            case _:
                separator = "\t" if file_format == "tsv" else ","
                put(path, "\n".join(map(separator.join, (columns, row))).encode())
    assert load(tmp_path / "data")[0] == [("text 1", "label 1"), ("text 2", "label 2")]


@pytest.mark.parametrize(
    ("header", "fields", "expected"),
    [
        ("a\tlabel", {}, r"a text column named .*found the columns 'a', 'label'; set BOW_TEXT_COLUMN"),
        ("text\tb", {}, r"a label column named .*found the columns 'text', 'b'; set BOW_LABEL_COLUMN"),
        ("text\tlabel", {"text_column": "Text"}, r"a column 'Text' \(BOW_TEXT_COLUMN\)"),
        ("text\tlabel\ttext", {}, "one text column, found 2"),
        ("text\tlabel\tLabel", {}, "one label column, found 2"),
        ("text\tlabel", {"text_column": "label"}, "both read from the column 'label'"),
        ("\t".join(f"c{i}" for i in range(100)), {}, "and 80 more"),
    ],
)
def test_columns_that_cannot_be_told_are_listed(
    tmp_path: Path, header: str, fields: dict[str, str], expected: str
) -> None:
    """A guess would train on the wrong column; the message must let the user choose."""
    path = put(tmp_path / "data.tsv", (header + "\n").encode())
    with pytest.raises(DataError, match=expected):
        load(path, **fields)


def test_earlier_names_win_and_other_duplicates_do_not_matter(tmp_path: Path) -> None:
    """A table with a `text` and a `content`, or with two unrelated columns of one name, is no problem."""
    path = put(tmp_path / "data.csv", b"content,id,lang,text,label,id\nc,1,en,t,l,2\n")
    assert load(path)[0] == [("t", "l")]
    assert load(path, text_column="content", label_column="lang")[0] == [("c", "en")]


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("num_threads", [1, 4])
def test_results_keep_the_order_of_the_rows(
    tmp_path: Path, file_format: str, num_threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Threads finish in any order; the same seed would then give another model each time."""
    monkeypatch.setattr("job.dataset.blocks.BLOCK_BYTES", 64)
    rows = [(f"text {i}", str(i % 3)) for i in range(300)]
    for part in range(3):
        data = encode(rows[part * 100 : part * 100 + 100], file_format)
        put(tmp_path / f"{part}{EXTENSIONS[file_format]}", data)
    delays = random.Random(0)

    def slow(block: Rows) -> list[Row]:
        time.sleep(delays.random() * 0.002)
        return pairs(block)

    spec = DataSpec(location=str(tmp_path), setting="BOW_TRAIN_DATA")
    blocks: list[list[Row]] = []
    summary = read(spec, slow, blocks.append, num_threads=num_threads, max_rejected=0)
    assert [row for block in blocks for row in block] == rows
    assert len(blocks) > 3
    assert summary.num_files == 3


def test_only_a_window_of_blocks_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file larger than memory would otherwise be held whole while its first blocks are processed."""
    monkeypatch.setattr("job.dataset.blocks.BLOCK_BYTES", 16)
    path = put(tmp_path / "data.tsv", encode([(f"text {i}", "x") for i in range(500)], "tsv"))
    yielded = 0
    finished = 0
    lead = 0
    lock = threading.Lock()
    original = read_blocks

    def counting(*args: Any) -> Any:
        nonlocal yielded, lead
        for block in original(*args):
            with lock:
                yielded += 1
                lead = max(lead, yielded - finished)
            yield block

    def count(_: Rows) -> None:
        nonlocal finished
        time.sleep(0.0005)
        with lock:
            finished += 1

    monkeypatch.setattr("job.dataset.reading.read_blocks", counting)
    spec = DataSpec(location=str(path), setting="BOW_TRAIN_DATA")
    results: list[None] = []
    read(spec, count, results.append, num_threads=2, max_rejected=0)
    assert len(results) > 100
    assert lead <= 2 + 2 + 1


@pytest.mark.parametrize("file_format", TEXT_FORMATS)
def test_the_fingerprint_is_of_the_contents_alone(
    tmp_path: Path, file_format: str, block_bytes: int | None
) -> None:
    """Compressing or renaming a file, or another block size, must not look like other data."""
    data = encode(ROWS, file_format)
    extension = EXTENSIONS[file_format]
    found = {
        load(put(tmp_path / f"{name}{extension}{compression}", data))[1].fingerprint
        for name, compression in zip("abc", COMPRESSIONS, strict=True)
    }
    assert found == {hashlib.sha256(data).hexdigest()}
    other = load(put(tmp_path / f"d{extension}", encode(ROWS[:-1], file_format)))[1].fingerprint
    assert other not in found


def test_the_fingerprint_covers_all_files_in_order(tmp_path: Path) -> None:
    """Otherwise a change in the second file, or of their order, would go unnoticed."""
    parts = [encode([(str(i), "x")], "parquet") for i in range(2)]
    for i, part in enumerate(parts):
        put(tmp_path / f"{i}.parquet", part)
    assert load(tmp_path)[1].fingerprint == hashlib.sha256(b"".join(parts)).hexdigest()


def test_too_many_rejected_rows_end_the_run_and_are_handed_over(tmp_path: Path) -> None:
    """The user needs the share, the reasons, examples and the setting, and the caller the rows to write."""
    path = put(tmp_path / "data.tsv", b"label\ttext\nx\ta\nx\tb\nc\n\td\n\te\n")
    with pytest.raises(TooManyRejected) as caught:
        load(path, max_rejected=0.5)
    message = str(caught.value)
    assert caught.value.exit_code == ExitCode.DATA
    assert "3 of 5 rows (60.000%)" in message
    assert "BOW_MAX_REJECTED=0.5" in message
    assert f"2 × no label, first {path}:5, {path}:6" in message
    assert f"1 × expected 2 columns, found 1, first {path}:4" in message
    assert caught.value.rejected.counts == {"no label": 2, "expected 2 columns, found 1": 1}
    assert load(path, max_rejected=0.6)[1].num_rows == 2


@pytest.mark.parametrize(
    ("data", "expected"), [(b"label\ttext\n", "found none"), (b"label\ttext\n\ta\n", "none is left")]
)
def test_data_without_a_good_row_is_refused(tmp_path: Path, data: bytes, expected: str) -> None:
    """Training on nothing would end in an error far from its cause, whatever share is allowed."""
    with pytest.raises(TooManyRejected, match=expected):
        load(put(tmp_path / "data.tsv", data), max_rejected=1)


def test_an_error_in_process_stops_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the next stage must arrive as it is, and not after the whole data was read."""
    monkeypatch.setattr("job.dataset.blocks.BLOCK_BYTES", 16)
    path = put(tmp_path / "data.tsv", encode([(f"text {i}", "x") for i in range(500)], "tsv"))
    calls = 0

    def fail(_: Rows) -> None:
        nonlocal calls
        calls += 1
        raise KeyError("boom")

    spec = DataSpec(location=str(path), setting="BOW_TRAIN_DATA")
    with pytest.raises(KeyError, match="boom"):
        read(spec, fail, print, num_threads=2, max_rejected=0)
    assert calls < 20


def fuzzed(data: bytes) -> Callable[[random.Random], bytes]:
    def damage(source: random.Random) -> bytes:
        damaged = bytearray(data)
        for _ in range(source.randrange(1, 6)):
            position = source.randrange(len(damaged))
            match source.randrange(3):
                case 0:
                    damaged[position] = source.choice(b'\0\n\r",\t{}[]\xff_ a')
                case 1:
                    del damaged[position : position + source.randrange(1, 20)]
                case 2:
                    damaged[position:position] = source.choice(
                        [b'"', b"\n", b"\r", b"\0", b"\xff", b"{", b"\t"]
                    )
        return bytes(damaged)

    return damage


@pytest.mark.parametrize("file_format", FORMATS)
def test_damaged_files_end_in_rows_or_in_a_data_error(
    tmp_path: Path, file_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A traceback is no answer to a damaged file; nor may the result depend on where blocks end."""
    damage = fuzzed(encode(CSV_ROWS if file_format in ("csv", "parquet") else ROWS, file_format))
    source = random.Random(1)
    for _ in range(150):
        path = put(tmp_path / f"data{EXTENSIONS[file_format]}", damage(source))
        outcomes = []
        for size in (64, 8 << 20):
            monkeypatch.setattr("job.dataset.blocks.BLOCK_BYTES", size)
            try:
                rows, summary = load(path, format=file_format)
                outcomes.append((rows, rejects(summary)))
            except DataError:
                outcomes.append(None)
        if file_format != "jsonl":  # there the columns are taken from the objects of the first block
            assert outcomes[0] == outcomes[1], path.read_bytes()
