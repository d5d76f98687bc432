"""From data in any of the job's formats to a task, with the same tokens for every contender."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from benchmarks.task import PARTS, Task
from job.dataset import DataSpec, Rows, read


def write(folder: Path, locations: dict[str, str]) -> Task:
    """Writes a task from data in any of the job's formats: a location each for `train` and `test`."""
    folder.mkdir(parents=True, exist_ok=True)
    labels: dict[str, int] = {}
    for part in PARTS:
        spec = DataSpec(location=locations[part], setting=f"the {part} data")
        blocks: list[Rows] = []
        read(spec, lambda rows: rows, blocks.append, num_threads=1, max_rejected=0.1)
        names = {name for rows in blocks for name in rows.labels.unique().to_pylist()}
        unseen = sorted(names - labels.keys())
        labels |= {name: number for number, name in enumerate(unseen, len(labels))}
        _write_part(Task(folder=folder), part, blocks, labels)
    return Task(folder=folder)


def _write_part(task: Task, part: str, blocks: list[Rows], labels: dict[str, int]) -> None:
    files = {suffix: task.path(part, suffix).open("wb") for suffix in ("tsv", "ft", "vw")}
    files["tsv"].write(b"label\ttext\n")
    for rows in blocks:
        numbers = pa.array([labels[name] for name in rows.labels.to_pylist()])
        for suffix, lines in _formats(numbers, _with_single_spaces(rows.texts)):
            files[suffix].write(lines)
    for file in files.values():
        file.close()


def _with_single_spaces(texts: Any) -> Any:
    words = pc.utf8_split_whitespace(texts)
    return pc.utf8_trim(pc.binary_join(words, " "), " ")


def _formats(numbers: Any, texts: Any) -> Iterator[tuple[str, bytes]]:
    plain = numbers.cast(pa.string())
    yield "tsv", _lines(pc.binary_join_element_wise(plain, texts, "\t"))
    yield "ft", _lines(pc.binary_join_element_wise("__label__", plain, " ", texts, ""))
    # Both are signs in its format.
    texts = pc.replace_substring(pc.replace_substring(texts, ":", "\u2236"), "|", "\u2223")
    from_one = pc.add(numbers, 1).cast(pa.string())
    yield "vw", _lines(pc.binary_join_element_wise(from_one, " | ", texts, ""))


def _lines(rows: Any) -> bytes:
    whole = pc.binary_join(pa.LargeListArray.from_arrays(pa.array([0, len(rows)], pa.int64()), rows), "\n")
    return bytes(whole[0].as_buffer()) + b"\n"
