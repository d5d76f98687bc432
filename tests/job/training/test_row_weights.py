"""Runs with weights: of rows, of labels, and of both."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from job.environment import load_settings
from job.run import run
from job.telling.output import Output
from serving.bundle import FILES, open_bundle

ROWS = [
    ("a b", "ham", 3.0),
    ("a c", "ham", 0.5),
    ("c d", "spam", 1.0),
    ("b d", "spam", 0.25),
    ("a d e", "eggs", 2.0),
    ("e", "eggs", 0.0),
] * 5
TEXTS = "text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label, _ in ROWS)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path / "train.tsv", ROWS)


def write(path: Path, rows: list[tuple[str, str, float]]) -> Path:
    path.write_text("w\ttext\tlabel\n" + "".join(f"{w}\t{text}\t{label}\n" for text, label, w in rows))
    return path


def train(folder: Path, path: Path, **settings: object) -> Path:
    environ = {"TRAIN_DATA": path, "OUTPUT_DIR": folder, "DEVICE": "cpu", "BATCH_SIZE": 4} | {
        name.upper(): value for name, value in settings.items()
    }
    return run(
        load_settings({f"BOW_{name}": str(value) for name, value in environ.items()}),
        Output(for_people=False),
    )


def weights(bundle: Path) -> dict[str, np.ndarray]:
    return load_file(bundle / FILES.weights)


def assert_same(one: Path, other: Path) -> None:
    for name, values in weights(one).items():
        np.testing.assert_array_equal(values, weights(other)[name])


def test_weights_of_one_change_nothing(tmp_path: Path) -> None:
    """If it failed, to weigh rows would be another way of training."""
    ones = write(tmp_path / "ones.tsv", [(text, label, 1) for text, label, _ in ROWS])
    bundle = train(tmp_path / "out", ones, weight_column="w")
    assert_same(bundle, train(tmp_path / "out", ones))
    assert open_bundle(bundle).manifest.settings["weight_column"] == "w"


@pytest.mark.parametrize(("class_weights", "split"), [("none", 0), ("balanced", 0.2)])
def test_a_cache_gives_the_same_model_with_weights(
    tmp_path: Path, data: Path, class_weights: str, split: float
) -> None:
    """If it failed, whether a run was the first would decide what its rows count."""
    settings = {"weight_column": "w", "class_weights": class_weights, "validation_split": split}
    cache = tmp_path / "cache"
    ids = {
        open_bundle(train(tmp_path / name, data, run_name="run", **settings, **more)).bundle_id
        for name, more in (("none", {}), ("first", {"cache_dir": cache}), ("second", {"cache_dir": cache}))
    }
    assert len(ids) == 1


def test_rows_of_weight_zero_lend_their_words_and_no_more(tmp_path: Path) -> None:
    """If it failed, a row that is to count nothing would pull at the weights, or lose its words."""
    none = [("x y", "ham", 0.0), ("a", "spam", 0.0)]
    settings = {"weight_column": "w", "shuffle": False, "optimizer": "sgd", "learning_rate": 1}
    some = train(tmp_path / "some", write(tmp_path / "some.tsv", ROWS), batch_size=len(ROWS), **settings)
    # All rows are one batch, and its mean goes over twice as many: steps twice as large make up for it.
    twice = write(tmp_path / "twice.tsv", none * (len(ROWS) // 2) + ROWS)
    settings |= {"learning_rate": 2, "batch_size": 2 * len(ROWS)}
    more = train(tmp_path / "more", twice, **settings)
    words, expected = open_bundle(more).vocabulary(), open_bundle(some).vocabulary()
    assert set(words) == {*expected, "x", "y"}
    found, wanted = weights(more), weights(some)
    places = [words.index(word) for word in expected]
    np.testing.assert_allclose(found["weight"][:, places], wanted["weight"], atol=1e-5)
    np.testing.assert_allclose(found["bias"], wanted["bias"], atol=1e-5)
    assert not found["weight"][:, [words.index("x"), words.index("y")]].any()


def test_a_labels_weight_multiplies_that_of_its_rows(tmp_path: Path, data: Path) -> None:
    """If it failed, one of the two settings would be without effect where both are set."""
    both = train(tmp_path / "out", data, weight_column="w", class_weights='{"spam": 4}')
    products = [(text, label, w * 4 if label == "spam" else w) for text, label, w in ROWS]
    assert_same(both, train(tmp_path / "out", write(tmp_path / "other.tsv", products), weight_column="w"))


def test_labels_are_balanced_by_what_their_rows_weigh(tmp_path: Path, data: Path) -> None:
    """If it failed, a label with few rows that weigh much would be raised once more."""
    balanced = train(tmp_path / "out", data, weight_column="w", class_weights="balanced")
    sums = {name: sum(w for _, label, w in ROWS if label == name) for name in ("ham", "spam", "eggs")}
    shares = {name: sum(sums.values()) / (3 * each) for name, each in sums.items()}
    rows = [(text, label, float(np.float32(w) * np.float32(shares[label]))) for text, label, w in ROWS]
    assert_same(balanced, train(tmp_path / "out", write(tmp_path / "other.tsv", rows), weight_column="w"))


def test_weights_do_not_depend_on_how_features_count(tmp_path: Path, data: Path) -> None:
    """If it failed, BOW_WEIGHTING would drop the weights of rows on their way to a batch."""
    settings = {"weighting": "tfidf", "normalize": "l2"}
    weighted, plain = (
        weights(train(tmp_path / "out", data, **settings, **more)) for more in ({"weight_column": "w"}, {})
    )
    assert not np.allclose(weighted["weight"], plain["weight"])


def test_validation_and_test_data_need_no_weights_and_are_scored_without(tmp_path: Path, data: Path) -> None:
    """If it failed, metrics would not be those that an unweighted data set gives."""
    (tmp_path / "plain.tsv").write_text(TEXTS)
    scored = [
        open_bundle(
            train(
                tmp_path / name,
                data,
                weight_column="w",
                validation_data=tmp_path / f"{name}.tsv",
                test_data=tmp_path / f"{name}.tsv",
            )
        ).manifest.metrics
        for name in ("plain", "train")
    ]
    assert scored[0] == scored[1]
    assert scored[0]["validation"].rows == len(ROWS)
