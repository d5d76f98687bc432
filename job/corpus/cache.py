"""What BOW_CACHE_DIR keeps: data sets that were read, so that unchanged files need not be read again.

corpora/KEY/     a raw corpus, by the data's fingerprint and all else that its tokens depend on
files/KEY.json   which corpus some files gave, by their paths, sizes and times of change
objects/         a folder for each URL, in it the object's content by its version: `job.fetch` keeps these

Everything there may be deleted at any time, and is made again when it is needed. The time of change of each
is that of its last use.
"""

import contextlib
import errno
import hashlib
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import msgspec
import structlog

from job.corpus.collect import Collector
from job.corpus.corpus_files import Damaged, InFolder, read_corpus
from job.corpus.data_set import SAMPLE, DataSet, Fill
from job.corpus.scratch import cache_errors
from job.dataset import DataSpec, RejectedRow, RejectedRows, find_sources
from serving.bundle import DataRecord
from serving.errors import BowspritError
from serving.features.specification import PLAIN, FeatureSpec

LAYOUT = 4
"""Goes up whenever the files of a corpus, or how texts are read, change: older ones are then made anew."""
ABANDONED_AFTER = 24 * 3600.0
"""Seconds after which a half-written corpus is taken for one that a killed job left behind."""

UNUSED_AFTER = 8 * 24 * 3600.0
"""Seconds since its last use after which anything is removed: what a weekly job uses stays."""
OBJECTS = "objects"

_UNFINISHED = ".unfinished-"

log = structlog.get_logger()


class _Known(msgspec.Struct, frozen=True, kw_only=True):
    """What files/KEY.json holds."""

    corpus: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")]
    record: DataRecord
    rejected: dict[str, int]
    details: list[RejectedRow]


