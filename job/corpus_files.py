"""A raw corpus as a folder of files that can be mapped into memory: what the cache keeps.

tokens.arrow   the distinct tokens, as an Arrow IPC file of one column
codes          int32 [num_tokens], little-endian, as they are in memory; so are
offsets        int64 [N + 1]
labels         int64 [N]
facts.json     the rest, and the size and CRC-32 of each of the files above
"""

import mmap
import os
import zlib
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, Self

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from job.corpus import Numbering, RawCorpus, RowBlock, ranked

_FACTS = "facts.json"
_TOKENS = "tokens.arrow"
_ARRAYS = {"codes": "<i4", "offsets": "<i8", "labels": "<i8"}
_MIN_WAITING = 1 << 20
"""Entries of the blocks' dictionaries that are waited for at least."""
_AT_ONCE = 1 << 20
"""Labels that are renumbered at once."""


class Damaged(Exception):  # noqa: N818 - what was found out, not what went wrong
    """The folder does not hold what a `CorpusWriter` left there."""


class _FileFacts(msgspec.Struct, frozen=True):
    size: int
    crc32: int


class _Facts(msgspec.Struct, frozen=True, kw_only=True):
    label_names: list[str]
    sample: list[str]
    files: dict[str, _FileFacts]


class CorpusWriter:
    """Writes a corpus into an empty folder, block by block, and holds no more than its distinct tokens.

    Codes are written as the block numbers them, and numbered as the whole corpus does, in their place, once
    so many blocks have come that going over all tokens pays. Every method raises OSError.
    """

    def __init__(self, folder: Path, *, sample: int) -> None:
        self._folder, self._sample_size = folder, sample
        self._files: dict[str, IO[bytes]] = {}
        self._tokens, self._labels = Numbering(), Numbering()
        self._waiting: list[tuple[int, pa.StringArray]] = []
        """Blocks whose codes are their own: the number of codes, and what they stand for."""
        self._num_waiting = 0
        self._sample: list[str] = []
        self._num_codes = 0
        self._num_rows = 0
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with self._stack:
            for name in _ARRAYS:
                file = (self._folder / name).open("wb+", buffering=0)
                self._files[name] = self._stack.enter_context(file)
            self._write("offsets", np.zeros(1, np.int64))
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, block: RowBlock) -> None:
        """Writes the next rows."""
        tokens = block.tokens
        (label_map,) = self._labels.add([block.labels.dictionary])
        self._write("labels", label_map[block.labels.indices.to_numpy()])
        self._write("offsets", tokens.offsets[1:] + self._num_codes)
        self._write("codes", tokens.codes)
        self._num_codes += len(tokens.codes)
        self._num_rows += len(block.labels)
        self._sample += block.sample[: self._sample_size - len(self._sample)].to_pylist()
        self._waiting.append((len(tokens.codes), tokens.dictionary))
        self._num_waiting += len(tokens.dictionary)
        if self._num_waiting > max(_MIN_WAITING, len(self._tokens.strings)):
            self._number_waiting()

    def finish(self) -> None:
        """Writes what is known once all rows are there, facts.json last."""
        self._number_waiting()
        label_names, rank = ranked(self._labels.strings)
        for first in range(0, self._num_rows, _AT_ONCE):
            labels = self._read("labels", first, min(_AT_ONCE, self._num_rows - first))
            self._write("labels", rank[labels], first)
        (self._folder / _TOKENS).write_bytes(_to_ipc(self._tokens.strings))
        facts = _Facts(
            label_names=label_names,
            sample=self._sample,
            files={name: _facts_of(_map(self._folder / name)) for name in (_TOKENS, *_ARRAYS)},
        )
        (self._folder / _FACTS).write_bytes(msgspec.json.encode(facts))

    def _number_waiting(self) -> None:
        maps = self._tokens.add([dictionary for _, dictionary in self._waiting])
        first = self._num_codes - sum(number for number, _ in self._waiting)
        for (number, _), token_map in zip(self._waiting, maps, strict=True):
            self._write("codes", token_map[self._read("codes", first, number)], first)
            first += number
        self._waiting, self._num_waiting = [], 0

    def _read(self, name: str, first: int, number: int) -> npt.NDArray[Any]:
        dtype = np.dtype(_ARRAYS[name])
        found = os.pread(self._files[name].fileno(), number * dtype.itemsize, first * dtype.itemsize)
        return np.frombuffer(found, dtype)

    def _write(self, name: str, values: npt.NDArray[Any], first: int | None = None) -> None:
        """Writes the numbers at a place, or at the end."""
        dtype, file = np.dtype(_ARRAYS[name]), self._files[name]
        file.seek(*(0, os.SEEK_END) if first is None else (first * dtype.itemsize, os.SEEK_SET))
        data = memoryview(values.astype(dtype, copy=False).tobytes())
        while data:
            data = data[file.write(data) :]


def read_corpus(folder: Path, *, just_written: bool = False) -> RawCorpus:
    """The corpus, its arrays mapped: what is not used is not in memory. Raises Damaged and OSError.

    Every byte is checked but where this process has `just_written` them.
    """
    try:
        facts = msgspec.json.decode((folder / _FACTS).read_bytes(), type=_Facts)
        mapped = {name: _map(folder / name) for name in (_TOKENS, *_ARRAYS)}
        for name, content in mapped.items():
            if not just_written and _facts_of(content) != facts.files[name]:
                raise Damaged(str(folder / name))
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


def _facts_of(content: "mmap.mmap | bytes") -> _FileFacts:
    return _FileFacts(size=len(content), crc32=zlib.crc32(content))


def _map(path: Path) -> "mmap.mmap | bytes":
    with path.open("rb") as file:
        is_empty = not file.seek(0, os.SEEK_END)
        return b"" if is_empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
