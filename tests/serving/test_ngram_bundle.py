"""A bundle whose features are n-grams: it holds, it predicts, and altered lookups are found out."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from serving.bundle import FILES
from serving.errors import ArtifactError, ParityError
from serving.predictor import NGRAM_PIECE, Predictor
from serving.weights import load_onnx
from tests.serving.conftest import REPOSITORY, WORDS, hold, train
from tests.serving.damage import in_lines, in_manifest, in_safetensors, seal_again, swap

SETTINGS = {
    "TOKENIZER": "words",
    "LOWERCASE": "true",
    "WORD_NGRAMS": "1-3",
    "CHAR_NGRAMS": "1-3",
    "WEIGHTING": "tfidf",
    "NORMALIZE": "l2",
    "EPOCHS": "2",
}


def rows() -> list[str]:
    return [
        f"{WORDS[row % 90]} {WORDS[row * 7 % 40].upper()}! {WORDS[row % 5]}\tlabel {row % 3}"
        for row in range(300)
    ]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ngrams")
    (folder / "train.tsv").write_text("text\tlabel\n" + "\n".join(rows()) + "\n")
    return train(folder, str(folder / "train.tsv"), RUN_NAME="ngrams", **SETTINGS)


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        (
            {"TOKENIZER": "words", "WORD_NGRAMS": "1-2"},
            {"codes": 1, "tokens": 1, "spellings": 1, "words/2": 2},
        ),
        ({"LOWERCASE": "true", "CHAR_NGRAMS": "2-3"}, {"codes": 2, "tokens": 2, "characters": 2}),
        (
            {"TOKENIZER": "words", "MIN_COUNT": "1000", "CHAR_NGRAMS": "2-3", "EPOCHS": "2"},
            {"codes": 2, "tokens": 2, "characters": 2},
        ),
    ],
    ids=["all spelled out", "none spelled", "no words"],
)
def test_it_holds_however_its_tokens_are_found(
    tmp_path: Path, settings: dict[str, str], names: dict[str, int]
) -> None:
    """If it failed, `verify` would ask a bundle for lookups that its features need not."""
    (tmp_path / "train.tsv").write_text("text\tlabel\n" + "\n".join(rows()) + "\n")
    folder = train(tmp_path, str(tmp_path / "train.tsv"), RUN_NAME="ngrams", **settings)
    assert hold(folder).rungs
    assert Counter(node.name for node in lookups(the_text_model(folder).graph)) == names


@pytest.fixture
def altered(tmp_path: Path, made: Path) -> Path:
    """A copy that may be altered."""
    return Path(shutil.copytree(made, tmp_path / "bundle"))


def test_it_holds_in_every_runtime_and_predicts(made: Path) -> None:
    """If it failed, a model of n-grams could not be deployed."""
    hold(made, with_torch=True)
    manifest = json.loads((made / FILES.manifest).read_text())
    assert manifest["features"] == {
        "tokenizer": "words",
        "lowercase": True,
        "word_ngrams": 3,
        "char_ngrams": [1, 3],
        "weighting": "tfidf",
        "normalize": "l2",
    }
    done = subprocess.run(
        [sys.executable, "-m", "serving", "predict", str(made)],
        input="Café ÜBER!\n",
        capture_output=True,
        text=True,
        check=True,
        cwd=REPOSITORY,
    )
    assert "label" in done.stdout


@pytest.mark.parametrize("number", [NGRAM_PIECE, NGRAM_PIECE + 1, 3 * NGRAM_PIECE, 9 * NGRAM_PIECE])
def test_many_texts_get_what_each_gets_alone(made: Path, number: int) -> None:
    """If it failed, a text's answer would hang on the texts beside it, or be another text's."""
    predictor = Predictor.load(made, threads=2)
    texts = [" ".join(WORDS[row * 7 % 90 : row * 7 % 90 + row % 11]) for row in range(number)]
    alone = np.concatenate([predictor.log_probs([text]) for text in texts])
    assert (predictor.log_probs(texts) == alone).all()


def the_text_model(folder: Path) -> onnx.ModelProto:
    model = onnx.ModelProto()
    model.ParseFromString((folder / FILES.text_model).read_bytes())
    return model


def names_of_tables(folder: Path) -> list[str]:
    return [
        tensor.name
        for tensor in the_text_model(folder).graph.initializer
        if tensor.name not in ("weight", "bias", "labels")
    ]


TABLES = [
    *("tokens/features", "tokens/factors", "tokens/starts", "tokens/codes", "tokens/char_features"),
    *("words/2/features", "scales"),
]


def test_every_table_is_tried(made: Path) -> None:
    """If it failed, a table would be added that nobody guards."""
    assert sorted(names_of_tables(made)) == sorted(TABLES)
    assert load_onnx(made / FILES.text_model, dict(_metadata(made))).graph.name == "model"


def _metadata(folder: Path) -> list[tuple[str, str]]:
    return [(each.key, each.value) for each in the_text_model(folder).metadata_props]


@pytest.mark.parametrize("name", TABLES)
def test_a_table_that_was_altered_is_found(altered: Path, name: str) -> None:
    """If it failed, a text would be given other features than the model learned, and nobody would know."""
    model = the_text_model(altered)
    (tensor,) = (each for each in model.graph.initializer if each.name == name)
    array = numpy_helper.to_array(tensor).copy()
    array[len(array) // 2] += 1
    tensor.CopyFrom(numpy_helper.from_array(array, name))
    (altered / FILES.text_model).write_bytes(model.SerializeToString())
    seal_again(altered)
    with pytest.raises(ArtifactError, match=r"model\.onnx: the words or their ids differ"):
        hold(altered)


def lookups(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    found = [node for node in graph.node if node.op_type == "LabelEncoder"]
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                found += lookups(attribute.g)
    return found


LOOKUPS = ["codes", "tokens", "words/2", "words/3", "characters"]


@pytest.mark.parametrize(("name", "way"), [*product(LOOKUPS, [0, 1]), ("spellings", 0)])
@pytest.mark.parametrize("what", ["key", "value", "default", "gone"])
def test_a_lookup_that_was_altered_is_found(altered: Path, name: str, what: str, way: int) -> None:
    """If it failed, the same, in one of the two ways through the graph."""
    model = the_text_model(altered)
    same = [node for node in lookups(model.graph) if node.name == name]
    assert len(same) == (1 if name == "spellings" else 2)
    node = same[way]
    attributes = {attribute.name: attribute for attribute in node.attribute}
    match what:
        case "key" if name in ("codes", "spellings"):
            attributes["keys_strings"].strings[40] = "☃".encode()
        case "key":
            attributes["keys_int64s"].ints[0] += 1
        case "value":
            attributes["values_int64s"].ints[0] += 1
        case "default":
            attributes["default_int64"].i = 5
        case "gone":
            node.name = f"no {name}"
    (altered / FILES.text_model).write_bytes(model.SerializeToString())
    seal_again(altered)
    with pytest.raises(ArtifactError, match=r"model\.onnx: the words or their ids differ"):
        hold(altered)


def test_another_idf_is_found(altered: Path) -> None:
    """If it failed, weights could be altered by way of what multiplies them."""

    def change(tensors: dict[str, np.ndarray]) -> None:  # type: ignore[type-arg]
        tensors["idf"][3] += 0.5

    in_safetensors(change)(altered)
    seal_again(altered)
    with pytest.raises((ArtifactError, ParityError)):
        hold(altered)


@pytest.mark.parametrize("setting", [("weighting", "log"), ("normalize", "none"), ("lowercase", False)])
def test_another_specification_is_found(altered: Path, setting: tuple[str, object]) -> None:
    """If it failed, who reads the manifest would compute other features than the model."""
    in_manifest(lambda it: it["features"].update([setting]))(altered)
    with pytest.raises((ArtifactError, ParityError)):
        hold(altered)


def test_two_names_exchanged_are_found(altered: Path) -> None:
    """If it failed, an explanation would name the wrong feature."""
    in_lines(FILES.vocabulary, swap(3, 120))(altered)
    seal_again(altered)
    with pytest.raises((ArtifactError, ParityError)):
        hold(altered)
