"""How good predictions are: accuracy, precision, recall, F1, log-loss and confusion counts."""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from serving.bundle import MetricsSummary
from serving.parity.table import plain_table, render
from serving.printable import printable

Int64 = npt.NDArray[np.int64]
Float64 = npt.NDArray[np.float64]

SHOWN_LABELS = 10
"""Labels that the table shows, the worst first; metrics.json has all."""


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """What a model said of N rows."""

    labels: Int64
    """The true label of each row, [N]; -1 for one that the model does not have."""
    predicted: Int64
    """The most probable label of each row, [N]; of equals the first."""
    log_probs: Float64
    """The log-probability of each true label, [N]; anything where that is -1."""

    @property
    def accuracy(self) -> float:
        """The share of rows whose most probable label is the true one."""
        return float((self.labels == self.predicted).mean())


class LabelMetrics(msgspec.Struct, frozen=True, kw_only=True):
    """How well one label is told from the others; a share of nothing counts as 0."""

    label: str
    precision: float
    """Of the rows that were given this label, the share that has it."""
    recall: float
    """Of the rows that have this label, the share that was given it."""
    f1: float
    """The harmonic mean of precision and recall."""
    support: int
    """Rows that have this label."""


class Confusion(msgspec.Struct, frozen=True, kw_only=True):
    """How many rows of a label were given a label."""

    label: str | None
    """None for the labels that the model does not have, together."""
    predicted: str
    count: int


class Metrics(msgspec.Struct, frozen=True, kw_only=True):
    """All that metrics.json holds of a data set."""

    summary: MetricsSummary
    unseen_label_rows: int
    """Rows whose label the model does not have: each counts as wrong, and none in the log-loss."""
    labels: list[LabelMetrics]
    """In the model's order."""
    confusion: list[Confusion]
    """The counts above 0, by label and then by predicted label."""


def compute(predictions: Predictions, label_names: Sequence[str]) -> Metrics:
    """The metrics of N > 0 predictions over K labels.

    The means of F1 go over the labels that occur or were predicted, as scikit-learn's do.
    """
    num_labels = len(label_names)
    truth, predicted = predictions.labels, predictions.predicted
    seen = truth >= 0
    correct = np.bincount(truth[truth == predicted], minlength=num_labels)
    support = np.bincount(truth[seen], minlength=num_labels)
    given = np.bincount(predicted, minlength=num_labels)
    precision, recall = _share(correct, given), _share(correct, support)
    f1 = _share(2 * correct, given + support)
    occurs = (given + support) > 0
    names = [None, *label_names]
    pairs, counts = np.unique((truth + 1) * num_labels + predicted, return_counts=True)
    return Metrics(
        summary=MetricsSummary(
            rows=len(truth),
            accuracy=predictions.accuracy,
            macro_f1=float(f1[occurs].mean()),
            weighted_f1=float((f1 * support).sum() / max(1, support.sum())),
            log_loss=float(-predictions.log_probs[seen].mean()) if seen.any() else None,
        ),
        unseen_label_rows=int((~seen).sum()),
        labels=[
            LabelMetrics(label=name, precision=p, recall=r, f1=f, support=n)
            for name, p, r, f, n in zip(
                label_names,
                precision.tolist(),
                recall.tolist(),
                f1.tolist(),
                support.tolist(),
                strict=True,
            )
        ],
        confusion=[
            Confusion(label=names[pair // num_labels], predicted=label_names[pair % num_labels], count=count)
            for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True)
        ],
    )


def to_json(metrics: dict[str, Metrics]) -> bytes:
    """The bytes of `metrics.json`: the metrics in full, by data set."""
    return msgspec.json.format(msgspec.json.encode(metrics, order="deterministic"), indent=1) + b"\n"


def table(name: str, metrics: Metrics) -> str:
    """The metrics of a data set as text: the summary, then the labels with the lowest F1."""
    summary = metrics.summary
    log_loss = "" if summary.log_loss is None else f", log-loss {summary.log_loss:.4f}"
    lines = [
        f"{name}: accuracy {summary.accuracy:.4f} on {summary.rows:,} rows, macro F1 {summary.macro_f1:.4f}, "
        f"weighted F1 {summary.weighted_f1:.4f}{log_loss}\n"
    ]
    occurring = [label for label in metrics.labels if label.support]
    shown = sorted(occurring, key=lambda label: (label.f1, label.label))[:SHOWN_LABELS]
    lowest = "lowest " if len(shown) < len(occurring) else ""
    labels = plain_table(f"{name}, {lowest}F1", "precision", "recall", "F1", "support")
    for label in shown:
        labels.add_row(
            printable(label.label),
            f"{label.precision:.4f}",
            f"{label.recall:.4f}",
            f"{label.f1:.4f}",
            f"{label.support:,}",
        )
    return "".join([*lines, "\n", render(labels)])


def _share(part: Int64, whole: Int64) -> Float64:
    """part / whole, and 0 where both are."""
    return np.divide(part, whole, out=np.zeros(len(whole)), where=whole > 0)
