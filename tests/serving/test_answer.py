"""`answer`: what the parameters of a request choose."""

import math
from pathlib import Path

import numpy as np
import pytest

from serving.answer import answer, selection_of
from serving.errors import DataError
from serving.predictor import Predictor
from serving.selection import Selection

TEXTS = ["w1 w2 café", "", "w3 w100 東京"]


@pytest.fixture(scope="module")
def predictor(trained: Path) -> Predictor:
    return Predictor.load(trained)


def test_without_parameters_the_models_own_outputs_are_given(predictor: Predictor) -> None:
    """If it failed, a client would not get what the model file itself gives."""
    found = answer(predictor, TEXTS, selection_of({"binary_data_output": True}))
    assert (found.log_probs == predictor.log_probs(TEXTS)).all()
    assert found.label == [each.label for (each,) in predictor.predict(TEXTS)]
    assert found.label_shape == [3]
    empty = answer(predictor, [], None)
    assert (empty.log_probs.shape, empty.label, empty.label_shape) == ((0, 5), [], [0])


@pytest.mark.parametrize(("top_k", "number"), [(1, 1), (3, 3), (5, 5), (99, 5)])
def test_top_k_gives_the_most_probable_labels_first(predictor: Predictor, top_k: int, number: int) -> None:
    """If it failed, labels and log-probabilities of an answer would not belong together."""
    found = answer(predictor, TEXTS, selection_of({"top_k": top_k}))
    assert found.label_shape == list(found.log_probs.shape) == [3, number]
    assert found.log_probs.dtype == np.float32
    assert found.log_probs.flags.c_contiguous
    expected = predictor.predict(TEXTS, top_k=top_k)
    assert found.label == [each.label for row in expected for each in row]
    assert found.log_probs.ravel().tolist() == [each.log_prob for row in expected for each in row]


def test_below_the_threshold_the_label_is_empty(predictor: Predictor) -> None:
    """If it failed, a client that wants sure answers alone would take others for sure."""
    (row,) = predictor.predict(["w1 w2"], top_k=5)
    for number, each in enumerate(row, 1):
        found = answer(predictor, ["w1 w2"], selection_of({"top_k": 5, "threshold": each.prob}))
        assert found.label == [other.label for other in row[:number]] + [""] * (5 - number)
        assert found.log_probs.ravel().tolist() == [other.log_prob for other in row]
    assert answer(predictor, ["w1 w2"], selection_of({"threshold": 1})).label == [""]


@pytest.mark.parametrize(
    ("parameters", "selection"),
    [
        ({}, None),
        ({"other": 1}, None),
        ({"top_k": 2}, Selection(top_k=2, threshold=0.0)),
        ({"top_k": 2.0}, Selection(top_k=2, threshold=0.0)),
        ({"threshold": 1}, Selection(top_k=1, threshold=1.0)),
        ({"threshold": 0.5, "top_k": 10**30}, Selection(top_k=10**30, threshold=0.5)),
    ],
)
def test_parameters_are_read(parameters: dict[str, object], selection: Selection | None) -> None:
    """If it failed, a client's choice would be lost."""
    assert selection_of(parameters) == selection


@pytest.mark.parametrize(
    "parameters",
    [
        *({"top_k": value} for value in (0, -1, 0.0, 1.5, math.inf, math.nan, "2", True, [1])),
        *({"threshold": value} for value in (-0.1, 1.1, math.nan, "0.5", True, {})),
    ],
)
def test_a_parameter_out_of_range_is_refused(parameters: dict[str, object]) -> None:
    """If it failed, a mistake would be answered as if it were none."""
    with pytest.raises(DataError, match=f"parameter {next(iter(parameters))}: expected"):
        selection_of(parameters)
