"""From a block of a text file to texts, labels and weights; each format's good path is vectorised."""

import csv
import io
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from job.dataset.blocks import Block, count_lines
from job.dataset.columns import Columns, Parsed, Reject, find_columns, keep_good
from job.dataset.jsonlines import object_keys, parse_jsonl
from job.dataset.records import Positions, csv_record_ends, csv_record_lines, first_record, split_lines
from job.dataset.sources import BOM, FileFormat
from serving.errors import DataError

_LABEL = b"__label__"
_CSV = pa_csv.ParseOptions(newlines_in_values=True)
_TSV = pa_csv.ParseOptions(delimiter="\t", quote_char=False)


def read_header(
    block: Block,
    file_format: FileFormat,
    *,
    text_column: str | None,
    label_column: str | None,
    weight_column: str | None = None,
) -> tuple[Columns, Block]:
    """Find the columns in a file's first block; return them and the block without the header.

    JSON lines have no header: the columns are the keys of the first objects. Nor has fastText.

    Raises:
        DataError: there is no usable header, or a column is missing or ambiguous; or a column of weights is
            named, and fastText has none. The other two may be those of another data set of the run.
    """
    if file_format == "fasttext":
        if weight_column is not None:
            raise DataError(
                f"{block.path}: expected a column {weight_column!r} (BOW_WEIGHT_COLUMN), and a fastText file "
                "has no columns; unset BOW_WEIGHT_COLUMN, or write the data in another format"
            )
        return Columns(names=("text", "label"), text=0, label=1), block
    if file_format == "jsonl":
        names = object_keys(block)
        rest = block
    else:
        names, rest = _split_header(block, is_csv=file_format == "csv")
    columns = find_columns(
        names,
        block.path,
        text_column=text_column,
        label_column=label_column,
        weight_column=weight_column,
    )
    return columns, rest


def _split_header(block: Block, *, is_csv: bool) -> tuple[list[str], Block]:
    start, end = first_record(block.data, quoted=is_csv)
    line = block.first_line + count_lines(block.data[:start])
    if start == end:
        raise DataError(f"{block.path}: expected a header line with column names, found only blank lines")
    try:
        header = block.data[start:end].decode()
        if is_csv:
            names = next(csv.reader(io.StringIO(header, newline="")))
        else:
            names = header.removesuffix("\n").removesuffix("\r").split("\t")
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(
            f"{block.path}:{line}: expected a header line with column names in UTF-8, found another "
            f"({error}); correct the line"
        ) from error
    first_line = block.first_line + count_lines(block.data[:end])
    return names, Block(path=block.path, first_line=first_line, data=block.data[end:])


def parse(block: Block, file_format: FileFormat, columns: Columns) -> Parsed:
    """Parse a block, its header taken off; a row that cannot be used becomes a reject, never an error."""
    match file_format:
        case "tsv":
            return _parse_tsv(block, columns)
        case "csv":
            return _parse_csv(block, columns)
        case "jsonl":
            return parse_jsonl(block, columns)
        case "fasttext":
            return _parse_fasttext(block)
        case "parquet":
            raise AssertionError("Parquet has no blocks of bytes: see job.dataset.parquet")


def _parse_tsv(block: Block, columns: Columns) -> Parsed:
    table = None if b"\r" in block.data else _read_table(block.data, columns, _TSV)
    num_lines = count_lines(block.data) + (not block.data.endswith(b"\n"))
    # Blank lines and rows with other columns are sorted out line by line.
    if table is None or len(table) != num_lines:
        return _parse_tsv_lines(block, columns)
    numbers = np.arange(block.first_line, block.first_line + num_lines, dtype=np.int64)
    return keep_good([column.combine_chunks() for column in table.columns], numbers, [])


def _parse_tsv_lines(block: Block, columns: Columns) -> Parsed:
    lines, numbers = split_lines(block.data, block.first_line)
    fields = pc.split_pattern(lines, b"\t")
    num_fields = pc.list_value_length(fields).to_numpy(zero_copy_only=False)
    fits = num_fields == len(columns.names)
    rejects: list[Reject] = []
    if not fits.all():
        bad = zip(numbers[~fits].tolist(), num_fields[~fits].tolist(), strict=True)
        rejects = [(line, _wrong_columns(len(columns.names), found)) for line, found in bad]
        fields = fields.filter(pa.array(fits))
        numbers = numbers[fits]
    return keep_good([pc.list_element(fields, place) for place in columns.places], numbers, rejects)


def _wrong_columns(expected: int, found: int) -> str:
    return f"expected {expected} columns, found {found}"


