"""From a location to blocks of bytes: which files it names, of which format, and what is in them."""

import errno
import glob
import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, TypeAlias

import numpy as np
import pyarrow as pa

from job.dataset.records import csv_record_ends
from serving.errors import DataError, PlatformError

FileFormat: TypeAlias = Literal["tsv", "csv", "jsonl", "parquet", "fasttext"]
DataFormat: TypeAlias = Literal["auto", FileFormat]

BLOCK_BYTES = 8 << 20
"""Decompressed bytes read at a time; a block is about this long, and longer only where one record is."""
MIN_BLOCK_BYTES = 1 << 20
"""A smaller file's blocks are shorter, down to this, so that several threads have some of it."""

MAX_RECORD_BYTES = 64 << 20
"""The longest record: in CSV an unclosed quote would otherwise take the rest of the file into memory."""

_FORMATS: dict[str, FileFormat] = {
    ".tsv": "tsv",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".ft": "fasttext",
    ".fasttext": "fasttext",
    ".txt": "fasttext",
}
_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
BOM = b"\xef\xbb\xbf"
_NOT_TEXT = {
    b"\xff\xfe": "UTF-16; convert it to UTF-8",
    b"\xfe\xff": "UTF-16; convert it to UTF-8",
    b"\x1f\x8b": "compressed with gzip; end its name in .gz",
    b"\x28\xb5\x2f\xfd": "compressed with zstd; end its name in .zst",
    b"PAR1": "Parquet; end its name in .parquet, or set BOW_DATA_FORMAT=parquet",
}
_USER_ERRNOS = {
    errno.ENOENT,
    errno.EACCES,
    errno.EPERM,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ELOOP,
    errno.ENAMETOOLONG,
}


@dataclass(frozen=True, kw_only=True)
class Stamp:
    """What the file system says of a file; a file that is written to gets another one."""

    path: str
    """Absolute."""
    size: int
    modified: int
    """Nanoseconds, and so are the next."""
    changed: int
    """When its inode changed: tools that copy a file's time of modification cannot set this one."""
    inode: int


@dataclass(frozen=True, kw_only=True)
class Source:
    """One file of a data set."""

    path: Path | str
    """What messages call it: a path, or the URL that it was copied from."""
    file: Path
    """Where its bytes are."""
    format: FileFormat
    compression: str | None
    """Arrow's name of the compression, `gzip` or `zstd`."""

    def stamp(self) -> Stamp:
        """The state in which the file is now; raises DataError and PlatformError where it has none."""
        with storage_errors(self.path):
            stat = self.file.stat()
        return Stamp(
            path=str(self.file.absolute()),
            size=stat.st_size,
            modified=stat.st_mtime_ns,
            changed=stat.st_ctime_ns,
            inode=stat.st_ino,
        )


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