class Cache:
    """Data sets by the files that they were read from."""

    def __init__(self, folder: Path) -> None:
        """Makes the folder where it is missing; raises PlatformError where it cannot be written."""
        self._folder, self._corpora, self._files = folder, folder / "corpora", folder / "files"
        with cache_errors(folder):
            for part in (self._corpora, self._files):
                part.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=part):
                    pass
            self._remove_unused()

    def get(
        self, spec: DataSpec, fill: Fill, *, max_tokens: int | None, features: FeatureSpec = PLAIN
    ) -> tuple[DataSet, bool]:
        """The data set that the files of `spec` hold, and whether it was here; `fill` reads it where not.

        features: what decides which tokens `fill` gives.
        max_tokens: the distinct tokens that are held while counting, as `Numbering`'s limit. A corpus that
        keeps below it is the same whatever the limit is.

        Raises what `fill` raises, DataError where there are no such files, and PlatformError where the data
        set cannot be written: nothing of it is left then.
        """
        facts = _facts(spec, features)
        with cache_errors(self._folder):
            for limit in dict.fromkeys((max_tokens, None)):
                found = self._find([*facts, limit])
                if found is not None and _holds(found, limit, max_tokens):
                    return found, True
            return self._fill(facts, partial(_facts, spec, features), fill, max_tokens), False

    def _find(self, facts: list[Any]) -> DataSet | None:
        path = self._known_path(facts)
        try:
            known = msgspec.json.decode(path.read_bytes(), type=_Known)
            mark_used(self._corpora / known.corpus)
            corpus, sample = read_corpus(self._corpora / known.corpus)
            mark_used(path)
        except FileNotFoundError:
            return None
        except (msgspec.MsgspecError, Damaged):
            log.warning("cache_damaged", cache=str(self._folder), advice="the data is read again")
            return None
        rejected = RejectedRows()
        rejected.counts.update(known.rejected)
        rejected.details.extend(known.details)
        return DataSet(corpus=corpus, sample=sample, record=known.record, rejected=rejected)

    def _fill(
        self, facts: list[Any], facts_now: Callable[[], list[Any]], fill: Fill, max_tokens: int | None
    ) -> DataSet:
        folder = self._corpora / f"{_UNFINISHED}{uuid.uuid4().hex}"
        try:
            folder.mkdir()
            with InFolder(folder) as store:
                collector = Collector(store, sample=SAMPLE, max_tokens=max_tokens)
                summary = fill(collector.add)
                collector.finish()
                store.finish(collector)
            data = DataSet.of(*read_corpus(folder, just_written=True), summary)
            limit = max_tokens if collector.dropped else None
            sizes = [stamp.size for stamp in facts[1]]
            name = _key(LAYOUT, data.record.sha256, sizes, facts[0], limit)
            if not self._has(name):
                _put(folder, self._corpora / name)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        if _unchanged(facts_now, facts):
            self._remember([*facts, limit], name, data)
        return data

    def _remember(self, facts: list[Any], name: str, data: DataSet) -> None:
        known = _Known(
            corpus=name, record=data.record, rejected=data.rejected.counts, details=data.rejected.details
        )
        path = self._known_path(facts)
        unfinished = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
        try:
            unfinished.write_bytes(msgspec.json.encode(known))
            unfinished.rename(path)
        finally:
            unfinished.unlink(missing_ok=True)

    def _known_path(self, facts: list[Any]) -> Path:
        return self._files / f"{_key(LAYOUT, facts)}.json"

    def _has(self, name: str) -> bool:
        try:
            mark_used(self._corpora / name)
            read_corpus(self._corpora / name)
        except (FileNotFoundError, Damaged):
            return False
        return True

    def _remove_unused(self) -> None:
        """Removes what was not used for long, other jobs' as well: one that has it open keeps it."""
        for corpus in self._corpora.iterdir():
            leftover = corpus.name.startswith(_UNFINISHED)
            if is_unused(corpus, ABANDONED_AFTER if leftover else UNUSED_AFTER):
                gone = self._corpora / f"{_UNFINISHED}{uuid.uuid4().hex}"
                with contextlib.suppress(OSError):  # another job was faster, or another user's job made it
                    corpus.rename(gone)  # at once: nobody shall find half of it
                    shutil.rmtree(gone, ignore_errors=True)
        for file in (*self._files.iterdir(), *(self._folder / OBJECTS).glob("*/*")):
            if is_unused(file, UNUSED_AFTER):
                with contextlib.suppress(OSError):
                    file.unlink()
        for url in (self._folder / OBJECTS).glob("*"):
            if is_unused(url, UNUSED_AFTER):
                with contextlib.suppress(OSError):  # not empty, most of the time
                    url.rmdir()


def mark_used(path: Path) -> bool:
    """Whether a file or folder is there, which counts as used now."""
    try:
        os.utime(path)
    except FileNotFoundError:
        return False
    except PermissionError:  # another user's job made it
        pass
    return True


def is_unused(path: Path, seconds: float) -> bool:
    """Whether a file or folder is there, and was last used longer ago than that."""
    try:
        return time.time() - path.stat().st_mtime > seconds
    except FileNotFoundError:
        return False


def _holds(data: DataSet, limit: int | None, max_tokens: int | None) -> bool:
    """Whether what was kept with a limit is what reading with `max_tokens` as the limit would give."""
    return limit == max_tokens or (max_tokens is not None and len(data.corpus.tokens) <= max_tokens)


def _put(folder: Path, path: Path) -> None:
    """Renames the folder, over whatever is there; jobs that have that open keep it."""
    shutil.rmtree(path, ignore_errors=True)
    try:
        folder.rename(path)
    except OSError as error:
        # Another job may have put the same there meanwhile.
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise


def _facts(spec: DataSpec, features: FeatureSpec) -> list[Any]:
    """What a data set depends on: how it is read, and from which files in which state."""
    sources = find_sources(spec.location, spec.format, spec.setting, spec.copies)
    columns = [spec.text_column, spec.label_column, spec.weight_column]
    how = [sources[0].format, *columns, features.tokens_alone]
    return [how, [source.stamp() for source in sources]]


def _unchanged(facts_now: Callable[[], list[Any]], facts: list[Any]) -> bool:
    """Whether the files are what they were; those that changed while they were read may be neither."""
    try:
        return facts_now() == facts
    except BowspritError:
        return False


def _key(*parts: Any) -> str:
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:32]
