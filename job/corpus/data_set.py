"""A data set that was read: its rows, where they come from, and what could not be used."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from job.corpus.collect import Collector, InMemory, RowBlock
from job.corpus.raw_corpus import RawCorpus
from job.dataset import RejectedRows, Summary
from serving.bundle import DataRecord

SAMPLE = 256
"""Texts of a data set that are kept as they are, for the parity gate."""

Fill = Callable[[Callable[[RowBlock], object]], Summary]
"""Reads a data set and hands on its blocks, in the order of the rows."""


@dataclass(frozen=True, kw_only=True)
class DataSet:
    """All that is kept of it."""

    corpus: RawCorpus
    sample: list[str]
    """The first texts, as they were."""
    record: DataRecord
    rejected: RejectedRows

    @classmethod
    def of(cls, corpus: RawCorpus, sample: list[str], summary: Summary) -> Self:
        """A corpus with what reading it came to."""
        rejected = summary.rejected
        record = DataRecord(sha256=summary.fingerprint, rows=summary.num_rows, rejected=len(rejected))
        return cls(corpus=corpus, sample=sample, record=record, rejected=rejected)


def read_into_memory(fill: Fill, *, max_tokens: int | None) -> DataSet:
    """Reads a data set; `max_tokens` limits the distinct tokens that are held, as `Numbering` does."""
    store = InMemory()
    collector = Collector(store, sample=SAMPLE, max_tokens=max_tokens)
    summary = fill(collector.add)
    collector.finish()
    return DataSet.of(collector.corpus(store.blocks), collector.sample, summary)
