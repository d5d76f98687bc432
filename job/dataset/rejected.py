"""Rows that could not be used: counted by reason, kept with file and line, written for the user."""

import json
import uuid
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from serving.errors import PlatformError

MAX_DETAILS = 100_000
"""Rows of which file, line and reason are kept; rows beyond are counted only."""


@dataclass(frozen=True, kw_only=True)
class RejectedRow:
    """One row that could not be used."""

    file: str
    line: int
    """The 1-based line in which the row begins; in Parquet the 1-based number of the row."""
    reason: str


class RejectedRows:
    """The rejected rows of a data set, in the order in which they were added."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        """Rows by reason, all of them."""
        self.details: list[RejectedRow] = []
        """The first MAX_DETAILS rows."""

    def __len__(self) -> int:
        return self.counts.total()

    @property
    def listed(self) -> str:
        """Which of them `write` lists, in words: `The`, or `The first 100,000`."""
        return "The" if len(self.details) == len(self) else f"The first {len(self.details):,}"

    def add(self, file: str, rows: Iterable[tuple[int, str]]) -> None:
        """Add a file's next rows, each a line number and a reason."""
        for line, reason in rows:
            self.counts[reason] += 1
            if len(self.details) < MAX_DETAILS:
                self.details.append(RejectedRow(file=file, line=line, reason=reason))

    def update(self, other: "RejectedRows") -> None:
        """Add another data set's rows."""
        self.counts.update(other.counts)
        self.details.extend(other.details[: MAX_DETAILS - len(self.details)])

    def describe(self, *, max_reasons: int = 5, max_examples: int = 3) -> str:
        """Return one line for each of the commonest reasons: how many rows, and the first as file:line."""
        lines = []
        for reason, count in self.counts.most_common(max_reasons):
            found = [row for row in self.details if row.reason == reason][:max_examples]
            places = ", ".join(f"{row.file}:{row.line}" for row in found)
            lines.append(f"  {count:,} × {reason}" + (f", first {places}" if places else ""))
        if len(self.counts) > max_reasons:
            num_others = len(self) - sum(count for _, count in self.counts.most_common(max_reasons))
            lines.append(f"  {num_others:,} × other reasons")
        return "\n".join(lines)

    def write(self, path: Path) -> None:
        """Write the details as JSON lines, `{"file": ..., "line": ..., "reason": ...}`, whole or not at all.

        Raises:
            PlatformError: the file cannot be written.
        """
        temporary = path.with_name(f".{path.name}-{uuid.uuid4().hex}")  # jobs without a name share the list's
        try:
            with temporary.open("w", encoding="ascii") as file:
                for row in self.details:
                    file.write(json.dumps({"file": row.file, "line": row.line, "reason": row.reason}) + "\n")
            temporary.replace(path)
        except OSError as error:
            raise PlatformError(
                f"{path}: the rejected rows cannot be written ({error.strerror}); check space and permissions"
            ) from error
        finally:
            temporary.unlink(missing_ok=True)
