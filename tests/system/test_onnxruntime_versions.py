"""The oldest onnxruntime that is promised loads and runs both models of a new bundle."""

import json
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import pytest

from serving.bundle import FILES, open_bundle
from serving.parity.reference import Reference
from serving.parity.verify import read_parameters
from tests.system.conftest import Environment

pytestmark = pytest.mark.system

OLDEST = "1.20.1"

CHECK = r"""
import json, sys
from pathlib import Path
import numpy as np
import onnxruntime as ort

bundle = Path(sys.argv[1])
read = lambda name: [json.loads(line) for line in (bundle / name).read_text("utf-8").split("\n") if line]
words, labels, golden = read("vocabulary.jsonl"), read("labels.jsonl"), read("golden.jsonl")
place = {word: number for number, word in enumerate(words)}

def session(name):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(str(bundle / name), options, providers=["CPUExecutionProvider"])

text, bow = session("model.onnx"), session("bow.onnx")

def by_text(texts):
    return text.run(["log_probs", "label"], {"text": np.array(texts, dtype=object).reshape(-1)})

def by_counts(texts):
    counts = np.zeros((len(texts), len(words)), np.float32)
    for row, each in enumerate(texts):
        for token in each.split():
            if token in place:
                counts[row, place[token]] += 1
    return bow.run(None, {"bow": counts})[0]

def close(found, expected, factor=1):
    np.testing.assert_allclose(found, expected, rtol=factor * 1e-5, atol=factor * 1e-5)

texts = [example["text"] for example in golden]
expected = np.array([example["log_probs"] for example in golden])
for batch in (texts, texts * 5):  # the general path takes more than 256
    log_probs, label = by_text(batch)
    close(log_probs, np.tile(expected, (len(batch) // len(texts), 1)))
    assert label.tolist() == [example["label"] for example in golden] * (len(batch) // len(texts))
for row, each in enumerate(texts):
    close(by_text([each])[0], expected[row : row + 1])
    close(by_text([each.replace(" ", "\t")])[0], expected[row : row + 1])
close(by_counts(texts), expected)

log_probs, label = by_text([])
assert log_probs.shape == (0, len(labels)) and label.shape == (0,)
assert bow.run(None, {"bow": np.zeros((0, len(words)), np.float32)})[0].shape == (0, len(labels))

zero = by_counts([""])
for blanks in (["\t"], ["", " ", "\n\t\u3000"], ["\t"] * 256, [""] * 300):
    close(by_text(blanks)[0], np.repeat(zero, len(blanks), axis=0))

# One label's log-probability far below the others' is a sum of 100,000 weights: the ratio to the sum of one
# pass over the words is what a float64 sum keeps.
cycle = " ".join(words[number % len(words)] for number in range(100_000))
log_probs = by_text([cycle, words[0], "\t" + cycle])[0]
assert np.isfinite(log_probs).all()
close(log_probs[2], log_probs[0])
close(log_probs[1:2], by_text([words[0]])[0])
json.dump({"version": ort.__version__, "long": log_probs[0].tolist()}, sys.stdout)
"""


def test_the_oldest_promised_onnxruntime_gives_the_same_log_probs(tmp_path: Path, bundle: Path) -> None:
    """If it failed, a server with an onnxruntime that we promise would refuse the model or differ."""
    environment = Environment(tmp_path / "venv")
    environment.install(f"onnxruntime=={OLDEST}", "numpy>=2,<3")
    (tmp_path / "check.py").write_text(CHECK)
    done = environment.python(str(tmp_path / "check.py"), str(bundle))
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout)
    assert found["version"] == OLDEST

    parameters = read_parameters(open_bundle(bundle))
    reference = Reference.of(parameters.weight, parameters.bias, parameters.vocabulary)
    text = " ".join(islice(cycle(parameters.vocabulary), 100_000))
    np.testing.assert_allclose(found["long"], reference.score([text]).log_probs[0], rtol=1e-5, atol=1e-5)
    assert (bundle / FILES.text_model).is_file()


REPLAY = r"""
import json, sys
from pathlib import Path
import numpy as np
import onnxruntime as ort

for name in sys.argv[1:]:
    bundle = Path(name)
    lines = (bundle / "golden.jsonl").read_text("utf-8").split("\n")
    golden = [json.loads(line) for line in lines if line]
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(str(bundle / "model.onnx"), options, providers=["CPUExecutionProvider"])
    texts = [example["text"] for example in golden]
    for batch in ([*texts, "", *texts * 7], *([text] for text in texts)):
        log_probs, label = session.run(["log_probs", "label"], {"text": np.array(batch, dtype=object)})
        for text, found, named in zip(batch, log_probs, label):
            if text:
                (example,) = [example for example in golden if example["text"] == text]
                np.testing.assert_allclose(found, example["log_probs"], rtol=1e-5, atol=1e-5)
                assert named == example["label"]
    assert session.run(["label"], {"text": np.empty(0, dtype=object)})[0].shape == (0,)
print(ort.__version__)
"""


@pytest.mark.parametrize("version", [OLDEST, "newest"])
def test_the_recipes_models_replay_their_golden_examples(
    tmp_path: Path, recipe_bundles: dict[str, Path], version: str
) -> None:
    """If it failed, n-grams would be other features in an onnxruntime that we promise."""
    environment = Environment(tmp_path / "venv")
    environment.install("onnxruntime" if version == "newest" else f"onnxruntime=={version}", "numpy>=2,<3")
    (tmp_path / "replay.py").write_text(REPLAY)
    done = environment.python(str(tmp_path / "replay.py"), *map(str, recipe_bundles.values()))
    assert done.returncode == 0, done.stderr[-4000:]
    assert version in ("newest", done.stdout.strip())
