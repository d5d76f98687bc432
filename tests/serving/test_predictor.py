"""`Predictor`: what it loads, what it refuses, and what it answers."""

import json
import math
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from serving.bundle import FILES, open_bundle
from serving.errors import ArtifactError, DataError, ParityError, SettingsError
from serving.parity.reference import Reference
from serving.parity.verify import read_parameters, reference_of
from serving.predictor import PIECE, USED, Predictor
from tests.serving.conftest import WORDS
from tests.serving.damage import in_lines, seal_again

TEXTS = ["w1 w2 café", "", "  w3\u3000東京 ", "unknown words", " ".join(WORDS)]


@pytest.fixture(scope="module")
def predictor(trained: Path) -> Predictor:
    return Predictor.load(trained)


@pytest.fixture(scope="module")
def reference(trained: Path) -> Reference:
    return reference_of(read_parameters(open_bundle(trained)))


def test_it_gives_the_trained_models_log_probabilities(predictor: Predictor, reference: Reference) -> None:
    """If it failed, whatever is built on the library would serve another model."""
    found = predictor.log_probs(TEXTS)
    assert found.dtype == np.float32
    expected = reference.score(TEXTS).log_probs
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert predictor.log_probs([]).shape == (0, 5)


@pytest.mark.parametrize("top_k", [1, 2, 5, 9])
def test_predictions_are_those_log_probabilities_in_order(predictor: Predictor, top_k: int) -> None:
    """If it failed, a label would come with another label's probability."""
    for row, found in zip(predictor.log_probs(TEXTS), predictor.predict(TEXTS, top_k=top_k), strict=True):
        order = sorted(range(5), key=lambda label: -row[label])[:top_k]
        assert [each.label for each in found] == [predictor.labels[label] for label in order]
        assert [each.log_prob for each in found] == [float(row[label]) for label in order]
        assert [each.prob for each in found] == [math.exp(row[label]) for label in order]
    assert predictor.predict([], top_k=top_k) == []


def test_a_threshold_leaves_out_what_is_below_it(predictor: Predictor) -> None:
    """If it failed, a caller that wants sure answers alone would get others too."""
    (everything,) = predictor.predict(["w1 w2"], top_k=5)
    for number, each in enumerate(everything, 1):
        assert predictor.predict(["w1 w2"], top_k=5, threshold=each.prob) == [everything[:number]]
    assert predictor.predict(["w1 w2"], threshold=1.0) == [[]]


@pytest.mark.parametrize(("top_k", "threshold"), [(0, 0.0), (-1, 0.0), (1, 1.1), (1, -0.1), (1, math.nan)])
def test_what_cannot_be_selected_is_refused(predictor: Predictor, top_k: int, threshold: float) -> None:
    """If it failed, a mistake would be answered with no labels, or all of them."""
    with pytest.raises(ValueError, match="found"):
        predictor.predict(["w1"], top_k=top_k, threshold=threshold)


def test_it_says_which_bundle_and_provider_it_uses(predictor: Predictor, trained: Path) -> None:
    """If it failed, nobody could tell which model gave an answer, or on what."""
    bundle = open_bundle(trained)
    assert predictor.bundle_id == bundle.bundle_id
    assert predictor.version == bundle.bundle_id[:12]
    assert predictor.labels == bundle.manifest.labels
    assert predictor.provider == "CPUExecutionProvider"


def test_the_provider_is_the_first_that_there_is(trained: Path) -> None:
    """If it failed, a server would not start where a preferred device is missing, or say that it uses it."""
    loaded = Predictor.load(trained, providers=["NoSuchExecutionProvider", "CPUExecutionProvider"])
    assert loaded.provider == "CPUExecutionProvider"
    with pytest.raises(
        SettingsError, match=r"^providers: .*CPUExecutionProvider.*found NoSuchExecutionProvider;"
    ):
        Predictor.load(trained, providers=["NoSuchExecutionProvider"])


@pytest.mark.parametrize("text", ["w1\0w2", "\0", "w1 \ud800", "\udc00é"])
def test_a_text_that_some_runtime_would_cut_or_refuse_is_refused(predictor: Predictor, text: str) -> None:
    """If it failed, the same text would have other answers elsewhere, or end in the runtime's own error."""
    with pytest.raises(DataError, match="text 1:"):
        predictor.log_probs(["w1", text])
    with pytest.raises(DataError, match="text 1:"):
        predictor.predict(["w1", text])


@pytest.mark.parametrize("texts", ["one text", b"bytes", [b"bytes"], [1], [None]])
def test_what_is_no_list_of_texts_is_refused(predictor: Predictor, texts: list[str]) -> None:
    """If it failed, a single text would be answered letter by letter."""
    with pytest.raises(TypeError, match="expected"):
        predictor.log_probs(texts)


