"""From a text file to blocks of whole records, decompressed, and the fingerprint of what was read."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from job.dataset.records import csv_record_ends
from job.dataset.sources import BOM, FileFormat, Source, storage_errors
from serving.errors import DataError

BLOCK_BYTES = 8 << 20
"""Decompressed bytes read at a time; a block is about this long, and longer only where one record is."""
MIN_BLOCK_BYTES = 1 << 20
"""A smaller file's blocks are shorter, down to this, so that several threads have some of it."""

MAX_RECORD_BYTES = 64 << 20
"""The longest record: in CSV an unclosed quote would otherwise take the rest of the file into memory."""

_NOT_TEXT = {
    b"\xff\xfe": "UTF-16; convert it to UTF-8",
    b"\xfe\xff": "UTF-16; convert it to UTF-8",
    b"\x1f\x8b": "compressed with gzip; end its name in .gz",
    b"\x28\xb5\x2f\xfd": "compressed with zstd; end its name in .zst",
    b"PAR1": "Parquet; end its name in .parquet, or set BOW_DATA_FORMAT=parquet",
}


@dataclass(frozen=True, kw_only=True)
class Block:
    """Whole records of a file; only a file's last one may lack its line end."""

    path: Path | str
    first_line: int
    """The number of the block's first line in the file; a file's first line is 1."""
    data: bytes


class Fingerprint:
    """SHA-256 and length of the contents read so far: what `cat FILES | sha256sum` gives, decompressed."""

    def __init__(self) -> None:
        self._sha256 = hashlib.sha256()
        self.num_bytes = 0

    def update(self, data: bytes) -> None:
        """Add the next bytes."""
        self._sha256.update(data)
        self.num_bytes += len(data)

    def hexdigest(self) -> str:
        """Return the hash of everything added, as 64 hexadecimal digits."""
        return self._sha256.hexdigest()


def read_blocks(source: Source, fingerprint: Fingerprint) -> Iterator[Block]:
    """Yield a text file's contents, decompressed, in blocks that end where a record ends.

    The byte-order mark of UTF-8 is dropped; `fingerprint` takes the bytes as they are in the file.

    Raises:
        DataError: the file is empty, damaged or not text in UTF-8, or a record exceeds MAX_RECORD_BYTES.
        PlatformError: the storage failed.
    """
    path = source.path
    line = 1
    rest = b""
    is_start = True
    with storage_errors(path), source.opened() as stream:
        block_bytes = _block_bytes(source.file.stat().st_size)
        while chunk := stream.read(max(block_bytes, 4) if is_start else block_bytes):
            fingerprint.update(chunk)
            if is_start:
                chunk = _check_start(chunk, path)
                is_start = False
            data = rest + chunk
            end = _last_record_end(data, source.format)
            rest = data[end:]
            if end:
                yield Block(path=path, first_line=line, data=data[:end])
                line += count_lines(data[:end])
            elif len(rest) > MAX_RECORD_BYTES:
                hint = ", or close the quote that begins there" if source.format == "csv" else ""
                raise DataError(
                    f"{path}:{line}: the record that begins in this line is longer than "
                    f"{MAX_RECORD_BYTES >> 20} MiB; split it{hint}"
                )
    if is_start:
        raise DataError(f"{path}: expected {source.format} data, found an empty file; fill or remove it")
    if rest:
        yield Block(path=path, first_line=line, data=rest)


def _block_bytes(file_bytes: int) -> int:
    """A file's even share of an even number of blocks, so that two threads, or four, have as much to do."""
    num_blocks = max(4, 2 * -(-file_bytes // (2 * BLOCK_BYTES)))
    return min(BLOCK_BYTES, max(MIN_BLOCK_BYTES, -(-file_bytes // num_blocks)))


def _check_start(chunk: bytes, path: Path | str) -> bytes:
    for magic, what in _NOT_TEXT.items():
        if chunk.startswith(magic):
            raise DataError(f"{path}: expected text in UTF-8, but the file is {what}")
    return chunk.removeprefix(BOM)


def _last_record_end(data: bytes, file_format: FileFormat) -> int:
    """Return the position after the last record end in `data`, 0 without one."""
    if file_format != "csv":
        return data.rfind(b"\n") + 1
    ends, _ = csv_record_ends(data)
    return int(ends[-1]) if len(ends) else 0


def count_lines(data: bytes) -> int:
    """Count the line ends in `data`."""
    return int(np.count_nonzero(np.frombuffer(data, np.uint8) == ord("\n")))
