"""The quality gate: whether a new model is good enough for `latest` to move to it."""

from dataclasses import dataclass
from pathlib import Path

from job.baseline import Baseline, TestData, baseline_of, open_latest
from serving.bundle import FILES, MetricsSummary
from serving.errors import QualityError
from serving.quality import FailedGate

ROUNDING = 1e-12
"""What the difference of two shares may be off: 0.9 - 0.88 is more than 0.02 in floating point."""


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What the gate said of a model."""

    has_limits: bool
    """Whether anything was asked of it."""
    summary: MetricsSummary | None
    """Its metrics on the test data."""
    baseline: Baseline | None
    """What it was compared with."""
    failed: FailedGate | None
    """Why it did not pass; None where it did."""


@dataclass(frozen=True, kw_only=True)
class QualityGate:
    """The limits that the settings give."""

    min_accuracy: float | None
    max_drop: float | None
    latest: Path
    """The link to the bundle in service."""
    test: TestData | None
    """None where the run has none; the limits are not set then."""

    def check_latest(self) -> None:
        """Raises ArtifactError where the bundle in service could not be compared with, before training."""
        if self.max_drop is not None:
            open_latest(self.latest)

    def judge(self, summary: MetricsSummary | None, *, with_latest: bool = True) -> Judgement:
        """Judges a model by its metrics on the test data; without `with_latest` by the least accuracy alone.

        Raises what `open_latest` and `baseline_of` raise.
        """
        baseline = None
        if with_latest and self.max_drop is not None and self.test is not None:
            in_service = open_latest(self.latest)
            baseline = None if in_service is None else baseline_of(in_service, self.test)
        failed = failed_gate(self.min_accuracy, self.max_drop, summary, baseline)
        has_limits = self.min_accuracy is not None or self.max_drop is not None
        return Judgement(has_limits=has_limits, summary=summary, baseline=baseline, failed=failed)


def failed_gate(
    min_accuracy: float | None,
    max_drop: float | None,
    summary: MetricsSummary | None,
    baseline: Baseline | None,
) -> FailedGate | None:
    """Why a model is not good enough; None where it is.

    An accuracy that is not a number, or that nobody measured, is not good enough for any limit.
    """
    accuracy = float("nan") if summary is None else summary.accuracy
    rows = 0 if summary is None else summary.rows
    found = f"test accuracy {accuracy:.4f} on {rows:,} rows"
    reasons = []
    # Both compare so that NaN fails.
    if min_accuracy is not None and not accuracy >= min_accuracy:
        reasons.append(f"{found}, and BOW_MIN_ACCURACY asks for at least {min_accuracy:g}")
    if (
        max_drop is not None
        and baseline is not None
        and not baseline.accuracy - accuracy <= max_drop + ROUNDING
    ):
        reasons.append(
            f"{found}, and {baseline.run}, which is in service, has {baseline.accuracy:.4f} on the same "
            f"rows: BOW_MAX_DROP allows a drop of {max_drop:g}"
        )
    if not reasons:
        return None
    return FailedGate(
        accuracy=accuracy,
        rows=rows,
        min_accuracy=min_accuracy,
        max_drop=max_drop,
        latest=None if baseline is None else baseline.run,
        latest_accuracy=None if baseline is None else baseline.accuracy,
        reasons=reasons,
    )


def quality_error(failed: FailedGate, bundle: Path, latest: Path) -> QualityError:
    """The error that ends a run whose bundle did not pass: the figures, where it is, and what to do."""
    in_service = f"latest still names {latest.resolve().name}" if latest.exists() else "there is no latest"
    limits = [
        name
        for name, limit in (("BOW_MIN_ACCURACY", failed.min_accuracy), ("BOW_MAX_DROP", failed.max_drop))
        if limit is not None and any(name in reason for reason in failed.reasons)
    ]
    return QualityError(
        f"{bundle}: the model did not pass the quality gate: {'; '.join(failed.reasons)}. The bundle is "
        f"whole and stays; {in_service}. Look at {bundle / FILES.metrics} and at what changed in the data; "
        f"to put it into service all the same, change or unset {' and '.join(limits)}, and run the job again"
    )