def _parse_csv(block: Block, columns: Columns) -> Parsed:
    data = block.data
    rejects: list[Reject] = []
    ends, is_open = csv_record_ends(data)
    if is_open:
        # Only a file's last block can end inside quotes. Every line behind the quote is lost: count them all.
        start = int(ends[-1]) if len(ends) else 0
        first = block.first_line + count_lines(data[:start])
        last = block.first_line + count_lines(data.removesuffix(b"\n"))
        rejects = [(line, "unclosed quote") for line in range(first, last + 1)]
        data = data[:start]
        ends = ends[ends <= start]
    numbers = csv_record_lines(data, ends, block.first_line)
    table = _read_table(data, columns, _CSV) if len(numbers) else None
    if table is not None and len(table) == len(numbers):
        return keep_good([column.combine_chunks() for column in table.columns], numbers, rejects)
    return _parse_csv_records(data, ends, numbers, columns, rejects)


def _read_table(data: bytes, columns: Columns, options: pa_csv.ParseOptions) -> Any:
    """Return a table of the columns that are read, or None where a row has more or fewer columns."""
    if data.startswith(BOM):
        return None  # Arrow would take it off, and only a file's own is no part of the text
    wanted = [str(place) for place in columns.places]
    try:
        return pa_csv.read_csv(
            pa.BufferReader(data),
            read_options=pa_csv.ReadOptions(
                column_names=[str(i) for i in range(len(columns.names))],
                use_threads=False,
                block_size=len(data) + 1,
            ),
            parse_options=options,
            convert_options=pa_csv.ConvertOptions(
                include_columns=wanted, column_types=dict.fromkeys(wanted, pa.binary())
            ),
        )
    except pa.ArrowInvalid:
        # Arrow's handler for such rows is no help: it fails where one is not UTF-8 (pyarrow 26.0.1).
        return None


def _parse_csv_records(
    data: bytes, ends: Positions, numbers: Positions, columns: Columns, rejects: list[Reject]
) -> Parsed:
    # The limit is the process's, and by default shorter than a long text.
    csv.field_size_limit(2**31 - 1)
    edges = [0, *ends.tolist(), len(data)]
    # In Latin-1 a character is a byte, so any bytes pass through the csv module unchanged.
    pieces = (data[start:end].decode("latin-1") for start, end in pairwise(edges))
    rows = csv.reader(piece for piece in pieces if piece.strip("\r\n"))
    fields: list[list[bytes]] = [[] for _ in columns.places]
    kept: list[int] = []
    rejects = list(rejects)
    for row, number in zip(rows, numbers.tolist(), strict=True):
        if len(row) != len(columns.names):
            rejects.append((number, _wrong_columns(len(columns.names), len(row))))
            continue
        for field, place in zip(fields, columns.places, strict=True):
            field.append(row[place].encode("latin-1"))
        kept.append(number)
    arrays = [pa.array(field, pa.binary()) for field in fields]
    return keep_good(arrays, np.array(kept, np.int64), rejects)


def _parse_fasttext(block: Block) -> Parsed:
    lines, numbers = split_lines(block.data, block.first_line)
    starts = pc.starts_with(lines, _LABEL)
    has_label = starts.to_numpy(zero_copy_only=False)
    rejects = [(line, "no label at the start") for line in numbers[~has_label].tolist()]
    lines, numbers = lines.filter(starts), numbers[has_label]
    # One space or tab ends the label; what follows is the text as it is. A label alone has an empty text.
    parts = pc.split_pattern_regex(lines, "[ \t]", max_splits=1)
    has_text = pc.list_value_length(parts).to_numpy(zero_copy_only=False) > 1
    firsts = parts.offsets.to_numpy()[:-1]
    # Not binary_slice: without a stop it overflows (apache/arrow#51222, seen in pyarrow 26.0.1).
    labels = pc.binary_replace_slice(parts.values.take(pa.array(firsts)), 0, len(_LABEL), b"")
    texts = parts.values.take(pa.array(firsts + 1, mask=~has_text)).fill_null(b"")
    suspects = np.flatnonzero(pc.match_substring(texts, _LABEL).to_numpy(zero_copy_only=False))
    single = np.ones(len(numbers), bool)
    for i in suspects.tolist():
        single[i] = not any(token.startswith(_LABEL) for token in texts[i].as_py().split())
    rejects += [(line, "several labels; one is expected") for line in numbers[~single].tolist()]
    keep = pa.array(single)
    return keep_good([texts.filter(keep), labels.filter(keep)], numbers[single], rejects)
