"""From a location to files: which it names, of which format, and how one is opened."""

import errno
import glob
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal, TypeAlias

import pyarrow as pa

from serving.errors import DataError, PlatformError

FileFormat: TypeAlias = Literal["tsv", "csv", "jsonl", "parquet", "fasttext"]
DataFormat: TypeAlias = Literal["auto", FileFormat]

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

    path: bytes
    """Absolute; bytes, since not every path is UTF-8."""
    size: int
    modified: int
    """Nanoseconds, as `changed` is; both, and the inode, are 0 of a URL's copy."""
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
        # The path of a URL's copy tells the object's version, and its times when it was last used.
        is_copy = isinstance(self.path, str)
        return Stamp(
            path=os.fsencode(self.file.absolute()),
            size=stat.st_size,
            modified=0 if is_copy else stat.st_mtime_ns,
            changed=0 if is_copy else stat.st_ctime_ns,
            inode=0 if is_copy else stat.st_ino,
        )

    @contextmanager
    def opened(self) -> Iterator[IO[bytes]]:
        """Its contents, decompressed; raises what `storage_errors` takes."""
        # Python opens the file, since Arrow cannot open a name that is not UTF-8.
        with self.file.open("rb") as file:
            if self.compression is None:
                yield file
            else:
                with pa.CompressedInputStream(file, self.compression) as stream:
                    yield stream


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
    with storage_errors(source.path), source.opened() as stream:
        return stream.read(64).removeprefix(BOM).lstrip().startswith(b"__label__")
