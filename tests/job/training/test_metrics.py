import json
import math

import numpy as np
import pytest

from job.training.metrics import Metrics, Predictions, compute, table, to_json

NAMES = ["cat", "dog", "eel"]


def metrics_of(truth: list[int], predicted: list[int], log_probs: list[float] | None = None) -> Metrics:
    predictions = Predictions(
        labels=np.array(truth),
        predicted=np.array(predicted),
        log_probs=np.array(log_probs or [-0.5] * len(truth)),
    )
    return compute(predictions, NAMES)


def test_metrics_by_hand() -> None:
    """If it failed, the manifest would praise or damn a model wrongly."""
    metrics = metrics_of([0, 0, 0, 1, 1, 2], [0, 0, 1, 1, 0, 1], [-0.1, -0.2, -0.3, -0.4, -0.5, -0.6])
    assert metrics.summary.rows == 6
    assert metrics.summary.accuracy == pytest.approx(3 / 6)
    assert metrics.summary.log_loss == pytest.approx(2.1 / 6)
    assert [label.support for label in metrics.labels] == [3, 2, 1]
    assert [label.precision for label in metrics.labels] == pytest.approx([2 / 3, 1 / 3, 0])
    assert [label.recall for label in metrics.labels] == pytest.approx([2 / 3, 1 / 2, 0])
    assert [label.f1 for label in metrics.labels] == pytest.approx([2 / 3, 2 / 5, 0])
    assert metrics.summary.macro_f1 == pytest.approx((2 / 3 + 2 / 5) / 3)
    assert metrics.summary.weighted_f1 == pytest.approx((3 * 2 / 3 + 2 * 2 / 5) / 6)
    assert {(cell.label, cell.predicted): cell.count for cell in metrics.confusion} == {
        ("cat", "cat"): 2,
        ("cat", "dog"): 1,
        ("dog", "dog"): 1,
        ("dog", "cat"): 1,
        ("eel", "dog"): 1,
    }


def test_a_perfect_model() -> None:
    """If it failed, a label without rows would count against the mean."""
    metrics = metrics_of([0, 1, 1], [0, 1, 1])
    assert metrics.summary.accuracy == metrics.summary.macro_f1 == metrics.summary.weighted_f1 == 1
    assert metrics.labels[2].support == 0


def test_labels_that_the_model_lacks_count_as_wrong() -> None:
    """If it failed, test data with a new label would make the model look better, or break the log-loss."""
    metrics = metrics_of([0, -1, -1], [0, 0, 1], [-0.25, math.nan, math.nan])
    assert metrics.summary.accuracy == pytest.approx(1 / 3)
    assert metrics.summary.log_loss == pytest.approx(0.25)
    assert metrics.unseen_label_rows == 2
    assert metrics.labels[0].precision == pytest.approx(1 / 2)
    assert [cell.label for cell in metrics.confusion if cell.label is None] == [None, None]


def test_only_labels_that_the_model_lacks() -> None:
    """If it failed, test data of another task would end in a division by zero."""
    summary = metrics_of([-1, -1], [0, 1]).summary
    assert (summary.accuracy, summary.weighted_f1, summary.log_loss) == (0, 0, None)


def test_metrics_are_valid_json() -> None:
    """If it failed, a strict reader would refuse metrics.json."""
    content = json.loads(to_json({"test": metrics_of([0, -1], [0, 1])}))
    assert content["test"]["summary"]["accuracy"] == 0.5
    assert [label["label"] for label in content["test"]["labels"]] == NAMES


def test_the_table_shows_the_worst_labels_first() -> None:
    """If it failed, a person would not see at once where the model is weak."""
    lines = table("test", metrics_of([0, 0, 0, 1, 1, 2], [0, 0, 0, 1, 0, 0])).splitlines()
    assert lines[0].startswith("test: accuracy 0.6667 on 6 rows, macro F1 ")
    assert [line.split()[0] for line in lines[4:]] == ["eel", "dog", "cat"]


def test_the_table_tells_the_terminal_nothing() -> None:
    """If it failed, a label could colour the terminal, or break the table's lines."""
    labels = ["esc\x1b[31mred", "two\nlines", "\u202eback", "naïve"]
    rows = np.arange(4)
    predictions = Predictions(labels=rows, predicted=rows, log_probs=np.full(4, -0.5))
    shown = table("test", compute(predictions, labels))
    assert "\x1b" not in shown
    for label in ("esc\\x1b[31mred", "two\\nlines", "\\u202eback", "naïve"):
        assert label in shown
