"""From JSON lines to texts, labels and weights: by Arrow where it can, otherwise line by line."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pa_json

from job.dataset.blocks import Block
from job.dataset.columns import Columns, Parsed, Reject, any_invalid, is_utf8, keep_good
from job.dataset.records import split_lines
from serving.errors import DataError

_SAMPLE_LINES = 100
_READ = ("text", "label", "weight")
_TYPES = (
    (pa.string(), pa.float64()),
    (pa.int64(), pa.float64()),
    (pa.string(), pa.string()),
    (pa.int64(), pa.string()),
)
"""The types of labels and weights that Arrow may read; the first two differ in the labels' alone."""


def object_keys(block: Block) -> list[str]:
    """Return the keys of the objects in the block's first 100 lines, in order of appearance.

    Raises:
        DataError: none of these lines is an object.
    """
    lines, numbers = split_lines(block.data, block.first_line)
    keys: dict[str, None] = {}
    num_objects = 0
    for line in lines[:_SAMPLE_LINES].to_pylist():
        row = _parse_object(line)
        if row is not None:
            num_objects += 1
            keys.update(dict.fromkeys(row))
    if not num_objects:
        line = int(numbers[0]) if len(numbers) else block.first_line
        raise DataError(
            f'{block.path}:{line}: expected a JSON object in each line, {{"text": "...", "label": "..."}}, '
            "found none in the first lines; write each row as an object in a line of its own"
        )
    return list(keys)


def parse_jsonl(block: Block, columns: Columns) -> Parsed:
    """Parse a block of JSON lines; a row that cannot be used becomes a reject, never an error."""
    lines, numbers = split_lines(block.data, block.first_line)
    # Arrow reads objects, not lines, and does not look at their bytes. Where each line starts with { and ends
    # with }, and there are as many objects as lines, each line is one object. Any other block is read line by
    # line, and so is one with a byte that is not UTF-8, if only in a column that nobody asked for.
    is_object = pc.and_(pc.starts_with(lines, b"{"), pc.ends_with(lines, b"}"))
    if pc.all(is_object, min_count=0).as_py() and not any_invalid(lines):
        for label_type, weight_type in _TYPES if columns.weight is not None else _TYPES[:2]:
            table = _read_json(block.data, columns, label_type, weight_type)
            if table is not None and len(table) == len(lines):
                return keep_good([_field(column.combine_chunks()) for column in table.columns], numbers, [])
    return _parse_json_lines(lines.to_pylist(), numbers.tolist(), columns)


def _read_json(data: bytes, columns: Columns, label_type: Any, weight_type: Any) -> Any:
    """Return a table of the columns that are read, or None where a row has values of another type."""
    types = (pa.string(), label_type, weight_type)
    schema = pa.schema(list(zip(columns.names_read, types, strict=False)))
    try:
        return pa_json.read_json(
            pa.BufferReader(data),
            read_options=pa_json.ReadOptions(use_threads=False, block_size=len(data) + 1),
            parse_options=pa_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        ).select(columns.names_read)
    except pa.ArrowInvalid:
        return None


def _field(values: Any) -> Any:
    """Return a column as `keep_good` takes it."""
    if pa.types.is_floating(values.type):
        return pc.if_else(pc.is_finite(values), values, None)  # NaN counts as missing, as it does elsewhere
    return values.cast(pa.string()).cast(pa.binary())


def _parse_json_lines(lines: list[bytes], numbers: list[int], columns: Columns) -> Parsed:
    fields: list[list[bytes | None]] = [[] for _ in columns.places]
    kept: list[int] = []
    rejects: list[Reject] = []
    for line, number in zip(lines, numbers, strict=True):
        if line.isspace():
            continue
        row = _parse_object(line)
        if row is None:
            reason = "not a JSON object" if is_utf8(line) else "invalid UTF-8"
            rejects.append((number, reason))
            continue
        values = [row.get(name) for name in columns.names_read]
        nested = next((what for what, value in zip(_READ, values, strict=False) if _is_nested(value)), None)
        if nested is not None:
            rejects.append((number, f"{nested} is not a plain value"))
            continue
        for field, value in zip(fields, values, strict=True):
            field.append(_scalar_bytes(value))
        kept.append(number)
    arrays = [pa.array(field, pa.binary()) for field in fields]
    return keep_good(arrays, np.array(kept, np.int64), rejects)


def _parse_object(line: bytes) -> dict[str, Any] | None:
    """Return the line's JSON object, or None; numbers with a fraction stay text, NaN counts as missing."""
    try:
        row = json.loads(line.decode(), parse_float=str, parse_constant=lambda _: None)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _is_nested(value: object) -> bool:
    return isinstance(value, (dict, list))


def _scalar_bytes(value: str | int | bool | None) -> bytes | None:
    if value is None:
        return None
    # A lone surrogate (\ud800) becomes bytes that are not UTF-8, which the check of all rows refuses.
    return (value if isinstance(value, str) else json.dumps(value)).encode(errors="surrogatepass")
