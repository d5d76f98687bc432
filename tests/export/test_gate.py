"""The parity gate: a good model passes, and nothing else does."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors.numpy
import torch

from export.bundle import Provenance, write_model
from export.gate import climb_all
from job.model import BowClassifier
from serving.bundle import FILES, DataRecord
from serving.errors import ArtifactError, ParityError
from serving.features.specification import FeatureSpec
from serving.parity.rungs import Rung, Tolerance, check
from serving.weights import Parameters

VOCABULARY = ["me", "gusta", "é", "e\u0301", "日本語", "👍🏽", *(f"w{row}" for row in range(60))]
TEXTS = {"validation texts": ["me gusta", "w1 w2\tw3", "", "w4 " * 300]}
PROVENANCE = Provenance(
    settings={"seed": 1, "text_column": None},
    data={"train": DataRecord(sha256="0" * 64, rows=4, rejected=0)},
    versions={"python": "3"},
    features=FeatureSpec(),
)


def new_model(seed: int) -> BowClassifier:
    model = BowClassifier(3, len(VOCABULARY)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(seed))
    return model


def parameters_of(model: BowClassifier, vocabulary: list[str] = VOCABULARY) -> Parameters:
    return Parameters(
        weight=model.weight.detach().numpy(),
        bias=model.bias.detach().numpy(),
        vocabulary=vocabulary,
        labels=["a", "b", "c"],
    )


def written(folder: Path, model: BowClassifier, parameters: Parameters | None = None) -> Path:
    folder.mkdir()
    write_model(folder, model, parameters or parameters_of(model), PROVENANCE)
    return folder


def climbed(folder: Path, model: BowClassifier) -> list[Rung]:
    return climb_all(folder, model, parameters_of(model), PROVENANCE, TEXTS, Tolerance())


def assert_refused(folder: Path, model: BowClassifier) -> None:
    """Whether a rung does not hold or a file is no part of such a bundle: nothing may be published."""
    with pytest.raises((ParityError, ArtifactError)):
        check(climbed(folder, model), "run")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("gate") / "good", new_model(1))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a model of the same words and labels, with other weights."""
    return written(tmp_path_factory.mktemp("gate") / "other", new_model(2))


@pytest.fixture
def folder(good: Path, tmp_path: Path) -> Path:
    """A copy of the good model's files, to be spoiled."""
    return shutil.copytree(good, tmp_path / "run")


def test_a_good_model_passes_and_every_rung_is_named(good: Path) -> None:
    """If it failed, nothing could be published, or a runtime would go out unchecked."""
    rungs = climbed(good, new_model(1))
    check(rungs, "run")
    assert {rung.name for rung in rungs} == {
        "reference",
        "eager float64",
        "eager float32",
        "eager score",
        FILES.weights,
        FILES.bow_model,
        FILES.text_model,
        FILES.torchscript,
        f"{FILES.bow_model}, CPUExecutionProvider",
        f"{FILES.torchscript}, forward",
        f"{FILES.torchscript}, score",
    }
    texts = {rung.sample for rung in rungs if rung.name == FILES.text_model}
    assert texts == {"weights", "adversarial texts", "every-word texts", "golden texts", "validation texts"}
    assert all(rung.count > 0 for rung in rungs)


@pytest.mark.parametrize("name", [FILES.text_model, FILES.bow_model, FILES.torchscript, FILES.weights])
def test_a_file_of_another_model_is_refused(folder: Path, other: Path, name: str) -> None:
    """If it failed, a mix-up between two runs would be deployed."""
    shutil.copy(other / name, folder / name)
    assert_refused(folder, new_model(1))


def test_golden_examples_of_another_model_are_refused(folder: Path, other: Path) -> None:
    """If it failed, a bundle would be published that `verify` then refuses."""
    shutil.copy(other / FILES.golden, folder / FILES.golden)
    assert_refused(folder, new_model(1))


@pytest.mark.parametrize("name", [FILES.vocabulary, FILES.labels])
def test_words_and_labels_in_another_order_are_refused(folder: Path, name: str) -> None:
    """If it failed, every weight would belong to another word, or every answer to another label."""
    lines = (folder / name).read_bytes().splitlines(keepends=True)
    (folder / name).write_bytes(b"".join([*lines[1:], lines[0]]))
    assert_refused(folder, new_model(1))


