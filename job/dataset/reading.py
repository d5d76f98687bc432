"""Reads labelled texts: a location's files, parsed in parallel, block by block, in the order of the rows."""

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from job.dataset.blocks import Fingerprint, read_blocks
from job.dataset.columns import Parsed, Reject
from job.dataset.parquet import parse_batch, read_batches
from job.dataset.readers import parse, read_header
from job.dataset.rejected import RejectedRows
from job.dataset.sources import DataFormat, Source, find_sources
from serving.errors import DataError

R = TypeVar("R")


@dataclass(frozen=True, kw_only=True)
class DataSpec:
    """What a data set is and how it is read."""

    location: str
    """A path, a glob, or a folder; or a URL of these."""
    copies: Mapping[str, Path] | None = None
    """The objects that a URL names, each with the file that it was copied to, in the order of reading."""
    format: DataFormat = "auto"
    """`auto` tells the format from each file's extension."""
    text_column: str | None = None
    """The column of texts; None finds it by its usual names. fastText has no columns."""
    label_column: str | None = None
    """The column of labels, in the same way."""
    weight_column: str | None = None
    """The column of how much each row counts; None for once. Rows without such a number are rejected."""
    setting: str
    """The environment variable that gave the location, for messages."""


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The good rows of one block, in file order; never none."""

    texts: Any
    """pa.StringArray [N]: valid UTF-8 without NUL, no nulls; may be empty strings."""
    labels: Any
    """pa.StringArray [N]: not blank, valid UTF-8 without NUL, no nulls."""
    weights: npt.NDArray[np.float32] | None = None
    """How much each row counts, [N], finite and at least 0; None where each counts once."""


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What was read."""

    num_files: int
    num_rows: int
    """Good rows."""
    num_bytes: int
    """Bytes of the files, decompressed; Parquet as it is."""
    rejected: RejectedRows
    fingerprint: str
    """SHA-256 in hexadecimal of the files' decompressed contents one after the other, as by
    `cat FILES | sha256sum`; names and paths do not count. Of Parquet, the files' bytes."""


class TooManyRejected(DataError):  # noqa: N818 - it names a finding about the data, as its base class does
    """More rows were rejected than the settings allow, or no row is left."""

    def __init__(self, message: str, rejected: RejectedRows) -> None:
        super().__init__(message)
        self.rejected = rejected


def read(
    spec: DataSpec,
    process: Callable[[Rows], R],
    take: Callable[[R], object],
    *,
    num_threads: int,
    max_rejected: float,
) -> Summary:
    """Read a data set and apply `process` to the good rows of each block; blocks without one are left out.

    Files are read in this thread; blocks of about 8 MiB are parsed and processed in `num_threads` others, of
    which at most `num_threads + 2` are held at a time. `process` is called from several threads at once.

    Args:
        spec: what to read.
        process: takes one block's rows.
        take: is given what `process` returned, in the order of the rows, in this thread.
        num_threads: at least 1.
        max_rejected: the largest allowed share of rejected rows, 0 to 1.

    Raises:
        DataError: the data cannot be read; TooManyRejected, which carries the rejected rows, when more than
            `max_rejected` of the rows are bad or none is good.
        PlatformError: the storage failed.
    """
    sources = find_sources(spec.location, spec.format, spec.setting, spec.copies)
    fingerprint = Fingerprint()
    rejected = RejectedRows()
    num_rows = 0
    pending: deque[tuple[Source, Future[tuple[int, list[R], list[Reject]]]]] = deque()

    def work(parse_rows: Callable[[], Parsed]) -> tuple[int, list[R], list[Reject]]:
        parsed = parse_rows()
        rows = Rows(texts=parsed.texts, labels=parsed.labels, weights=parsed.weights)
        return len(rows.texts), [process(rows)] if len(rows.texts) else [], parsed.rejects

    def collect() -> None:
        nonlocal num_rows
        source, future = pending.popleft()
        num_good, result, rejects = future.result()
        num_rows += num_good
        for each in result:
            take(each)
        # Not every path is UTF-8, and the cache and the list of rejected rows are.
        rejected.add(str(source.path).encode(errors="backslashreplace").decode(), rejects)

    with ThreadPoolExecutor(num_threads, thread_name_prefix="read") as pool:
        try:
            for source in sources:
                for parse_rows in _parsers(source, spec, fingerprint):
                    pending.append((source, pool.submit(work, parse_rows)))
                    if len(pending) >= num_threads + 2:
                        collect()
            while pending:
                collect()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    check_share(spec, num_rows, rejected, max_rejected)
    return Summary(
        num_files=len(sources),
        num_rows=num_rows,
        num_bytes=fingerprint.num_bytes,
        rejected=rejected,
        fingerprint=fingerprint.hexdigest(),
    )


def _parsers(source: Source, spec: DataSpec, fingerprint: Fingerprint) -> Iterator[Callable[[], Parsed]]:
    """Yield, for each block of a file in order, what parses it."""
    names = {
        "text_column": spec.text_column,
        "label_column": spec.label_column,
        "weight_column": spec.weight_column,
    }
    if source.format == "parquet":
        for batch in read_batches(source, fingerprint, **names):
            yield partial(parse_batch, batch)
        return
    columns = None
    for block in read_blocks(source, fingerprint):
        rows = block
        if columns is None:
            columns, rows = read_header(block, source.format, **names)
        yield partial(parse, rows, source.format, columns)


def check_share(spec: DataSpec, num_rows: int, rejected: RejectedRows, max_rejected: float) -> None:
    """Raises TooManyRejected where more than that share of the rows is bad, or none is good."""
    total = num_rows + len(rejected)
    where = f"{spec.setting}={spec.location}"
    if not total:
        raise TooManyRejected(
            f"{where}: expected rows with a text and a label, found none; add rows", rejected
        )
    share = len(rejected) / total
    if num_rows and share <= max_rejected:
        return
    raise TooManyRejected(
        f"{where}: {len(rejected):,} of {total:,} rows ({share:.3%}) cannot be used, and at most "
        f"{max_rejected:.3%} may be (BOW_MAX_REJECTED={max_rejected:g}):\n{rejected.describe()}\n"
        + ("correct these rows, or raise BOW_MAX_REJECTED" if num_rows else "correct the rows: none is left"),
        rejected,
    )
