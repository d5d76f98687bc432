"""`verify`: no alteration of a bundle holds, whatever the hashes in its manifest say."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from serving.bundle import FILES
from serving.errors import ArtifactError, ParityError
from serving.parity.verify import verify
from tests.serving.conftest import NUM_LABELS, NUM_WORDS, hold
from tests.serving.damage import (
    BIAS,
    WEIGHT,
    Damage,
    added,
    added_to_bytes,
    another_operator,
    attribute,
    in_archive,
    in_initializer,
    in_lines,
    in_manifest,
    in_node,
    in_onnx,
    in_record,
    in_safetensors,
    replaced,
    seal_again,
    swap,
    whole,
    with_dims,
    with_flipped_bit,
)

LAST_WEIGHT = NUM_LABELS * NUM_WORDS - 1

WEIGHTS: dict[str, tuple[Damage, str]] = {
    "safetensors, first weight": (
        in_safetensors(lambda it: added((0, 0), 1e-3)(it["weight"])),
        "bow.onnx on 1,520 weights: 1 differ",
    ),
    "safetensors, last weight": (
        in_safetensors(lambda it: added((4, 302), 1e-3)(it["weight"])),
        "model.onnx on 1,520 weights: 1 differ",
    ),
    "safetensors, bias": (in_safetensors(lambda it: added(2, 1e-3)(it["bias"])), "reference on 64 golden"),
    "bow.onnx, first weight": (
        in_initializer(FILES.bow_model, "weight", added((0, 0), 1e-3)),
        "bow.onnx on 1,520 weights: 1 differ",
    ),
    "bow.onnx, last weight": (
        in_initializer(FILES.bow_model, "weight", added((4, 302), 1e-3)),
        "bow.onnx on 1,520 weights: 1 differ",
    ),
    "bow.onnx, bias": (
        in_initializer(FILES.bow_model, "bias", added(4, 1e-3)),
        "bow.onnx on 1,520 weights: 1 differ",
    ),
    "model.onnx, first weight": (
        in_initializer(FILES.text_model, "weight", added((0, 0), 1e-3)),
        "model.onnx on 1,520 weights: 1 differ",
    ),
    "model.onnx, last weight": (
        in_initializer(FILES.text_model, "weight", added((302, 4), 1e-3)),
        "model.onnx on 1,520 weights: 1 differ",
    ),
    "model.onnx, weight of unknown words": (
        in_initializer(FILES.text_model, "weight", added((303, 2), 1e-3)),
        "not those of a trained model",
    ),
    "model.onnx, bias in float64": (
        in_initializer(FILES.text_model, "bias", added(0, 1e-3)),
        "not those of a trained model",
    ),
    "model.onnx, bias beyond float32": (
        in_initializer(FILES.text_model, "bias", added(0, 1e-12)),
        "not those of a trained model",
    ),
    "model.onnx, bias in float32": (
        in_initializer(
            FILES.text_model,
            "bias",
            lambda bias: (bias + 1e-3 * (np.arange(5) == 3)).astype(np.float32).astype(np.float64),
        ),
        "model.onnx on 1,520 weights: 1 differ",
    ),
    "model.ts, first weight": (
        in_record(WEIGHT, added_to_bytes(0, 1e-3)),
        "model.ts on 1,520 weights: 1 differ",
    ),
    "model.ts, last weight": (
        in_record(WEIGHT, added_to_bytes(LAST_WEIGHT, 1e-3)),
        "model.ts on 1,520 weights: 1 differ",
    ),
    "model.ts, bias": (in_record(BIAS, added_to_bytes(1, 1e-3)), "model.ts on 1,520 weights: 1 differ"),
    "safetensors, not a number": (
        in_safetensors(lambda it: it["weight"].__setitem__((1, 7), np.nan)),
        "weights: 1 differ",
    ),
    "safetensors, infinite": (
        in_safetensors(lambda it: it["weight"].__setitem__((1, 7), np.inf)),
        "weights: 1 differ",
    ),
    "safetensors, huge": (
        in_safetensors(lambda it: it["weight"].__setitem__((1, 7), 3e38)),
        "weights: 1 differ",
    ),
    "bow.onnx, not a number": (
        in_initializer(FILES.bow_model, "weight", lambda it: it.__setitem__((1, 7), np.nan)),
        "weights: 1 differ",
    ),
    "bow.onnx, signalling not a number": (
        in_initializer(
            FILES.bow_model, "weight", lambda it: it.view(np.uint32).__setitem__((1, 7), 0x7FA00000)
        ),
        "weights: 1 differ",
    ),
    "model.onnx, infinite": (
        in_initializer(FILES.text_model, "weight", lambda it: it.__setitem__((1, 2), -np.inf)),
        "weights: 1 differ",
    ),
    "model.onnx, bias beyond the range of float32": (
        in_initializer(FILES.text_model, "bias", lambda it: it.__setitem__(0, 1e300)),
        "not those of a trained model",
    ),
    "minus zero": (
        in_initializer(
            FILES.text_model, "weight", lambda it: it.view(np.uint32).__setitem__((0, 0), 0x80000000)
        ),
        "weights: 1 differ",
    ),
}


@pytest.mark.usefixtures("shorter_texts")
@pytest.mark.parametrize("case", sorted(WEIGHTS))
def test_one_changed_weight_is_found(copy: Path, case: str) -> None:
    """If it failed, a runtime could answer by another model than the one that was trained."""
    damage, message = WEIGHTS[case]
    damage(copy)
    seal_again(copy)
    with pytest.raises((ArtifactError, ParityError), match=message):
        hold(copy)


@pytest.mark.usefixtures("shorter_texts")
@pytest.mark.parametrize("name", [FILES.weights, FILES.bow_model, FILES.text_model, FILES.torchscript])
def test_a_weight_anywhere_in_a_file_is_found(copy: Path, name: str) -> None:
    """If it failed, there would be a place in a file that nobody looks at."""
    original = (copy / name).read_bytes()
    places = np.random.Generator(np.random.PCG64(1)).integers(0, NUM_LABELS * NUM_WORDS, 4).tolist()
    for place in places:
        label, word = divmod(place, NUM_WORDS)
        damages = {
            FILES.weights: in_safetensors(lambda it, at=(label, word): added(at, 1e-3)(it["weight"])),
            FILES.bow_model: in_initializer(name, "weight", added((label, word), 1e-3)),
            FILES.text_model: in_initializer(name, "weight", added((word, label), 1e-3)),
            FILES.torchscript: in_record(WEIGHT, added_to_bytes(place, 1e-3)),
        }
        (copy / name).write_bytes(original)
        damages[name](copy)
        seal_again(copy)
        with pytest.raises(ParityError, match=f"{name} on 1,520 weights: 1 differ|bow.onnx on 1,520"):
            hold(copy)


def test_a_weight_in_an_archive_with_an_old_checksum_is_found(copy: Path) -> None:
    """If it failed, a flipped bit within model.ts would pass once the hashes were made anew."""
    content = (copy / FILES.torchscript).read_bytes()
    weight = open_weights(copy)[1, 100].tobytes()
    assert content.count(weight) == 1
    (copy / FILES.torchscript).write_bytes(content.replace(weight, with_flipped_bit(weight, 1)))
    seal_again(copy)
    with pytest.raises(ArtifactError, match=r"model\.ts: is not a TorchScript archive"):
        hold(copy)


def open_weights(folder: Path) -> Any:
    from serving.features.specification import PLAIN
    from serving.weights import read_safetensors

    return read_safetensors(folder, PLAIN)["weight"]


def _keys(change: Callable[[Any], object]) -> Callable[[Any], object]:
    return lambda node: change(attribute(node, "keys_strings").strings)


def _ids(change: Callable[[Any], object]) -> Callable[[Any], object]:
    return lambda node: change(attribute(node, "values_int64s").ints)


def _without_ids(node: Any) -> None:
    node.attribute.remove(attribute(node, "values_int64s"))


def _numbers_for_words(node: Any) -> None:
    keys = attribute(node, "keys_strings")
    keys.name, keys.type = "keys_int64s", 7
    keys.ints.extend(range(len(keys.strings)))
    del keys.strings[:]


NAMES: dict[str, tuple[Damage | list[Damage], str]] = {
    "labels.jsonl, another order": (in_lines(FILES.labels, swap(0, 1)), "labels or their order differ"),
    "labels.jsonl, another name": (
        in_lines(FILES.labels, lambda it: it.__setitem__(0, "x")),
        "labels or their order differ",
    ),
    "labels.jsonl, one more": (in_lines(FILES.labels, lambda it: it.append("x")), "labels or their order"),
    "labels.jsonl, one less": (in_lines(FILES.labels, lambda it: it.pop()), "labels or their order differ"),
    "manifest, another order": (in_manifest(lambda it: swap(3, 4)(it["labels"])), "labels or their order"),
    "both, another order": (
        [in_lines(FILES.labels, swap(0, 1)), in_manifest(lambda it: swap(0, 1)(it["labels"]))],
        "a label is not the most probable one",
    ),
    "model.onnx, another order": (
        in_onnx(FILES.text_model, lambda it: swap(0, 1)(_label_tensor(it).string_data)),
        "labels or their order differ",
    ),
    "model.onnx, metadata": (
        replaced(FILES.text_model, b'["label 0\xc3\xa9","label 1', b'["label 1\xc3\xa9","label 0'),
        "metadata bowsprit.labels differs",
    ),
    "bow.onnx, metadata": (
        replaced(FILES.bow_model, b'["label 0\xc3\xa9","label 1', b'["label 1\xc3\xa9","label 0'),
        "metadata bowsprit.labels differs",
    ),
    "bow.onnx, metadata, not UTF-8": (
        replaced(FILES.bow_model, b'["label 0\xc3\xa9', b'["label 0\xff\xff'),
        "bow.onnx",
    ),
    "bow.onnx, no metadata": (
        in_onnx(FILES.bow_model, lambda it: it.ClearField("metadata_props")),
        "its metadata bowsprit.data differs",
    ),
    "bow.onnx, more metadata": (
        in_onnx(FILES.bow_model, lambda it: it.metadata_props.add(key="x", value="y")),
        "its metadata x differs",
    ),
    "model.ts, labels": (
        in_record("archive/extra/labels.jsonl", lambda it: it.replace(b"label 0", b"label 9")),
        "extra file labels.jsonl differs",
    ),
    "model.ts, vocabulary": (
        in_record("archive/extra/vocabulary.jsonl", lambda it: it[::-1]),
        "extra file vocabulary.jsonl differs",
    ),
    "model.ts, no labels": (
        in_archive(lambda it: it.pop("archive/extra/labels.jsonl")),
        "extra file labels.jsonl differs",
    ),
    "vocabulary.jsonl, swapped": (in_lines(FILES.vocabulary, swap(3, 4)), "words or their ids differ"),
    "vocabulary.jsonl, one less": (in_lines(FILES.vocabulary, lambda it: it.pop()), "302 tokens"),
    "vocabulary.jsonl, a word twice": (
        in_lines(FILES.vocabulary, lambda it: it.__setitem__(5, it[6])),
        "words or their ids differ",
    ),
    **{
        f"lookup, {name}, {way}": (in_node(FILES.text_model, "LabelEncoder", change, way), message)
        for way in ("whole/", "chunk/")
        for name, change, message in (
            ("ids", _ids(swap(0, 1)), "words or their ids"),
            ("words", _keys(swap(300, 2)), "words or their ids"),
            ("without ids", _without_ids, "model.onnx"),
            ("of numbers", _numbers_for_words, "model.onnx"),
        )
    },
}


def _label_tensor(model: Any) -> Any:
    (tensor,) = [each for each in model.graph.initializer if each.name == "labels"]
    return tensor


@pytest.mark.usefixtures("shorter_texts")
@pytest.mark.parametrize("case", sorted(NAMES))
def test_words_and_labels_in_another_order_are_found(copy: Path, case: str) -> None:
    """If it failed, every answer would carry the name of another label."""
    damage, message = NAMES[case]
    for each in damage if isinstance(damage, list) else [damage]:
        each(copy)
    seal_again(copy)
    with pytest.raises((ArtifactError, ParityError), match=message):
        hold(copy)


def _least(log_probs: list[float]) -> int:
    return min(range(len(log_probs)), key=log_probs.__getitem__)


GOLDEN: dict[str, tuple[Damage, str]] = {
    "log-probability": (
        in_lines(FILES.golden, lambda it: swap_in(it[7]["log_probs"], lambda value: value - 1e-3)),
        "reference on 64 golden texts: up to 0.001",
    ),
    "log-probability, a little": (
        in_lines(FILES.golden, lambda it: swap_in(it[63]["log_probs"], lambda value: value - 1e-6)),
        "reference on 64 golden texts: up to 1e-06",
    ),
    "log-probability, huge": (
        in_lines(FILES.golden, lambda it: swap_in(it[0]["log_probs"], lambda _: -1e308)),
        "reference on 64 golden texts",
    ),
    "label": (
        in_lines(FILES.golden, lambda it: it[3].update(label="label 9")),
        "a label is not the most probable one",
    ),
    "text": (
        in_lines(FILES.golden, lambda it: it[3].update(text=it[3]["text"] + " café")),
        "reference on 64 golden texts",
    ),
    "a log-probability less": (in_lines(FILES.golden, lambda it: it[3]["log_probs"].pop()), "expected texts"),
    "a log-probability more": (
        in_lines(FILES.golden, lambda it: it[3]["log_probs"].append(-99.0)),
        "expected texts with 5 log-prob",
    ),
    "no log-probabilities": (
        in_lines(FILES.golden, lambda it: [each.update(log_probs=[]) for each in it]),
        "expected texts with 5 log-prob",
    ),
    "no examples": (whole(FILES.golden, lambda _: b""), "expected texts with 5 log-probabilities"),
    "unknown field": (in_lines(FILES.golden, lambda it: it[3].update(x=1)), "unknown field `x`"),
    "missing field": (in_lines(FILES.golden, lambda it: it[3].pop("label")), "missing required field"),
    "not finite": (replaced(FILES.golden, b'"log_probs":[-', b'"log_probs":[-1e999,-'), "out of range"),
}


def swap_in(log_probs: list[float], change: Callable[[float], float]) -> None:
    """Changes the least of the log-probabilities, so that the label stays the most probable one."""
    place = _least(log_probs)
    log_probs[place] = change(log_probs[place])


@pytest.mark.usefixtures("shorter_texts")
@pytest.mark.parametrize("case", GOLDEN)
def test_a_changed_golden_example_is_found(copy: Path, case: str) -> None:
    """If it failed, the weights in all files could be replaced together unseen."""
    damage, message = GOLDEN[case]
    damage(copy)
    seal_again(copy)
    with pytest.raises((ArtifactError, ParityError), match=message):
        hold(copy)


def test_all_weights_replaced_together_are_found_by_the_golden_examples(copy: Path, tutorial: Path) -> None:
    """If it failed, files that agree with each other would pass for the model that was trained."""

    def halve(array: Any) -> Any:
        return array / 2

    in_safetensors(lambda it: it.update(weight=it["weight"] / 2))(copy)
    in_initializer(FILES.bow_model, "weight", halve)(copy)
    in_initializer(FILES.text_model, "weight", halve)(copy)
    in_record(WEIGHT, lambda it: (np.frombuffer(it, np.float32) / 2).tobytes())(copy)
    seal_again(copy)
    broken = [rung for rung in verify(copy, with_torch=True).rungs if not rung.holds]
    assert [(rung.name, rung.sample) for rung in broken] == [("reference", "golden texts")]


def _class_without(point: int) -> Callable[[Any], None]:
    """Takes a code point out of a class of characters, in whichever attribute of a node it stands."""
    name = f"\\x{{{point:X}}}".encode()

    def change(node: Any) -> None:
        (found,) = node.attribute if len(node.attribute) == 1 else [attribute(node, "separators")]
        before = found.s or found.strings[0]
        if name not in before:
            return  # of the patterns, only one names whitespace
        if found.s:
            found.s = before.replace(name, b"")
        else:
            found.strings[0] = before.replace(name, b"")

    return change


def _set(name: str, value: float) -> Callable[[Any], None]:
    def change(node: Any) -> None:
        found = attribute(node, name)
        setattr(found, "f" if isinstance(value, float) else "i", value)

    return change


def _add(name: str, value: float) -> Callable[[Any], None]:
    return lambda node: node.attribute.append(helper.make_attribute(name, value))


def _labels_twice(model: Any) -> None:
    (node,) = [node for node in model.graph.node if node.output[0] == "label"]
    node.output[0] = "once"
    model.graph.node.append(helper.make_node("Concat", ["once", "once"], ["label"], axis=0))


def _mean(node: Any) -> None:
    node.op_type = "ReduceMean"


def _in_one_way(way: str) -> dict[str, tuple[Damage, str]]:
    """Changes in one of the ways through the text model: `whole/`, or `chunk/` in the Loop."""
    sums = "whole/sums" if way == "whole/" else "at_once/"
    changes = {
        "no LogSoftmax": ("LogSoftmax", another_operator("Identity"), way),
        "mean": ("ReduceSum", _mean, sums),
        "fewer tokens": ("StringSplit", _add("maxsplit", 3), way),
        "short words lost": ("Tokenizer", _set("mincharnum", 3), way),
        "unknown words known": ("LabelEncoder", _set("default_int64", 0), way),
        "unknown words out of range": ("LabelEncoder", _set("default_int64", 1000), way),
    }
    return {
        f"model.onnx, {way} {name}": (in_node(FILES.text_model, *change), "model.onnx")
        for name, change in changes.items()
    }


GRAPHS: dict[str, tuple[Damage, str]] = {
    **_in_one_way("whole/"),
    **_in_one_way("chunk/"),
    "bow.onnx, no LogSoftmax": (
        in_node(FILES.bow_model, "LogSoftmax", another_operator("Identity")),
        "bow.onnx, CPUExecutionProvider on .* golden texts",
    ),
    "bow.onnx, Softmax": (
        in_node(FILES.bow_model, "LogSoftmax", another_operator("Softmax")),
        "bow.onnx, CPUExecutionProvider on",
    ),
    "bow.onnx, LogSoftmax over texts": (
        in_node(FILES.bow_model, "LogSoftmax", _set("axis", 0)),
        "bow.onnx, CPUExecutionProvider on",
    ),
    "bow.onnx, weights not transposed": (in_node(FILES.bow_model, "Gemm", _set("transB", 0)), "bow.onnx"),
    "bow.onnx, scaled": (
        in_node(FILES.bow_model, "Gemm", _add("alpha", 1.001)),
        "bow.onnx, CPUExecutionProvider on",
    ),
    "bow.onnx, weights of another shape": (with_dims(FILES.bow_model, "weight", 303, 5), "bow.onnx"),
    "bow.onnx, weights of no shape": (with_dims(FILES.bow_model, "weight", 5, 302), "bow.onnx"),
    "bow.onnx, another initializer": (
        in_onnx(
            FILES.bow_model, lambda it: it.graph.initializer.append(numpy_helper.from_array(np.ones(1), "x"))
        ),
        "expected the initializers weight, bias, found bias, weight, x",
    ),
    "bow.onnx, weights in another file": (in_onnx(FILES.bow_model, lambda it: external(it)), "bow.onnx"),
    "model.onnx, weights of no shape": (with_dims(FILES.text_model, "weight"), "model.onnx"),
    "model.onnx, bias of another shape": (with_dims(FILES.text_model, "bias", 5, 1), "model.onnx"),
    "model.onnx, labels of another shape": (with_dims(FILES.text_model, "labels", 4), "model.onnx"),
    "model.onnx, the least probable label": (
        in_node(FILES.text_model, "ArgMax", lambda node: setattr(node, "op_type", "ArgMin")),
        "`label` is not the most probable label",
    ),
    "model.onnx, every label twice": (in_onnx(FILES.text_model, _labels_twice), "model.onnx"),
    "model.onnx, an operator that nobody has": (
        in_node(FILES.text_model, "Tokenizer", lambda node: setattr(node, "op_type", "Tokenise")),
        "onnxruntime .* cannot load it",
    ),
    "model.onnx, another input": (
        in_onnx(FILES.text_model, lambda it: rename_input(it, "texts")),
        "expected Signature",
    ),
    "model.onnx, another type of output": (
        in_onnx(
            FILES.bow_model,
            lambda it: setattr(it.graph.output[0].type.tensor_type, "elem_type", TensorProto.DOUBLE),
        ),
        "bow.onnx",
    ),
    **{
        f"model.onnx, Tokenizer without U+{point:04X}": (
            in_node(FILES.text_model, "Tokenizer", _class_without(point)),
            "model.onnx on .* adversarial texts",
        )
        for point in (0x09, 0x1F, 0x85, 0xA0, 0x2029, 0x3000)
    },
    **{
        f"model.onnx, U+{point:04X} taken for a letter of short texts": (
            in_node(FILES.text_model, "RegexFullMatch", _class_without(point)),
            "model.onnx on .* adversarial texts",
        )
        for point in (0x09, 0x85, 0x2029)
    },
}
_NOT_ALONE = "adversarial texts come in large batches, so that none takes the short texts' path with it alone"


def external(model: Any) -> None:
    """Makes the first initializer's data stand in another file."""
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=FILES.weights)


