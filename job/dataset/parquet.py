"""From a Parquet file to texts, labels and weights; its columns are read a batch at a time."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from job.dataset import blocks
from job.dataset.columns import Parsed, find_columns, keep_good
from job.dataset.sources import Source, storage_errors
from serving.errors import DataError

_MAX_BATCH_ROWS = 65_536
_SETTINGS = "BOW_TEXT_COLUMN or BOW_LABEL_COLUMN"


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Some rows of a Parquet file, as they are stored."""

    fields: list[Any]
    """In the order of `Columns.places`."""
    first_row: int
    """The number of the first row; a file's first row is 1."""


def read_batches(
    source: Source,
    fingerprint: blocks.Fingerprint,
    *,
    text_column: str | None,
    label_column: str | None,
    weight_column: str | None = None,
) -> Iterator[Batch]:
    """Yield the rows in batches of about BLOCK_BYTES; `fingerprint` takes the bytes of the file.

    Raises:
        DataError: the file is damaged, or has no usable columns.
        PlatformError: the storage failed.
    """
    path = source.path
    with storage_errors(path), source.file.open("rb") as file:
        while chunk := file.read(blocks.BLOCK_BYTES):
            fingerprint.update(chunk)
        file.seek(0)
        parquet = pq.ParquetFile(file)
        schema = parquet.schema_arrow
        columns = find_columns(
            schema.names,
            path,
            text_column=text_column,
            label_column=label_column,
            weight_column=weight_column,
        )
        names = list(columns.names_read)
        for name in names:
            column_type = schema.field(name).type
            if not _has_text_form(column_type):
                raise DataError(
                    f"{path}: expected the column {name!r} to hold plain values, found {column_type}; "
                    f"choose another with {'BOW_WEIGHT_COLUMN' if name == weight_column else _SETTINGS}"
                )
        metadata = parquet.metadata
        num_bytes = sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
        batch_rows = blocks.BLOCK_BYTES * metadata.num_rows // max(num_bytes, 1)
        first_row = 1
        for batch in parquet.iter_batches(
            batch_size=min(max(batch_rows, 1), _MAX_BATCH_ROWS), columns=names, use_threads=False
        ):
            yield Batch(fields=[batch.column(name) for name in names], first_row=first_row)
            first_row += len(batch)


def parse_batch(batch: Batch) -> Parsed:
    """Keep the batch's good rows; the line of a reject is the number of its row."""
    texts, labels, *weights = batch.fields
    lines = np.arange(batch.first_row, batch.first_row + len(texts), dtype=np.int64)
    return keep_good([_as_bytes(texts), _as_bytes(labels), *map(_as_numbers, weights)], lines, [])


def _has_text_form(column_type: Any) -> bool:
    try:
        _as_bytes(pa.array([], column_type))
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        return False
    return True


def _as_numbers(values: Any) -> Any:
    """Return a DoubleArray [N] of a column of numbers, and of any other a BinaryArray [N]."""
    kind = values.type
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return values.cast(pa.float64(), safe=False)
    return _as_bytes(values)


def _as_bytes(values: Any) -> Any:
    """Return a BinaryArray [N]: Arrow trusts a Parquet file's strings to be UTF-8, we do not."""
    if isinstance(values, pa.ExtensionArray):
        values = values.storage
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    kind = values.type
    if pa.types.is_floating(kind):
        values = _numbers_as_text(values)
    elif not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        values = values.cast(pa.large_string() if pa.types.is_large_string(kind) else pa.string())
    return values.cast(pa.binary())


def _numbers_as_text(values: Any) -> Any:
    """Return a StringArray [N] of floats, as other formats write them: 1.0; null where none is finite."""
    values = pc.if_else(pc.is_finite(values), values, None)
    numbers = values.cast(pa.float64())
    is_whole = pc.and_(pc.equal(numbers, pc.floor(numbers)), pc.less(pc.abs(numbers), 2.0**53))
    whole = pc.if_else(is_whole, numbers, None).cast(pa.int64()).cast(pa.string())
    return pc.coalesce(pc.binary_join_element_wise(whole, "0", "."), values.cast(pa.string()))
