"""`verify`: files that are something else than they should be, or nothing at all, are refused in words."""

import random
import zipfile
from pathlib import Path

import numpy as np
import pytest

from serving.bundle import FILES
from serving.errors import ArtifactError, ParityError
from serving.parity.verify import verify
from tests.serving.conftest import hold
from tests.serving.damage import (
    BIAS,
    WEIGHT,
    Damage,
    in_archive,
    in_record,
    in_safetensors,
    in_zip_entries,
    replaced,
    seal_again,
    weights_of_type,
    whole,
    with_flipped_bit,
)

OTHERS: dict[str, tuple[Damage, str]] = {
    "model.onnx is bow.onnx": (
        lambda folder: (folder / FILES.text_model).write_bytes((folder / FILES.bow_model).read_bytes()),  # type: ignore[func-returns-value]
        "expected the initializers weight, bias, labels",
    ),
    "bow.onnx is model.onnx": (
        lambda folder: (folder / FILES.bow_model).write_bytes((folder / FILES.text_model).read_bytes()),  # type: ignore[func-returns-value]
        "expected the initializers weight, bias, found",
    ),
    "weights of two bytes": (
        in_safetensors(lambda it: it.update(weight=it["weight"].astype(np.float16))),
        "found bias float32, weight float16",
    ),
    "weights of eight bytes": (
        in_safetensors(lambda it: it.update(bias=it["bias"].astype(np.float64))),
        "found bias float64, weight float32",
    ),
    "weights in bfloat16": (weights_of_type("BF16", 2), "weights.safetensors"),
    "weights in float8": (weights_of_type("F8_E4M3", 1), "weights.safetensors"),
    "whole numbers for weights": (weights_of_type("I32", 4), "found bias int32, weight int32"),
    "weights transposed": (
        in_safetensors(lambda it: it.update(weight=np.ascontiguousarray(it["weight"].T))),
        r"expected weights for 5 labels and 303 words, found \[303, 5\] and \[5\]",
    ),
    "no bias": (
        in_safetensors(lambda it: it.pop("bias")),
        "expected the float32 tensors weight, bias, found weight",
    ),
    "a tensor more": (in_safetensors(lambda it: it.update(x=it["bias"])), "found bias float32, weight"),
    "model.ts without a tensor": (in_archive(lambda it: it.pop(BIAS)), "expected the tensors weight and"),
    "model.ts with a tensor more": (
        in_archive(lambda it: it.update({"archive/data/2": b"1234"})),
        "expected the tensors weight and bias",
    ),
    "model.ts with a tensor of another length": (
        in_record(WEIGHT, lambda it: it[:-4]),
        "expected the tensors weight and bias",
    ),
    "model.ts with the weights of another folder": (
        in_archive(lambda it: [it.update({"x/data/0": it[WEIGHT]}), it.update({WEIGHT: bytes(6060)})]),
        "model.ts",
    ),
    "model.ts encrypted": (in_zip_entries(8, 1), "not a TorchScript archive"),
    "model.ts packed otherwise": (in_zip_entries(10, 99), "not a TorchScript archive"),
    "model.ts compressed": (in_archive(lambda _: None, zipfile.ZIP_DEFLATED), "are compressed, or overlap"),
    "model.ts with records larger than itself": (in_zip_entries(22, 127), "are compressed, or overlap"),
    "model.ts for a later unzip": (in_zip_entries(6, 99), "not a TorchScript archive"),
    "golden.jsonl nested": (whole(FILES.golden, lambda _: b"[" * 200_000), "golden.jsonl"),
    "labels.jsonl with numbers": (whole(FILES.labels, lambda _: b"1\n2\n3\n4\n5\n"), "Expected `str`"),
    "vocabulary.jsonl not UTF-8": (
        replaced(FILES.vocabulary, "é".encode(), b"\xff\xff"),
        "not what a bundle holds there",
    ),
    **{
        f"{name} {what}": (whole(name, lambda _, content=content: content), name.replace(".", r"\."))
        for name in FILES.hashed
        if name != FILES.metrics
        for what, content in (("empty", b""), ("random", random.Random(1).randbytes(3000)))
    },
}