def rename_input(model: Any, name: str) -> None:
    """Gives the text model's input another name, and hands it on under the old one."""
    model.graph.input[0].name = name
    model.graph.node.insert(0, helper.make_node("Identity", [name], ["text"]))


@pytest.mark.usefixtures("shorter_texts")
@pytest.mark.parametrize("case", sorted(GRAPHS))
def test_a_changed_graph_is_found(copy: Path, case: str) -> None:
    """If it failed, a model file with the right weights could still give wrong answers."""
    damage, message = GRAPHS[case]
    before = [(copy / name).read_bytes() for name in (FILES.text_model, FILES.bow_model)]
    damage(copy)
    assert before != [(copy / name).read_bytes() for name in (FILES.text_model, FILES.bow_model)]
    seal_again(copy)
    with pytest.raises((ArtifactError, ParityError), match=message):
        hold(copy)


def test_unknown_words_that_count_are_found_in_a_model_of_few_words(tutorial: Path, tmp_path: Path) -> None:
    """If it failed, a small model's unknown words could add to an answer unseen."""
    folder = shutil.copytree(tutorial, tmp_path / "bundle")
    in_node(FILES.text_model, "LabelEncoder", _set("default_int64", 0))(folder)
    seal_again(folder)
    with pytest.raises((ArtifactError, ParityError), match=r"model\.onnx"):
        hold(folder)