@pytest.mark.parametrize("name", [FILES.manifest, *USED])
def test_a_damaged_or_missing_file_is_refused(copy: Path, name: str) -> None:
    """If it failed, a bundle that was cut on its way would be served."""
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(content[:-2])
    with pytest.raises(ArtifactError, match=name):
        Predictor.load(copy)
    (copy / name).unlink()
    with pytest.raises(ArtifactError, match=name):
        Predictor.load(copy)


def test_a_bundle_with_another_id_is_refused(trained: Path, predictor: Predictor) -> None:
    """If it failed, a pinned deployment would serve whatever lies there."""
    assert Predictor.load(trained, expected_id=predictor.bundle_id.upper()).bundle_id == predictor.bundle_id
    with pytest.raises(ArtifactError, match="expected the bundle 00ff"):
        Predictor.load(trained, expected_id="00ff")


def test_a_model_that_gives_other_log_probabilities_is_refused(copy: Path) -> None:
    """If it failed, a runtime that computes otherwise than the trained model would serve unnoticed."""
    path = copy / FILES.text_model
    model = onnx.load(path)
    weights = max(model.graph.initializer, key=lambda each: each.ByteSize())
    for each in model.graph.initializer:
        if each.data_type == onnx.TensorProto.FLOAT and len(each.dims) == 2:
            weights = each
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights) * np.float32(1.01), weights.name))
    onnx.save(model, path)
    seal_again(copy)
    with pytest.raises(ParityError, match="golden texts"):
        Predictor.load(copy)


def test_a_golden_text_that_no_model_takes_is_damage(copy: Path) -> None:
    """If it failed, a damaged bundle would be taken for bad data of the user's, and no file be named."""
    in_lines(FILES.golden, lambda lines: lines[2].update(text="w1\0"))(copy)
    seal_again(copy)
    with pytest.raises(ArtifactError, match=r"golden\.jsonl:3: holds a NUL"):
        Predictor.load(copy)


def test_several_threads_get_their_own_answers(predictor: Predictor) -> None:
    """If it failed, a server would hand one client's answer to another."""
    texts = [f"{WORDS[row]} {WORDS[row * 7 % 303]}" for row in range(200)]
    expected = [predictor.predict([text]) for text in texts]
    problems: list[str] = []

    def ask(start: int) -> None:
        rows = [row % 200 for row in range(start, start + 200)]
        problems.extend(texts[row] for row in rows if predictor.predict([texts[row]]) != expected[row])

    threads = [threading.Thread(target=ask, args=(number * 25,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []


def test_a_url_is_as_good_as_a_folder(trained: Path, predictor: Predictor, tmp_path: Path) -> None:
    """If it failed, a bundle in object storage could not be served."""
    shutil.copytree(trained, tmp_path / "models" / "own")
    loaded = Predictor.load(f"file://{tmp_path}/models/own")
    assert loaded.bundle_id == predictor.bundle_id
    assert (loaded.log_probs(TEXTS) == predictor.log_probs(TEXTS)).all()


def test_importing_it_takes_little_more_than_onnxruntime() -> None:
    """If it failed, a command or a function that classifies once would wait for what it does not use."""
    code = (
        "import json, sys, time; import onnxruntime; before = set(sys.modules); start = time.perf_counter();"
        "import serving.predictor; took = time.perf_counter() - start;"
        "print(json.dumps([took, sorted({name.partition('.')[0] for name in set(sys.modules) - before})]))"
    )
    runs = [
        json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)
        for _ in range(3)
    ]
    took, modules = min(runs)
    assert took < 0.3
    assert not {"torch", "onnx", "pydantic", "starlette", "rich", "fsspec", "pyarrow"} & set(modules)


@pytest.mark.parametrize("number", [PIECE, PIECE + 1, 3 * PIECE + 5, 12 * PIECE + 1])
@pytest.mark.parametrize("threads", [1, 3])
def test_many_texts_get_what_each_gets_alone(trained: Path, number: int, threads: int) -> None:
    """If it failed, a text's answer would hang on the texts beside it, or be another text's."""
    predictor = Predictor.load(trained, threads=threads)
    texts = [" ".join(WORDS[row * 7 % 303 : row * 7 % 303 + row % 11]) for row in range(number)]
    alone = np.concatenate([predictor.log_probs([text]) for text in texts])
    assert (predictor.log_probs(texts) == alone).all()


def test_no_thread_at_all_is_refused(trained: Path) -> None:
    """If it failed, a setting that was computed wrongly would be taken for one thread."""
    with pytest.raises(ValueError, match="expected threads from 1, found 0"):
        Predictor.load(trained, threads=0)
