"""The rule by which log-probabilities and weights are compared, and how the outcome is told."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from serving.errors import ExitCode, ParityError
from serving.parity.reference import Scores
from serving.parity.rungs import (
    FLOAT32_SLACK,
    Rung,
    Tolerance,
    by_name,
    check,
    compare,
    compare_exactly,
    merge,
)
from serving.parity.table import rungs_table

HALVES = np.log([[0.5, 0.5], [0.25, 0.75]])


def scores(log_probs: npt.ArrayLike, rounding_scale: float = 0.0) -> Scores:
    expected = np.asarray(log_probs, dtype=np.float64)
    return Scores(log_probs=expected, rounding_scale=np.full(len(expected), rounding_scale))


def against(expected: Scores, found: npt.ArrayLike, *, float32_sums: bool = False, **bounds: float) -> Rung:
    array = np.asarray(found)
    return compare("x", "texts", array, expected, Tolerance(**bounds), float32_sums=float32_sums)


def rung(**values: Any) -> Rung:
    usual = {"name": "x", "sample": "texts", "count": 1, "largest_difference": 0.0, "share_of_bound": 0.0}
    return Rung(**usual | values)


def test_the_same_numbers_hold() -> None:
    """If it failed, nothing could ever be published."""
    found = against(scores(HALVES), HALVES)
    assert found == rung(count=2)
    assert found.holds


def test_the_default_tolerance_is_one_in_a_hundred_thousand() -> None:
    """If it were larger, a bundle that answers visibly otherwise would be published."""
    assert Tolerance() == Tolerance(atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("share", [0.5, 0.999, 1.001, 3.0])
@pytest.mark.parametrize("sign", [-1, 1])
def test_a_difference_holds_up_to_its_bound(share: float, sign: int) -> None:
    """If it failed, the tolerance that the settings name would not be the one that is applied."""
    expected = np.array([[-0.1, -2.5, -40.0]])
    bound = 1e-6 + 1e-4 * 2.5
    found = expected.copy()
    found[0, 1] += sign * share * bound
    outcome = against(scores(expected), found, atol=1e-6, rtol=1e-4)
    assert outcome.largest_difference == pytest.approx(share * bound)
    assert outcome.share_of_bound == pytest.approx(share)
    assert outcome.holds == (share <= 1)


def test_each_log_probability_has_a_bound_of_its_own() -> None:
    """If it failed, an unlikely label's wide bound would excuse the likely label's error."""
    expected = scores([[-0.001, -1000.0]])
    assert against(expected, [[-0.001, -1000.009]]).holds
    assert not against(expected, [[-0.010, -1000.0]]).holds


def test_sums_in_float32_are_allowed_four_roundings_of_their_scale() -> None:
    """If the formula were another, float32 runtimes would fail on long texts, or errors pass."""
    assert FLOAT32_SLACK == 2**-22
    expected = Scores(
        log_probs=np.array([[-1.0, -2.0], [-3.0, -0.5]]), rounding_scale=np.array([0.0, 1000.0])
    )
    tolerance = Tolerance(atol=1e-6, rtol=1e-5)
    plain = 1e-6 + 1e-5 * np.array([[1.0, 2.0], [3.0, 0.5]])
    np.testing.assert_allclose(tolerance.bound(expected, float32_sums=False), plain, rtol=1e-14)
    slack = np.array([[0.0], [1000 / 2**22]])
    np.testing.assert_allclose(tolerance.bound(expected, float32_sums=True), plain + slack, rtol=1e-14)


def test_float64_sums_are_not_given_the_slack_of_float32() -> None:
    """If it failed, model.onnx could be thousands of tolerances off on long texts."""
    expected, found = scores(HALVES, 1000.0), HALVES + 1e-4
    assert against(expected, found, float32_sums=True).holds
    assert not against(expected, found, float32_sums=False).holds


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_log_probability_that_is_no_number_fails(bad: float, dtype: Any) -> None:
    """If it failed, a comparison with NaN, which is never larger, would let anything pass."""
    found = HALVES.astype(dtype)
    found[1, 0] = bad
    outcome = against(scores(HALVES), found)
    assert not outcome.holds
    assert outcome.problem == "a log-probability is infinite or not a number"
    assert outcome.largest_difference == math.inf


@pytest.mark.parametrize("bad", [np.nan, -np.inf])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_a_reference_that_is_no_number_fails(bad: float) -> None:
    """If it failed, broken golden examples would let anything pass."""
    expected = HALVES.copy()
    expected[1, 0] = bad
    assert not against(scores(expected), HALVES).holds


@pytest.mark.parametrize("shape", [(2, 1), (2, 3), (1, 2), (3, 2), (2,), (4,), (2, 2, 1), (0, 2)])
def test_another_shape_fails(shape: tuple[int, ...]) -> None:
    """If it failed, numpy would stretch one row over all, and rows that are missing would not be missed."""
    outcome = against(scores(HALVES), np.zeros(shape))
    assert not outcome.holds
    assert outcome.count == 2
    assert (
        outcome.problem == f"expected log-probabilities of shape [2, 2], found {list(np.zeros(shape).shape)}"
    )


def test_an_empty_batch_holds_if_it_has_a_column_for_each_label() -> None:
    """If it failed, N = 0 could not be part of the ladder, or its shape would not be looked at."""
    nothing = scores(np.empty((0, 3)))
    outcome = against(nothing, np.empty((0, 3), dtype=np.float32))
    assert outcome.holds
    assert (outcome.count, outcome.largest_difference, outcome.share_of_bound) == (0, 0, 0)
    assert not against(nothing, np.empty((0, 2))).holds


@pytest.mark.parametrize(
    ("lead", "holds"), [(0.0, True), (1.5e-3, True), (1.99e-3, True), (2.01e-3, False), (0.1, False)]
)
def test_the_most_probable_label_may_differ_only_within_both_bounds(lead: float, holds: bool) -> None:
    """If it failed, a tie would break the build, or a runtime could name another label than the model."""
    expected = np.array([[-1.0, -1.0 - lead, -9.0]])
    found = np.array([[-1.0 - lead / 2 - 1e-9, -1.0 - lead / 2, -9.0]])
    outcome = against(scores(expected), found, atol=1e-3, rtol=1e-12)
    assert outcome.holds == holds
    assert (outcome.problem is None) == holds
    if not holds:
        assert outcome.problem == "another label is the most probable one in 1 texts"


def test_rows_with_another_label_are_counted() -> None:
    """If it failed, nobody could tell one odd text from a model with its labels exchanged."""
    expected = np.log([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]])
    outcome = against(scores(expected), expected[:, ::-1])
    assert outcome.problem == "another label is the most probable one in 3 texts"
    assert outcome.largest_difference == pytest.approx(math.log(9))


# --- bit by bit -----------------------------------------------------------------------------------------


def test_equal_bits_hold() -> None:
    """If it failed, files written from the same arrays would be told apart."""
    array = np.array([0.1, -0.0, 1e-45, 3e38], dtype=np.float32)
    assert compare_exactly("x", "weights", array.copy(), array) == rung(sample="weights", count=4)


@pytest.mark.parametrize(
    ("found", "expected", "difference"),
    [
        (1.0, float(np.nextafter(np.float32(1), np.float32(2))), 2**-23),
        (-0.0, 0.0, 0.0),
        (0.0, -0.0, 0.0),
        (1e-45, 0.0, float(np.float32(1e-45))),
        (np.nan, 1.0, math.inf),
        (1.0, np.nan, math.inf),
        (np.inf, 1.0, math.inf),
        (3.4e38, -3.4e38, 2 * float(np.float32(3.4e38))),
    ],
)
def test_one_other_bit_fails(found: float, expected: float, difference: float) -> None:
    """If it failed, two files of a bundle could hold different models."""
    rest = np.arange(5, dtype=np.float32)
    outcome = compare_exactly(
        "x", "weights", np.append(rest, np.float32(found)), np.append(rest, np.float32(expected))
    )
    assert not outcome.holds
    assert outcome.problem == "1 differ"
    assert outcome.largest_difference == difference
    assert outcome.share_of_bound == math.inf


def test_nan_equals_only_the_same_nan() -> None:
    """If it failed, what a NaN holds could differ between two files."""
    one, other = np.array([0x7FC00000, 0x7FC00001], dtype=np.uint32).view(np.float32)
    assert compare_exactly("x", "weights", np.array([one]), np.array([one])).holds
    assert not compare_exactly("x", "weights", np.array([one]), np.array([other])).holds


@pytest.mark.parametrize("number", [0, 2, 4])
def test_another_number_of_weights_fails(number: int) -> None:
    """If it failed, a file that lost a row would pass."""
    outcome = compare_exactly("x", "weights", np.zeros(number, np.float32), np.zeros(3, np.float32))
    assert not outcome.holds
    assert outcome.problem == f"expected 3, found {number}"


# --- many rungs -----------------------------------------------------------------------------------------


def test_merging_keeps_the_worst_and_counts_all() -> None:
    """If it failed, a batch that fails would hide behind one that holds."""
    parts = [
        rung(count=1, largest_difference=0.1, share_of_bound=0.9),
        rung(count=7, largest_difference=0.3, share_of_bound=0.2),
        rung(count=256, largest_difference=0.2, share_of_bound=0.5, problem="wrong"),
    ]
    merged = merge(parts)
    assert merged == rung(count=264, largest_difference=0.3, share_of_bound=0.9, problem="wrong")
    assert not merged.holds
    assert merge(parts[:2]).holds


@pytest.mark.parametrize("place", [1, 2])
def test_merging_keeps_what_is_no_number(place: int) -> None:
    """If it failed, a batch whose difference is not a number would hide behind one that holds."""
    parts = [rung(share_of_bound=0.5) for _ in range(3)]
    parts[place] = rung(largest_difference=math.nan, share_of_bound=math.nan)
    assert not parts[place].holds
    assert not merge(parts).holds


def test_rungs_of_a_name_stand_together_by_what_was_counted() -> None:
    """If it failed, the table would add texts to weights, or lose a failing sample."""
    rungs = [
        rung(name="a", sample="weights", count=10),
        rung(name="b", sample="golden texts", count=1, share_of_bound=0.1),
        rung(name="a", sample="golden texts", count=2, share_of_bound=2.0),
        rung(name="b", sample="adversarial texts", count=3, share_of_bound=0.7),
        rung(name="a", sample="every-word texts", count=4),
    ]
    assert by_name(rungs) == [
        rung(name="a", sample="weights", count=10),
        rung(name="b", sample="texts", count=4, share_of_bound=0.7),
        rung(name="a", sample="texts", count=6, share_of_bound=2.0),
    ]


def test_the_error_names_every_rung_that_fails_and_no_other() -> None:
    """If it failed, nobody could tell which runtime is wrong, on what, and by how much."""
    rungs = [
        rung(name="fine", sample="texts"),
        rung(name="off", sample="golden texts", count=1234, largest_difference=0.25, share_of_bound=12.5),
        rung(name="bow.onnx", sample="weights", count=9, problem="2 differ", share_of_bound=math.inf),
    ]
    with pytest.raises(ParityError) as caught:
        check(rungs, "artifacts/latest")
    assert str(caught.value) == (
        "artifacts/latest: 2 of 3 checks failed; the files do not give the trained model's "
        "log-probabilities:\n"
        "  off on 1,234 golden texts: up to 0.25, 12.5 times what is allowed\n"
        "  bow.onnx on 9 weights: 2 differ"
    )
    assert caught.value.exit_code == ExitCode.PARITY_FAILED == 5


def test_the_error_counts_what_the_table_shows() -> None:
    """If it failed, a reader would look for lines in the table that it does not have."""
    samples = ("golden texts", "adversarial texts", "every-word texts")
    rungs = [rung(name="a", sample="weights", count=10)]
    rungs += [rung(name="a", sample=each, share_of_bound=2.0) for each in samples]
    rungs += [rung(name="b", sample=each) for each in samples]
    with pytest.raises(ParityError, match=r"^x: 1 of 3 checks failed; ") as caught:
        check(rungs, "x")
    assert str(caught.value).count("\n  a on ") == 3
    table = rungs_table(rungs).splitlines()[2:]
    assert (len(table), sum(line.endswith("FAILS") for line in table)) == (3, 1)


@pytest.mark.parametrize("rungs", [[rung()], [rung(share_of_bound=1.0)] * 3])
def test_rungs_that_hold_raise_nothing(rungs: list[Rung]) -> None:
    """If it failed, a good bundle would not be published."""
    check(rungs, "x")


def test_nothing_compared_proves_nothing() -> None:
    """If it failed, a ladder that lost its rungs would let every bundle pass."""
    with pytest.raises(ParityError, match=r"^x: nothing was held against"):
        check([], "x")


@pytest.mark.parametrize("share", [1.0000001, math.inf, math.nan])
def test_a_share_above_one_or_not_a_number_does_not_hold(share: float) -> None:
    """If it failed, a difference beyond its bound would pass."""
    assert not rung(share_of_bound=share).holds
    with pytest.raises(ParityError):
        check([rung(share_of_bound=share)], "x")


# --- the table ------------------------------------------------------------------------------------------


def test_the_table_has_a_line_for_each_runtime_with_its_largest_difference() -> None:
    """If it failed, nobody would see how close the runtimes are, or which one fails."""
    rungs = [
        rung(name="weights.safetensors", sample="weights", count=1520),
        rung(name="model.onnx", sample="golden texts", largest_difference=1e-7, share_of_bound=0.004),
        rung(name="model.onnx", sample="adversarial texts", largest_difference=2.5e-6, share_of_bound=0.25),
        rung(name="bow.onnx", sample="weights", problem="2 differ", share_of_bound=math.inf),
    ]
    table = rungs_table(rungs)
    lines = [line.split() for line in table.splitlines()]
    assert lines[2:] == [
        ["weights.safetensors", "1,520", "weights", "0", "ok"],
        ["model.onnx", "2", "texts", "2.5e-06", "25%", "ok"],
        ["bow.onnx", "1", "weights", "0", "FAILS"],
    ]
    assert "largest difference" in table.splitlines()[0]
    assert table.endswith("\n")
    assert all(line == line.rstrip() for line in table.splitlines())


def test_the_table_of_nothing_is_its_head_alone() -> None:
    """If it failed, a caller without rungs would get a traceback."""
    assert len(rungs_table([]).splitlines()) == 2


def test_a_long_name_is_not_cut() -> None:
    """If it failed, two runtimes could look the same in the table."""
    name = "bow.onnx, SomeRatherLongExecutionProvider"
    assert name in rungs_table([replace(rung(), name=name)])
