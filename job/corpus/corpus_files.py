"""A raw corpus as a folder of files that can be mapped into memory: what the cache keeps.

tokens.arrow   the distinct tokens and their counts, as an Arrow IPC file of two columns
ids            int32 [num_tokens], little-endian, as they are in memory; so are
offsets        int64 [N + 1]
labels         int32 [N]
weights        float32 [N], where the rows have any
facts.json     the rest, and the size and CRC-32 of each of the files above
"""

import errno
import mmap
import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, Self

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from job.corpus.bags import Bags, Ids
from job.corpus.collect import Collector
from job.corpus.raw_corpus import RawCorpus

_FACTS = "facts.json"
_TOKENS = "tokens.arrow"
_ARRAYS = {"ids": "<i4", "offsets": "<i8", "labels": "<i4"}
"""The arrays that there always are."""
_WEIGHTS = "weights"
_TYPES = _ARRAYS | {_WEIGHTS: "<f4"}
CHUNK_ROWS, CHUNK_IDS = 1 << 16, 1 << 20
"""Rows and ids of a block, as it is read, at most; a longer row is a block of its own."""
_AT_ONCE = 1 << 22
"""Ids that are renumbered at once."""


class Damaged(Exception):  # noqa: N818 - what was found out, not what went wrong
    """The folder does not hold what was written there."""


class _FileFacts(msgspec.Struct, frozen=True):
    size: int
    crc32: int


class _Facts(msgspec.Struct, frozen=True, kw_only=True):
    label_names: list[str]
    sample: list[str]
    files: dict[str, _FileFacts]


class InFolder:
    """The store that is an empty folder, which a `Collector` fills. Every method raises OSError."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, IO[bytes]] = {}
        self._lengths: list[int] = []
        """The number of ids of each block that is not renumbered yet."""
        self._num_ids = 0
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with self._stack:
            for name in _ARRAYS:
                self._open(name)
            self._write("offsets", np.zeros(1, np.int64))
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def append(self, block: Bags) -> None:
        """Writes the next block."""
        self._write("labels", block.labels)
        self._write("offsets", block.offsets[1:] + np.int64(self._num_ids))
        self._write("ids", block.ids)
        if block.weights is not None:
            if _WEIGHTS not in self._files:
                self._open(_WEIGHTS)
            self._write(_WEIGHTS, block.weights)
        self._lengths.append(len(block.ids))
        self._num_ids += len(block.ids)

    def renumber(self, tables: Sequence[Ids]) -> None:
        """Gives the ids of the last blocks their numbers, which the table of each block names by place."""
        first = self._num_ids - sum(self._lengths)
        for table, length in zip(tables, self._lengths, strict=True):
            self._renumber(table, first, length)
            first += length
        self._lengths = []

    def renumber_all(self, table: Ids) -> None:
        """Gives the ids of all blocks other numbers."""
        for first in range(0, self._num_ids, _AT_ONCE):
            self._renumber(table, first, min(_AT_ONCE, self._num_ids - first))

    def finish(self, collector: Collector) -> None:
        """Writes what is known once all blocks are there, facts.json last."""
        corpus = collector.corpus([])
        (self._folder / _TOKENS).write_bytes(_to_ipc(corpus))
        facts = _Facts(
            label_names=corpus.label_names,
            sample=collector.sample,
            files={name: _facts_of(_map(self._folder / name)) for name in (_TOKENS, *self._files)},
        )
        (self._folder / _FACTS).write_bytes(msgspec.json.encode(facts))

    def _open(self, name: str) -> None:
        file = (self._folder / name).open("wb+", buffering=0)
        self._files[name] = self._stack.enter_context(file)

    def _renumber(self, table: Ids, first: int, number: int) -> None:
        size = np.dtype(_ARRAYS["ids"]).itemsize
        found = os.pread(self._files["ids"].fileno(), number * size, first * size)
        if len(found) != number * size:
            raise OSError(errno.EIO, "the file is shorter than what was written")
        self._write("ids", table[np.frombuffer(found, _ARRAYS["ids"])], first)

    def _write(self, name: str, values: npt.NDArray[Any], first: int | None = None) -> None:
        """Writes the numbers at a place, or at the end."""
        dtype, file = np.dtype(_TYPES[name]), self._files[name]
        file.seek(*(0, os.SEEK_END) if first is None else (first * dtype.itemsize, os.SEEK_SET))
        data = memoryview(values.astype(dtype, copy=False).tobytes())
        while data:
            data = data[file.write(data) :]


class _Mapped:
    """The blocks of a folder's corpus: only what is used of the files is in memory."""

    def __init__(self, rows: Bags) -> None:
        self._all = rows

    def __iter__(self) -> Iterator[Bags]:
        first, offsets = 0, self._all.offsets
        while first < self._all.num_rows:
            fitting = int(np.searchsorted(offsets, offsets[first] + CHUNK_IDS, side="right")) - 1
            last = min(max(fitting, first + 1), first + CHUNK_ROWS, self._all.num_rows)
            yield self._all.part(first, last)
            first = last


def read_corpus(folder: Path, *, just_written: bool = False) -> tuple[RawCorpus, list[str]]:
    """The corpus, its arrays mapped, and its first texts. Raises Damaged and OSError.

    Every byte is checked but where this process has `just_written` them.
    """
    try:
        facts = msgspec.json.decode((folder / _FACTS).read_bytes(), type=_Facts)
        names = [*_ARRAYS, *({_WEIGHTS} & facts.files.keys())]
        mapped = {name: _map(folder / name) for name in (_TOKENS, *names)}
        for name, content in mapped.items():
            if not just_written and _facts_of(content) != facts.files[name]:
                raise Damaged(str(folder / name))
        table = pa.ipc.open_file(pa.BufferReader(mapped[_TOKENS])).get_batch(0)
    except (msgspec.MsgspecError, KeyError, pa.ArrowInvalid) as error:
        raise Damaged(str(folder)) from error
    arrays = {name: np.frombuffer(mapped[name], _TYPES[name]) for name in names}
    corpus = RawCorpus(
        tokens=table["token"],
        counts=table["count"].to_numpy(),
        label_names=facts.label_names,
        blocks=_Mapped(Bags(**arrays)),
        num_rows=len(arrays["labels"]),
        num_tokens=len(arrays["ids"]),
    )
    return corpus, facts.sample


def _to_ipc(corpus: RawCorpus) -> pa.Buffer:
    batch = pa.record_batch({"token": corpus.tokens, "count": corpus.counts})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue()


def _facts_of(content: "mmap.mmap | bytes") -> _FileFacts:
    return _FileFacts(size=len(content), crc32=zlib.crc32(content))


def _map(path: Path) -> "mmap.mmap | bytes":
    with path.open("rb") as file:
        is_empty = not file.seek(0, os.SEEK_END)
        return b"" if is_empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
