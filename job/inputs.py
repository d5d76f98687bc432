"""What a run reads: its data sets, tokenized and told apart by what they are for, and a fixed vocabulary."""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import pyarrow as pa

from job import tutorial
from job.corpus.cache import Cache
from job.corpus.collect import RowBlock, tokenize_rows
from job.corpus.data_set import SAMPLE, DataSet, read_into_memory
from job.corpus.raw_corpus import RawCorpus
from job.dataset import DataSpec, RejectedRows, Summary, check_share, read
from job.features.numbering import limit_for
from job.features.vocabulary import MAX_TOKEN_BYTES, Vocabulary
from job.setting_kinds import TUTORIAL
from serving.bundle import DataRecord
from serving.errors import DataError
from serving.features.specification import PLAIN, FeatureSpec, tokenize


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """All that was read."""

    corpora: dict[str, RawCorpus]
    """By use: `train`, `validation`, `test`."""
    samples: dict[str, list[str]]
    """Some texts of each as they were, for the parity gate."""
    records: dict[str, DataRecord]
    """What the manifest says of each, and of the `vocabulary` where a file fixed it."""
    rejected: RejectedRows
    """Of all data sets."""
    label_names: list[str]
    """In the order of the model's outputs: by code point, the tutorial's in its own order."""
    fixed_vocabulary: Vocabulary | None
    is_tutorial: bool
    cached: frozenset[str]
    """The uses whose data was in the cache."""


def read_inputs(
    specs: Mapping[str, DataSpec],
    vocabulary_file: Path | None,
    *,
    num_threads: int,
    max_rejected: float,
    max_vocabulary: int | None = None,
    features: FeatureSpec = PLAIN,
    cache: Cache | None = None,
) -> Inputs:
    """Reads each data set that is named, by use, and the vocabulary file.

    What the cache has is not read again. With `max_vocabulary` the training data's distinct words are held in
    bounded memory, by the rule of `Numbering`. The tutorial brings its own test data and vocabulary, where no
    others are named. Raises DataError and PlatformError as `job.dataset.read` does, what `Cache.get` raises,
    and DataError where there are fewer than two labels.
    """
    is_tutorial = specs["train"].location == TUTORIAL
    data_sets: dict[str, DataSet] = {}
    cached: set[str] = set()
    if is_tutorial:
        data_sets = {"train": tutorial.data_set(tutorial.TRAIN), "test": tutorial.data_set(tutorial.TEST)}
    for use, spec in specs.items():
        if not (use == "train" and is_tutorial):
            fill = partial(_fill, spec, features=features, num_threads=num_threads, max_rejected=max_rejected)
            max_tokens = limit_for(max_vocabulary) if use == "train" else None
            if cache is None:
                data_sets[use] = read_into_memory(fill, max_tokens=max_tokens)
                continue
            data_sets[use], was_cached = cache.get(spec, fill, max_tokens=max_tokens, features=features)
            if was_cached:
                data = data_sets[use]
                check_share(spec, data.corpus.num_rows, data.rejected, max_rejected)
                cached.add(use)
    rejected = RejectedRows()
    for data in data_sets.values():
        rejected.update(data.rejected)
    records = {use: data.record for use, data in data_sets.items()}
    fixed = tutorial.vocabulary() if is_tutorial else None
    if vocabulary_file is not None:
        fixed, records["vocabulary"] = read_vocabulary(vocabulary_file, features)
    return Inputs(
        corpora={use: data.corpus for use, data in data_sets.items()},
        samples={use: data.sample for use, data in data_sets.items()},
        records=records,
        rejected=rejected,
        label_names=list(tutorial.LABELS) if is_tutorial else _labels(data_sets["train"], specs["train"]),
        fixed_vocabulary=fixed,
        is_tutorial=is_tutorial,
        cached=frozenset(cached),
    )


def read_vocabulary(path: Path, features: FeatureSpec = PLAIN) -> tuple[Vocabulary, DataRecord]:
    """A fixed vocabulary: UTF-8, one token a line; a token's id is its place, from 0.

    In a file whose name ends in .jsonl each line is a JSON string, as in a bundle's `vocabulary.jsonl`.

    Raises DataError where a line cannot be a token of the specification: blank, there twice, too long, or
    with whitespace in it.
    """
    try:
        content = path.read_bytes()
        lines = content.decode("utf-8-sig").removesuffix("\n").split("\n")
    except OSError as error:
        raise DataError(
            f"BOW_VOCABULARY_FILE={path}: cannot be read ({error.strerror}); correct the path"
        ) from error
    except UnicodeDecodeError as error:
        number = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{number}: expected UTF-8, found {error.reason}; convert the file") from error
    first_line: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        token = line.removesuffix("\r")
        if path.suffix == ".jsonl":
            token = _decoded(token, f"{path}:{number}")
        if token.split() != [token] or "\0" in token:
            raise DataError(
                f"{path}:{number}: expected one token without whitespace, found {token[:80]!r}; correct it"
            )
        if len(token.encode()) > MAX_TOKEN_BYTES:
            raise DataError(
                f"{path}:{number}: expected a token of at most {MAX_TOKEN_BYTES:,} bytes, found "
                f"{len(token.encode()):,}; leave it out"
            )
        found = tokenize(token, features)
        if found != [token]:
            raise DataError(
                f"{path}:{number}: expected a token as BOW_TOKENIZER={features.tokenizer} and BOW_LOWERCASE="
                f"{str(features.lowercase).lower()} give it, found {token[:80]!r}, of which they make "
                f"{' and '.join(map(repr, found[:3])) or 'none'}; correct it"
            )
        if token in first_line:
            raise DataError(
                f"{path}:{number}: {token[:80]!r} is in line {first_line[token]} already; remove one of them"
            )
        first_line[token] = number
    record = DataRecord(sha256=hashlib.sha256(content).hexdigest(), rows=len(first_line), rejected=0)
    return Vocabulary(pa.array(first_line, pa.string())), record


def _fill(
    spec: DataSpec,
    take: Callable[[RowBlock], object],
    *,
    features: FeatureSpec,
    num_threads: int,
    max_rejected: float,
) -> Summary:
    tokenized = partial(tokenize_rows, sample=SAMPLE, features=features)
    return read(spec, tokenized, take, num_threads=num_threads, max_rejected=max_rejected)


def _labels(train: DataSet, spec: DataSpec) -> list[str]:
    names = sorted(train.corpus.label_names)
    if len(names) < 2:
        rejected = f" ({len(train.rejected):,} more were rejected)" if len(train.rejected) else ""
        raise DataError(
            f"{spec.setting}={spec.location}: expected at least two labels, found only {names[0]!r} in "
            f"{train.corpus.num_rows:,} rows{rejected}; add rows with other labels, or name the column that "
            "holds the labels in BOW_LABEL_COLUMN"
        )
    return names


def _decoded(line: str, where: str) -> str:
    try:
        return msgspec.json.decode(line, type=str)
    except msgspec.DecodeError as error:
        raise DataError(
            f"{where}: expected a JSON string, as in a bundle's vocabulary.jsonl, found {line[:80]!r}; "
            "correct it, or name the file .txt if each line is a token as it stands"
        ) from error