def test_words_in_another_order_in_all_files_that_list_them_are_refused(folder: Path, tmp_path: Path) -> None:
    """If it failed, the words of a bundle would not be those of its weights."""
    model = new_model(1)
    shuffled = written(tmp_path / "shuffled", model, parameters_of(model, [*VOCABULARY[1:], VOCABULARY[0]]))
    for name in (FILES.vocabulary, FILES.torchscript):
        shutil.copy(shuffled / name, folder / name)
    assert_refused(folder, model)


@pytest.mark.parametrize("name", [*FILES.hashed[:1], FILES.text_model, FILES.torchscript, FILES.golden])
def test_a_missing_file_is_refused(folder: Path, name: str) -> None:
    """If it failed, an incomplete bundle would be published."""
    (folder / name).unlink()
    assert_refused(folder, new_model(1))


def nudged(array: np.ndarray) -> np.ndarray:
    """The array with one of its numbers moved by the least that float32 can."""
    nudged = array.copy()
    nudged.flat[3] = np.nextafter(np.float32(nudged.flat[3]), np.float32(9))
    return nudged


def alter_weights(folder: Path) -> None:
    tensors = safetensors.numpy.load_file(folder / FILES.weights)
    safetensors.numpy.save_file(tensors | {"weight": nudged(tensors["weight"])}, folder / FILES.weights)


def alter_onnx(path: Path, name: str, place: int = 3) -> None:
    model = onnx.load(path)
    (tensor,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
    array = onnx.numpy_helper.to_array(tensor).copy()
    array.flat[place] = np.nextafter(np.float32(array.flat[place]), np.float32(9))
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, name))
    onnx.save(model, path)


def alter_torchscript(folder: Path) -> None:
    path = folder / FILES.torchscript
    model = new_model(1)
    with torch.no_grad():
        model.weight.copy_(torch.from_numpy(nudged(model.weight.numpy())))
    shutil.rmtree(folder / "altered", ignore_errors=True)
    shutil.move(written(folder / "altered", model) / FILES.torchscript, path)


@pytest.mark.parametrize(
    "alter",
    [
        alter_weights,
        lambda folder: alter_onnx(folder / FILES.text_model, "weight"),
        lambda folder: alter_onnx(folder / FILES.text_model, "weight", place=-1),  # of the unknown words
        lambda folder: alter_onnx(folder / FILES.text_model, "bias", place=0),
        lambda folder: alter_onnx(folder / FILES.bow_model, "weight"),
        lambda folder: alter_onnx(folder / FILES.bow_model, "bias", place=0),
        alter_torchscript,
    ],
    ids=["safetensors", "text", "text, unknown", "text, bias", "bow", "bow, bias", "torchscript"],
)
def test_a_single_weight_altered_by_the_least_is_refused(folder: Path, alter: Callable[[Path], None]) -> None:
    """If it failed, a file would hold another model, by less than the tolerance can tell."""
    alter(folder)
    assert_refused(folder, new_model(1))


def test_a_model_that_computes_something_else_than_its_parameters_say_is_refused(folder: Path) -> None:
    """If it failed, the files would be right and the model that was trained and scored another one."""
    model = new_model(1)
    parameters = parameters_of(model)
    other_model = new_model(1)
    with torch.no_grad():
        other_model.weight[0, 0] += 1e-3
    rungs = climb_all(folder, other_model, parameters, PROVENANCE, TEXTS, Tolerance())
    assert {rung.name for rung in rungs if not rung.holds} >= {
        "eager float64",
        "eager float32",
        "eager score",
    }
    with pytest.raises(ParityError, match="eager float64"):
        check(rungs, "run")


def test_a_graph_that_computes_something_else_with_the_same_weights_is_refused(folder: Path) -> None:
    """If it failed, the gate would compare weights alone, and not what the runtimes make of them."""
    path = folder / FILES.bow_model
    model = onnx.load(path)
    model.graph.node[0].attribute.append(onnx.helper.make_attribute("alpha", 1.001))
    onnx.save(model, path)
    rungs = climbed(folder, new_model(1))
    assert {rung.name for rung in rungs if not rung.holds} == {f"{FILES.bow_model}, CPUExecutionProvider"}


def test_metadata_of_another_run_is_refused(folder: Path) -> None:
    """If it failed, a model file would name other settings or data than it was trained with."""
    path = folder / FILES.text_model
    model = onnx.load(path)
    model.metadata_props[0].value += " "
    onnx.save(model, path)
    assert_refused(folder, new_model(1))
