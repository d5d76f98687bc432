"""What a run came to, in one line: for people, for the log, and for what watches over scheduled jobs."""

from dataclasses import dataclass

import msgspec

from serving.errors import ExitCode


@dataclass(kw_only=True)
class Facts:
    """What is known of a run so far; `Output` writes it down as the stages tell it.

    It changes, since a run that fails half-way has a result too.
    """

    outcome: str | None = None
    """`published`, `already_published` or `kept_back`; None until there is a bundle."""
    run: str | None = None
    bundle_id: str | None = None
    accuracy: float | None = None
    """On the test data."""
    rows: int | None = None
    """Rows of the training data."""
    tokens_per_second: float | None = None
    """Of the training loop."""
    device: str | None = None


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How a command ended."""

    exit_code: ExitCode
    error: str | None = None
    """The error's type; None where there was none."""
    message: str | None = None
    """What to tell the user."""


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a run, in the order in which it is written."""

    run: str | None
    outcome: str
    """As in `Facts`; else `failed`, `interrupted` or `bug`."""
    exit_code: int
    bundle_id: str | None
    accuracy: float | None
    rows: int | None
    tokens_per_second: int | None
    device: str | None
    seconds: float
    error: str | None
    """The error's type."""
    message: str | None
    """The first line of its message."""

    def for_people(self) -> str:
        """One line of text."""
        parts = [f"{self.run or 'the run'}: {self.outcome.replace('_', ' ')}"]
        if self.exit_code:
            parts[0] += f" (exit code {self.exit_code})"
        if self.accuracy is not None:
            parts.append(f"test accuracy {self.accuracy:.4f}")
        if self.rows is not None:
            parts.append(f"{self.rows:,} rows")
        if self.tokens_per_second is not None:
            parts.append(f"{self.tokens_per_second:,} tokens/s")
        if self.device is not None:
            parts.append(self.device)
        return ", ".join([*parts, f"{self.seconds:.1f} s"]) + "\n"

    def to_json(self, max_bytes: int) -> bytes:
        """One line of JSON, with its end no longer than that: the message is cut to fit."""
        # A path may hold bytes that are no UTF-8, which Python keeps as lone surrogates.
        message = self.message and self.message.encode(errors="replace").decode()
        cut = msgspec.structs.replace(self, message=message)
        line = msgspec.json.encode(cut) + b"\n"
        while len(line) > max_bytes and cut.message:
            # A character takes at most six bytes and at least one: by sixths, this neither cuts too much nor
            # takes long.
            excess = -(-(len(line) - max_bytes) // 6)
            cut = msgspec.structs.replace(cut, message=cut.message.removesuffix("…")[: -max(excess, 1)] + "…")
            line = msgspec.json.encode(cut) + b"\n"
        return line


def result_of(facts: Facts, ending: Ending, seconds: float) -> Result:
    """The result of a run that ended, `seconds` after it began."""
    match ending.exit_code:
        case ExitCode.DONE | ExitCode.QUALITY_GATE:
            outcome = facts.outcome or "failed"
        case ExitCode.INTERRUPTED:
            outcome = "interrupted"
        case ExitCode.BUG:
            outcome = "bug"
        case _:
            outcome = "failed"
    return Result(
        run=facts.run,
        outcome=outcome,
        exit_code=int(ending.exit_code),
        bundle_id=facts.bundle_id,
        accuracy=facts.accuracy,
        rows=facts.rows,
        tokens_per_second=None if facts.tokens_per_second is None else round(facts.tokens_per_second),
        device=facts.device,
        seconds=round(seconds, 3),
        error=ending.error,
        message=(ending.message or "").partition("\n")[0] or None,
    )