@pytest.mark.usefixtures("shorter_texts")
@pytest.mark.parametrize("case", sorted(OTHERS))
def test_a_file_that_is_something_else_is_refused(copy: Path, case: str) -> None:
    """If it failed, a file put in the wrong place would be served, or end in a traceback."""
    damage, message = OTHERS[case]
    damage(copy)
    seal_again(copy)
    with pytest.raises(ArtifactError, match=message):
        hold(copy)


MODEL_CODE = "archive/code/__torch__/job/model.py"
TORCHSCRIPT: dict[str, tuple[Damage, str]] = {
    "bias left out of score": (
        in_record(MODEL_CODE, lambda it: it.replace(b"torch.to(bias, 7)", b"torch.mul(bias, 0)")),
        "model.ts, score on",
    ),
    "no log softmax in forward": (
        in_record(MODEL_CODE, lambda it: it.replace(b"return _1\n", b"return torch.linear(bow, weight)\n")),
        "model.ts, forward on",
    ),
    "sums in float32": (
        in_record(
            MODEL_CODE, lambda it: it.replace(b"columns = torch.to(torch.t(_8), 7)", b"columns = torch.t(_8)")
        ),
        "model.ts",
    ),
    "no code": (
        in_archive(lambda it: [it.pop(name) for name in list(it) if "/code/" in name]),
        "torch .* cannot load it",
    ),
    "no pickle": (in_archive(lambda it: it.pop("archive/data.pkl")), "torch .* cannot load it"),
    "no score": (
        in_record(MODEL_CODE, lambda it: it.replace(b"def score", b"def scorn")),
        "model.ts",
    ),
    "other names of tensors": (
        in_record(MODEL_CODE, lambda it: it.replace(b"weight", b"weigth")),
        "model.ts",
    ),
    "code that is not UTF-8": (
        in_record(MODEL_CODE, lambda it: it.replace(b"__parameters__", b"__param\xffters__")),
        "model.ts",
    ),
}


@pytest.mark.usefixtures("shorter_texts")
@pytest.mark.parametrize("case", sorted(TORCHSCRIPT))
def test_changed_torchscript_is_found_with_torch(copy: Path, case: str) -> None:
    """If it failed, `--torch` would not prove what TorchScript answers."""
    damage, message = TORCHSCRIPT[case]
    damage(copy)
    seal_again(copy)
    with pytest.raises((ArtifactError, ParityError), match=message):
        hold(copy, with_torch=True)


FUZZED = {
    FILES.text_model: (40, True),
    FILES.bow_model: (25, True),
    FILES.torchscript: (20, True),
    FILES.weights: (15, False),
    FILES.golden: (15, True),
    FILES.vocabulary: (10, False),
    FILES.labels: (10, False),
    FILES.manifest: (15, True),
    FILES.metrics: (5, True),
}
"""How many times each file is altered, and whether it may then still hold: a producer's name, or the last
digit of a golden number, does no harm."""


@pytest.mark.usefixtures("shorter_texts")
@pytest.mark.parametrize("name", FUZZED)
def test_random_damage_never_ends_in_a_traceback(copy: Path, name: str) -> None:
    """If it failed, a damaged bundle would look like a bug of ours, and its exit code say so."""
    number, may_hold = FUZZED[name]
    original, manifest = (copy / name).read_bytes(), (copy / FILES.manifest).read_bytes()
    unexpected = []
    for seed in range(number):
        (copy / FILES.manifest).write_bytes(manifest)
        (copy / name).write_bytes(altered_at_random(original, random.Random(seed)))
        if name != FILES.manifest:
            seal_again(copy)
        try:
            verdict = verify(copy)
        except ArtifactError as error:
            if str(copy) not in str(error):
                unexpected.append(f"seed {seed}: it names no place: {error}")
        except Exception as error:  # noqa: BLE001 - what must not come, whatever it is
            unexpected.append(f"seed {seed}: {error!r}")
        else:
            if not may_hold and all(rung.holds for rung in verdict.rungs):
                unexpected.append(f"seed {seed}: it holds")
    assert not unexpected


def altered_at_random(content: bytes, generator: random.Random) -> bytes:
    """The content with bits flipped, with its end cut off, or with bytes put in."""
    place = generator.randrange(len(content))
    match generator.randrange(8):
        case 0:
            return content[:place]
        case 1:
            return content[:place] + generator.randbytes(4) + content[place:]
        case _:
            for _ in range(generator.choice([1, 1, 3])):
                place = generator.randrange(len(content))
                content = with_flipped_bit(content, place, generator.randrange(8))
            return content