@contextmanager
def storage_errors(path: Path | str) -> Iterator[None]:
    """Turn what reading `path` can raise into DataError (the user's) or PlatformError (the storage's)."""
    try:
        yield
    except (OSError, UnicodeDecodeError, pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        number = getattr(error, "errno", None)
        if number is None:
            # Arrow's decoders raise an OSError without a number, or another of these, for damaged contents.
            raise DataError(f"{path}: the file is damaged or truncated ({error}); copy it again") from error
        reason = os.strerror(number)
        if number in _USER_ERRNOS:
            raise DataError(
                f"{path}: cannot be read ({reason}); correct the path or its permissions"
            ) from error
        raise PlatformError(
            f"{path}: reading failed ({reason}); check the storage, then run again"
        ) from error


def find_sources(
    location: str, file_format: DataFormat, setting: str, copies: Mapping[str, Path] | None = None
) -> list[Source]:
    """Return the files that `location` names, in the order in which they are read.

    A location is one path, a glob (`**` enters folders), or a folder, whose files are taken with those of its
    subfolders; names that start with `.` or `_` are skipped there. Files are sorted by path, part by part.
    Of a URL, `copies` says which objects it names, and where each was copied to.

    Raises:
        DataError: nothing is there or may be read, or the files' formats are unknown or differ.
        PlatformError: the storage failed.
    """
    if copies is None:
        files = [(path, path) for path in _list_files(location, setting)]
        sources = [_identify(path, file, file_format, setting) for path, file in files]
    else:
        sources = [_identify(url, file, file_format, setting) for url, file in copies.items()]
    for source in sources:
        if source.format != sources[0].format:
            raise DataError(
                f"{setting}={location}: files of one format are expected, found {sources[0].format} "
                f"({sources[0].path}) and {source.format} ({source.path}); name those of one with a glob"
            )
    return sources


def _list_files(location: str, setting: str) -> list[Path]:
    with storage_errors(location):
        path = Path(location)
        try:
            mode = path.stat().st_mode
        except FileNotFoundError:
            mode = None
        if mode is not None and stat.S_ISDIR(mode):
            found = sorted(_walk(path, set()), key=lambda file: file.parts)
        elif mode is not None:
            found = [path]
        elif glob.has_magic(location):
            matches = (Path(match) for match in glob.glob(location, recursive=True))  # noqa: PTH207 - absolute globs
            found = sorted((match for match in matches if not match.is_dir()), key=lambda file: file.parts)
        else:
            raise DataError(
                f"{setting}={location}: expected a file, a folder or a glob, found nothing at that path "
                f"(working directory {Path.cwd()}); correct {setting}, or mount the data"
            )
    if not found:
        kind = "no file matches" if mode is None else "the folder holds no data file"
        raise DataError(f"{setting}={location}: {kind}; correct {setting}, or put the data there")
    return found


def _walk(folder: Path, seen: set[str]) -> Iterator[Path]:
    """Yield the files under `folder`; links to folders are followed, each folder is entered once."""
    real = os.path.realpath(folder)
    if real in seen:
        return
    seen.add(real)
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith((".", "_")):
            continue
        if entry.is_dir():
            yield from _walk(entry, seen)
        else:
            yield entry


def _identify(path: Path | str, file: Path, file_format: DataFormat, setting: str) -> Source:
    name = Path(path)
    compression = _COMPRESSIONS.get(name.suffix.lower())
    extension = (Path(name.stem) if compression else name).suffix.lower()
    if file_format != "auto":
        found = file_format
    elif extension in _FORMATS:
        found = _FORMATS[extension]
    else:
        raise DataError(
            f"{path}: the format cannot be told from the name; expected one of {', '.join(_FORMATS)}, "
            f"optionally followed by .gz or .zst; rename the file, set BOW_DATA_FORMAT, or leave it out of "
            f"{setting} with a glob (in a folder, names that start with _ are skipped)"
        )
    source = Source(path=path, file=file, format=found, compression=compression)
    if found == "parquet" and compression:
        raise DataError(f"{path}: Parquet is compressed inside; expected a name without {name.suffix}")
    if file_format == "auto" and extension == ".txt" and not _starts_with_label(source):
        raise DataError(
            f"{path}: a .txt file is read as fastText when its first line starts with __label__, and this "
            "one's does not; rename the file after its format, or set BOW_DATA_FORMAT"
        )
    return source


def _starts_with_label(source: Source) -> bool:
    with storage_errors(source.path), _open(source) as stream:
        return stream.read(64).removeprefix(BOM).lstrip().startswith(b"__label__")


@contextmanager
def _open(source: Source) -> Iterator[IO[bytes]]:
    # Python opens the file, since Arrow cannot open a name that is not UTF-8.
    with source.file.open("rb") as file:
        if source.compression is None:
            yield file
        else:
            with pa.CompressedInputStream(file, source.compression) as stream:
                yield stream


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
    with storage_errors(path), _open(source) as stream:
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
