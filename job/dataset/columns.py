"""The columns of a data set: finding them by name, and keeping the rows in which all of them are good."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from job.dataset.weights import is_no_weight, to_numbers
from serving.errors import DataError

_TEXT_NAMES = ("text", "sentence", "content", "message", "document", "utterance", "query", "question", "body")
_LABEL_NAMES = ("label", "category", "class", "intent", "target", "topic", "language", "lang")
_MAX_LISTED = 20

Reject: TypeAlias = tuple[int, str]
"""The line of a row that cannot be used, and the reason."""


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Where a file has its texts and labels, and how much its rows count."""

    names: tuple[str, ...]
    """All columns, in the file's order."""
    text: int
    label: int
    weight: int | None = None
    """None where each row counts once."""

    @property
    def places(self) -> tuple[int, ...]:
        """The columns that are read: the texts', the labels', and the weights' if there is one."""
        return (self.text, self.label) if self.weight is None else (self.text, self.label, self.weight)

    @property
    def names_read(self) -> tuple[str, ...]:
        """The names of the columns that are read, in the same order."""
        return tuple(self.names[place] for place in self.places)


@dataclass(frozen=True, kw_only=True)
class Parsed:
    """What a block gave: its good rows and, for each other row, its line and the reason."""

    texts: Any
    """pa.StringArray [N], without nulls."""
    labels: Any
    """pa.StringArray [N], without nulls."""
    weights: npt.NDArray[np.float32] | None
    """[N], finite and at least 0; None where each row counts once."""
    rejects: list[Reject]


def find_columns(
    names: Sequence[str],
    path: Path | str,
    *,
    text_column: str | None,
    label_column: str | None,
    weight_column: str | None = None,
) -> Columns:
    """Find the columns: by the given names exactly, otherwise by the usual names in any case.

    A column of weights is looked for where it is named, and has no usual names.

    Raises:
        DataError: a column is missing, occurs twice, or two of them are the same.
    """
    text = _find(names, path, "text", text_column, _TEXT_NAMES)
    label = _find(names, path, "label", label_column, _LABEL_NAMES)
    if text == label:
        raise DataError(
            f"{path}: text and label are both read from the column {names[text]!r}; "
            f"the columns are {_listed(names)}; set BOW_TEXT_COLUMN and BOW_LABEL_COLUMN"
        )
    weight = None if weight_column is None else _find(names, path, "weight", weight_column, ())
    if weight in (text, label):
        raise DataError(
            f"{path}: weights and {'texts' if weight == text else 'labels'} are both read from the column "
            f"{weight_column!r}; the columns are {_listed(names)}; correct BOW_WEIGHT_COLUMN, or name the "
            "others in BOW_TEXT_COLUMN and BOW_LABEL_COLUMN"
        )
    return Columns(names=tuple(names), text=text, label=label, weight=weight)


def _find(
    names: Sequence[str], path: Path | str, what: str, wanted: str | None, usual_names: Sequence[str]
) -> int:
    setting = f"BOW_{what.upper()}_COLUMN"
    if wanted is not None:
        found = [i for i, name in enumerate(names) if name == wanted]
        expected = f"a column {wanted!r} ({setting})"
    else:
        folded = [name.strip().lower() for name in names]
        alias = next((alias for alias in usual_names if alias in folded), None)
        found = [i for i, name in enumerate(folded) if name == alias]
        expected = f"a {what} column named {', '.join(usual_names[:-1])} or {usual_names[-1]}"
    if not found:
        raise DataError(
            f"{path}: expected {expected}; found the columns {_listed(names)}; set {setting}, "
            "or correct the column names"
        )
    if len(found) > 1:
        raise DataError(
            f"{path}: expected one {what} column, found {len(found)} of that name among the columns "
            f"{_listed(names)}; rename all but one, or set {setting}"
        )
    return found[0]


def _listed(names: Sequence[str]) -> str:
    shown = [repr(name if len(name) <= 40 else name[:40] + "…") for name in names[:_MAX_LISTED]]
    return ", ".join(shown) + (f" and {len(names) - _MAX_LISTED} more" if len(names) > _MAX_LISTED else "")


def keep_good(fields: Sequence[Any], lines: Any, rejects: list[Reject]) -> Parsed:
    """Keep the rows with a text (it may be empty) and a label, both valid UTF-8 without NUL, and a weight.

    Args:
        fields: what stands in the columns that are read, in the order of `Columns.places`: texts and labels,
            each a BinaryArray [N], and weights, a BinaryArray or DoubleArray [N], where they are asked for.
            Null where the row has none.
        lines: int64 [N], the line of each row.
        rejects: rows of the block that were refused before, each a line and a reason.

    Returns:
        The good rows, and all rejects by line; a row has one reason, the first that holds.
    """
    texts, labels, *weights = fields
    columns = {"text": texts, "label": labels, "line": lines}
    rows = pa.record_batch(columns | ({"weight": to_numbers(weights[0])} if weights else {}))
    rejects = list(rejects)

    def reject(reason: str, bad: Any) -> None:
        nonlocal rows
        if pc.any(bad).as_py():
            rejects.extend((line, reason) for line in rows.filter(bad)["line"].to_pylist())
            rows = rows.filter(pc.invert(bad))

    reject("no label", pc.is_null(rows["label"]))
    reject("no text", pc.is_null(rows["text"]))
    for name in ("text", "label"):
        reject("invalid UTF-8", _is_invalid(rows[name]))
        reject("NUL character", _has_nul(rows[name]))
    # A view, unlike a cast, does not check the bytes a second time.
    trimmed = pc.utf8_trim_whitespace(rows["label"].view(pa.string()))
    reject("no label", pc.equal(pc.binary_length(trimmed), 0))
    if weights:
        reject("no weight", pc.is_null(rows["weight"]))
        reject("weight is not a finite number of at least 0", is_no_weight(rows["weight"]))
    rejects.sort(key=lambda reject: reject[0])
    return Parsed(
        texts=rows["text"].view(pa.string()),
        labels=rows["label"].view(pa.string()),
        weights=rows["weight"].to_numpy() if weights else None,
        rejects=rejects,
    )


def _is_invalid(values: Any) -> Any:
    """Return a BooleanArray [N]: which of the bytes are not UTF-8."""
    if any_invalid(values):
        # Only a block with such a row comes here; Arrow does not say which row it is.
        return pa.array([not is_utf8(value) for value in values.to_pylist()], pa.bool_())
    return _all_false(len(values))


def any_invalid(values: Any) -> bool:
    """Return whether some of the bytes in a BinaryArray are not UTF-8."""
    try:
        values.cast(pa.string())
    except pa.ArrowInvalid:
        return True
    return False


def is_utf8(value: bytes) -> bool:
    """Return whether the bytes are valid UTF-8."""
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _has_nul(values: Any) -> Any:
    """Return a BooleanArray [N]: which of the bytes contain a zero."""
    data = values.buffers()[2]
    if data is None or np.frombuffer(data, np.uint8).all():
        return _all_false(len(values))
    return pc.match_substring(values, b"\0")


def _all_false(length: int) -> Any:
    return pa.array(np.zeros(length, bool))
