"""Parity: how far a runtime's log-probabilities may be from the reference's, and how far they are."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from serving.errors import ParityError
from serving.parity.reference import Scores

FLOAT32_SLACK = 2.0**-22
"""Four roundings of float32, in units of `Scores.rounding_scale`: what sums in float32 may lose."""


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """How far a log-probability may be from the reference's: `atol + rtol · |reference|`."""

    atol: float = 1e-5
    rtol: float = 1e-5

    def bound(self, scores: Scores, *, float32_sums: bool) -> npt.NDArray[np.float64]:
        """The bound of each log-probability, [N, K].

        With `float32_sums` the runtime adds up in float32, and `2**-22 · √n · max_k Σ |count · weight|` more
        is allowed, n being the number of terms: 2,000 times the same word is thousands of tolerances off in
        any float32 sum.
        """
        bound = self.atol + self.rtol * np.abs(scores.log_probs)
        return bound + FLOAT32_SLACK * scores.rounding_scale[:, None] if float32_sums else bound


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One step of the ladder: what was compared, on how much, and how far apart it was."""

    name: str
    """The runtime, or the file."""
    sample: str
    """On what: `golden texts`, `weights`."""
    count: int
    """On how many of them."""
    largest_difference: float
    """The largest absolute difference; infinite where a value was not a number or missing."""
    share_of_bound: float
    """The largest share of its bound that any difference takes up; the rung holds up to 1."""
    problem: str | None = None
    """What is wrong in words, where it is more than a difference of numbers."""

    @property
    def holds(self) -> bool:
        """Whether nothing is wrong on this rung."""
        return self.problem is None and self.share_of_bound <= 1


def compare(
    name: str,
    sample: str,
    log_probs: npt.NDArray[np.float32] | npt.NDArray[np.float64],
    scores: Scores,
    tolerance: Tolerance,
    *,
    float32_sums: bool,
) -> Rung:
    """Holds a runtime's log-probabilities [N, K] against the reference's.

    The most probable label must be the reference's too, but where its two best are within the bounds of
    each other.
    """
    expected = scores.log_probs
    if log_probs.shape != expected.shape:
        problem = f"expected log-probabilities of shape {list(expected.shape)}, found {list(log_probs.shape)}"
        return broken(name, sample, len(expected), problem)
    if not np.isfinite(log_probs).all():
        return broken(name, sample, len(expected), "a log-probability is infinite or not a number")
    if not np.isfinite(expected).all():
        return broken(name, sample, len(expected), "the reference is infinite or not a number")
    difference = np.abs(log_probs.astype(np.float64) - expected)
    bound = tolerance.bound(scores, float32_sums=float32_sums)
    return Rung(
        name=name,
        sample=sample,
        count=len(expected),
        largest_difference=float(difference.max(initial=0)),
        share_of_bound=float((difference / bound).max(initial=0)),
        problem=_other_label(log_probs, expected, bound) if len(expected) else None,
    )


def compare_exactly(
    name: str, sample: str, found: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]
) -> Rung:
    """Holds numbers such as weights against what they should be: every bit must be the same."""
    if found.shape != expected.shape:
        problem = f"expected {expected.size:,}, found {found.size:,}"
        return broken(name, sample, expected.size, problem)
    differs = found.view(np.uint32) != expected.view(np.uint32)
    number = int(differs.sum())
    # A signalling NaN would warn.
    with np.errstate(invalid="ignore"):
        difference = np.abs(found[differs].astype(np.float64) - expected[differs])
    return Rung(
        name=name,
        sample=sample,
        count=expected.size,
        largest_difference=float(np.nan_to_num(difference, nan=np.inf, posinf=np.inf).max(initial=0)),
        share_of_bound=np.inf if number else 0.0,
        problem=f"{number:,} differ" if number else None,
    )


def merge(rungs: Sequence[Rung]) -> Rung:
    """One rung of several of the same name and kind: the worst of each, and how many were compared in all."""
    return Rung(
        name=rungs[0].name,
        sample=rungs[0].sample,
        count=sum(rung.count for rung in rungs),
        # numpy's maximum is NaN where any of the numbers is; Python's may lose it.
        largest_difference=float(np.max([rung.largest_difference for rung in rungs])),
        share_of_bound=float(np.max([rung.share_of_bound for rung in rungs])),
        problem=next((rung.problem for rung in rungs if rung.problem), None),
    )


def by_name(rungs: Sequence[Rung]) -> list[Rung]:
    """The rungs of each name merged into one, whatever they were compared on."""
    names = dict.fromkeys((rung.name, rung.sample.split()[-1]) for rung in rungs)
    merged = [merge([rung for rung in rungs if (rung.name, rung.sample.split()[-1]) == key]) for key in names]
    return [replace(rung, sample=unit) for rung, (_, unit) in zip(merged, names, strict=True)]


def check(rungs: Sequence[Rung], what: str, *, runtimes: str = "the files do") -> None:
    """Raises ParityError that names every rung which does not hold, or where there is none.

    Counted as checks are the rungs `by_name`, which are the lines of the table that people see.

    what, runtimes: the bundle, and what was held against it, for the message.
    """
    if not rungs:
        raise ParityError(f"{what}: nothing was held against the trained model, so nothing is proven")
    failed = [rung for rung in rungs if not rung.holds]
    if not failed:
        return
    checks = by_name(rungs)
    num_failed = sum(not each.holds for each in checks)
    lines = [
        f"  {rung.name} on {rung.count:,} {rung.sample}: "
        + (
            rung.problem
            or f"up to {rung.largest_difference:.3g}, {rung.share_of_bound:.3g} times what is allowed"
        )
        for rung in failed
    ]
    raise ParityError(
        f"{what}: {num_failed} of {len(checks)} checks failed; {runtimes} not give the trained model's "
        "log-probabilities:\n" + "\n".join(lines)
    )


def broken(name: str, sample: str, count: int, problem: str) -> Rung:
    """A rung on which more is wrong than numbers."""
    return Rung(
        name=name,
        sample=sample,
        count=count,
        largest_difference=np.inf,
        share_of_bound=np.inf,
        problem=problem,
    )


def _other_label(
    found: npt.NDArray[np.float32] | npt.NDArray[np.float64],
    expected: npt.NDArray[np.float64],
    bound: npt.NDArray[np.float64],
) -> str | None:
    """How many rows have another best label, though the reference's is ahead by more than both bounds."""
    rows = np.arange(len(expected))
    best, chosen = expected.argmax(axis=1), found.argmax(axis=1)
    lead = expected[rows, best] - expected[rows, chosen]
    wrong = int((lead > bound[rows, best] + bound[rows, chosen]).sum())
    return f"another label is the most probable one in {wrong:,} texts" if wrong else None
