from pathlib import Path

import numpy as np
import pytest

from job.environment import load_settings
from job.run import run
from job.telling.output import Output
from job.training.class_weights import label_weights
from serving.bundle import open_bundle
from serving.errors import DataError, SettingsError
from serving.parity.verify import read_parameters, reference_of

LABELS = ["ham", "spam"]
SUMS = np.array([9.0, 1.0])


def test_balanced_labels_have_the_same_sum() -> None:
    """If it failed, a frequent label would still count more than a rare one."""
    weights = label_weights("balanced", LABELS, SUMS)
    assert weights is not None
    assert (weights * SUMS).tolist() == pytest.approx([5, 5])


def test_a_label_whose_rows_weigh_nothing_leaves_the_others_as_they_are() -> None:
    """If it failed, a label that cannot be learned would scale what the others count, or divide by zero."""
    weights = label_weights("balanced", ["a", "b", "c"], np.array([6.0, 0.0, 2.0]))
    assert weights is not None
    assert weights.tolist() == pytest.approx([4 / 6, 1, 2])


def test_listed_labels_have_their_weights_and_others_one() -> None:
    """If it failed, a weight would go to another label."""
    weights = label_weights('{"spam": 2.5}', LABELS, SUMS)
    assert weights is not None
    assert weights.tolist() == [1, 2.5]
    assert label_weights("none", LABELS, SUMS) is None


def test_a_label_that_there_is_not_is_refused() -> None:
    """If it failed, a misspelt label would silently keep the weight 1."""
    with pytest.raises(DataError, match=r"BOW_CLASS_WEIGHTS: there is no label 'Spam'.*'ham', 'spam'"):
        label_weights('{"Spam": 5}', LABELS, SUMS)


@pytest.mark.parametrize(
    "text",
    [
        "equal",
        "[1]",
        '{"a": 0}',
        '{"a": -1}',
        '{"a": "b"}',
        '{"a": 1e999}',
        '{"a": 1e39}',
        '{"a": 1e-46}',
        "{",
        '{"a": 1, "b": 1, "a": 2}',
    ],
)
def test_what_is_no_list_of_weights_is_refused(text: str) -> None:
    """If it failed, training would end in a traceback, or go uphill."""
    with pytest.raises(SettingsError, match="BOW_CLASS_WEIGHTS: expected none, balanced, or a JSON object"):
        load_settings({"BOW_TRAIN_DATA": "x", "BOW_CLASS_WEIGHTS": text})


def test_a_rare_label_is_found_more_often_with_balanced_weights(tmp_path: Path) -> None:
    """If it failed, the setting would change nothing."""
    rows = ["a b\tham"] * 95 + ["a c\tspam"] * 5 + ["c a\tham"] * 6
    (tmp_path / "train.tsv").write_text("text\tlabel\n" + "\n".join(rows) + "\n")
    spam = {}
    for weights in ("none", "balanced"):
        environ = {"TRAIN_DATA": str(tmp_path / "train.tsv"), "OUTPUT_DIR": str(tmp_path), "DEVICE": "cpu"}
        environ |= {"CLASS_WEIGHTS": weights, "RUN_NAME": weights}
        settings = load_settings({f"BOW_{name}": value for name, value in environ.items()})
        parameters = read_parameters(open_bundle(run(settings, Output(for_people=False))))
        spam[weights] = reference_of(parameters).score(["a c"]).log_probs[0, 1]
    assert spam["balanced"] > np.log(0.5) > spam["none"]
