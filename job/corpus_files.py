"""A raw corpus as a folder of files that can be mapped into memory: what the cache keeps.

tokens.arrow   the distinct tokens, as an Arrow IPC file of one column
codes          int32 [num_tokens], little-endian, as they are in memory; so are
offsets        int64 [N + 1]
labels         int64 [N]
facts.json     the rest, and the size and CRC-32 of each of the files above
"""

import mmap
import zlib
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from job.corpus import RawCorpus

_FACTS = "facts.json"
_TOKENS = "tokens.arrow"
_ARRAYS = {"codes": "<i4", "offsets": "<i8", "labels": "<i8"}


class Damaged(Exception):  # noqa: N818 - what was found out, not what went wrong
    """The folder does not hold what `write_corpus` left there."""


class _FileFacts(msgspec.Struct, frozen=True):
    size: int
    crc32: int


class _Facts(msgspec.Struct, frozen=True, kw_only=True):
    label_names: list[str]
    sample: list[str]
    files: dict[str, _FileFacts]


def write_corpus(folder: Path, corpus: RawCorpus) -> None:
    """Writes the files into an empty folder, facts.json last; raises OSError."""
    contents: dict[str, Any] = {_TOKENS: _to_ipc(corpus.tokens)}
    for name, dtype in _ARRAYS.items():
        contents[name] = np.ascontiguousarray(getattr(corpus, name), dtype=dtype)
    facts = _Facts(
        label_names=corpus.label_names,
        sample=corpus.sample,
        files={name: _write(folder / name, content) for name, content in contents.items()},
    )
    (folder / _FACTS).write_bytes(msgspec.json.encode(facts))


def read_corpus(folder: Path) -> RawCorpus:
    """The corpus, its arrays mapped: what is not used is not in memory. Raises Damaged and OSError."""
    try:
        facts = msgspec.json.decode((folder / _FACTS).read_bytes(), type=_Facts)
        mapped = {name: _map(folder / name, facts.files[name]) for name in (_TOKENS, *_ARRAYS)}
        tokens = pa.ipc.open_file(pa.BufferReader(mapped[_TOKENS])).get_batch(0).column(0)
    except (msgspec.MsgspecError, KeyError, pa.ArrowInvalid) as error:
        raise Damaged(str(folder)) from error
    arrays = {name: np.frombuffer(mapped[name], dtype) for name, dtype in _ARRAYS.items()}
    return RawCorpus(tokens=tokens, label_names=facts.label_names, sample=facts.sample, **arrays)


def _to_ipc(tokens: pa.StringArray) -> pa.Buffer:
    batch = pa.record_batch({"token": tokens})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def _write(path: Path, content: Any) -> _FileFacts:
    view = memoryview(content).cast("B") if len(content) else memoryview(b"")
    with path.open("wb") as file:
        file.write(view)
    return _FileFacts(size=len(view), crc32=zlib.crc32(view))


def _map(path: Path, facts: _FileFacts) -> "mmap.mmap | bytes":
    with path.open("rb") as file:
        size = file.seek(0, 2)
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else b""
    if size != facts.size or zlib.crc32(content) != facts.crc32:
        raise Damaged(str(path))
    return content
