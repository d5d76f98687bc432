"""`make options`: what each option for features gives and costs, measured, into docs/features.md.

Every line of the table is a run of its own, with the defaults and what the line says; the accuracy is that on
validation data, never on test data.
"""

import argparse
import json
import re
import statistics
import sys
import tempfile
import timeit
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort

from benchmarks import limits, process
from serving.bundle import FILES
from serving.cores import usable_cores
from serving.session import session_options

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "features.md"
MARKED = re.compile(r"(<!-- measured -->\n).*?(<!-- end -->)", re.DOTALL)
VALIDATION_SPLIT = "0.15"

WORDS = {"TOKENIZER": "words", "LOWERCASE": "true"}
PAIRS = WORDS | {"WORD_NGRAMS": "1-2"}
PARTS = PAIRS | {"CHAR_NGRAMS": "2-4", "MIN_CHAR_NGRAM_COUNT": "4"}
SCALED = {"WEIGHTING": "tfidf", "NORMALIZE": "l2"}
VARIANTS: dict[str, dict[str, str]] = {
    "defaults": {},
    "`BOW_LOWERCASE=true`": {"LOWERCASE": "true"},
    "`BOW_TOKENIZER=words`": {"TOKENIZER": "words"},
    "both: *words*": WORDS,
    "*words*, `BOW_MIN_COUNT=2`": WORDS | {"MIN_COUNT": "2"},
    "*words*, `BOW_WEIGHTING=binary`": WORDS | {"WEIGHTING": "binary"},
    "*words*, `BOW_WEIGHTING=log`": WORDS | {"WEIGHTING": "log"},
    "*words*, `BOW_WEIGHTING=tfidf`": WORDS | {"WEIGHTING": "tfidf"},
    "*words*, `BOW_NORMALIZE=l2`": WORDS | {"NORMALIZE": "l2"},
    "*words*, tf-idf and l2": WORDS | SCALED,
    "*words*, `BOW_WEIGHT_DECAY=2e-5`": WORDS | {"WEIGHT_DECAY": "2e-5"},
    "*words*, `BOW_EPOCHS=30`": WORDS | {"EPOCHS": "30"},
    "*words*, `BOW_EPOCHS=30`, `BOW_PATIENCE=3`": WORDS | {"EPOCHS": "30", "PATIENCE": "3"},
    "*words*, `BOW_WORD_NGRAMS=1-2`: *pairs*": PAIRS,
    "*pairs*, tf-idf and l2": PAIRS | SCALED,
    "*words*, `BOW_WORD_NGRAMS=1-3`, tf-idf and l2": WORDS | SCALED | {"WORD_NGRAMS": "1-3"},
    "*pairs*, `BOW_CHAR_NGRAMS=2-4`: *parts*": PARTS,
    "*parts*, tf-idf and l2": PARTS | SCALED,
    "*parts*, tf-idf and l2, `BOW_WEIGHT_DECAY=2e-5`": PARTS | SCALED | {"WEIGHT_DECAY": "2e-5"},
    "*parts* of 2-5, tf-idf and l2": PARTS | SCALED | {"CHAR_NGRAMS": "2-5"},
    "*parts*, tf-idf and l2, `BOW_MAX_CHAR_NGRAMS=5000`": PARTS | SCALED | {"MAX_CHAR_NGRAMS": "5000"},
    "`BOW_TOKENIZER=characters`, `BOW_WORD_NGRAMS=1-3`, tf-idf and l2": SCALED
    | {"TOKENIZER": "characters", "LOWERCASE": "true", "WORD_NGRAMS": "1-3"},
}
"""By what a line of the table says, the settings without their prefix."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one run came to."""

    accuracy: float
    """On validation data."""
    seconds: float
    """From the files to a published bundle."""
    num_features: int
    num_bytes: int
    """Of the bundle."""
    text_seconds: float
    """For one text in process, on one thread."""


def measure(train: str, validation: str | None, settings: Mapping[str, str]) -> Measured:
    """One run of the job in a process of its own, and its bundle's predictions."""
    data = {"VALIDATION_SPLIT": VALIDATION_SPLIT} if validation is None else {"VALIDATION_DATA": validation}
    with tempfile.TemporaryDirectory() as folder:
        own = {**settings, **data} | {"TRAIN_DATA": train, "OUTPUT_DIR": folder, "RUN_NAME": "run"}
        environ = {f"BOW_{name}": value for name, value in own.items()}
        process.run(["job"], process.without_settings() | environ, f"the run with {own}")
        bundle = Path(folder) / "run"
        metrics = json.loads((bundle / FILES.metrics).read_text())
        with (bundle / FILES.vocabulary).open(encoding="utf-8") as lines:
            num_features = sum(1 for _ in lines)
        return Measured(
            accuracy=metrics["validation"]["summary"]["accuracy"],
            seconds=json.loads((bundle / FILES.run).read_text())["seconds"],
            num_features=num_features,
            num_bytes=sum(path.stat().st_size for path in bundle.iterdir()),
            text_seconds=_text_seconds(bundle / FILES.text_model, _texts(bundle / FILES.golden)),
        )


def table(measured: Mapping[str, Mapping[str, Measured]]) -> str:
    """The Markdown tables of some data sets: by name, and by line."""
    parts = []
    for name, lines in measured.items():
        rows = [
            "| features | accuracy | training | features | bundle | one text |",
            "| --- " + "| ---: " * 5 + "|",
        ]
        for line, each in lines.items():
            rows.append(
                f"| {line} | {each.accuracy:.4f} | {each.seconds:.1f} s | {each.num_features:,} "
                f"| {each.num_bytes / 1e6:.0f} MB | {each.text_seconds * 1e6:.0f} µs |"
            )
        parts.append(f"**{name}**\n\n" + "\n".join(rows) + "\n")
    return "\n".join(parts)


def _texts(path: Path) -> list[str]:
    with path.open(encoding="utf-8", newline="\n") as lines:  # a text may hold other line separators
        return [json.loads(line)["text"] for line in lines]


def _text_seconds(path: Path, texts: Sequence[str]) -> float:
    session = ort.InferenceSession(str(path), session_options(), providers=["CPUExecutionProvider"])
    seconds = []
    for text in texts:
        alone = {"text": np.array([text], dtype=object)}
        seconds.append(min(timeit.repeat(lambda: session.run(None, alone), number=1, repeat=20)))  # noqa: B023
    return statistics.median(seconds)


def main() -> None:
    """Measures every line on every data set that the arguments name, and writes the page's table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.options", description=__doc__)
    parser.add_argument(
        "data", nargs="+", metavar="NAME=TRAIN[,VALIDATION]", help="labelled texts that the job can read"
    )
    arguments = parser.parse_args()
    measured: dict[str, dict[str, Measured]] = {}
    for named in arguments.data:
        name, _, locations = named.partition("=")
        train, _, validation = locations.partition(",")
        measured[name] = {}
        for line, settings in VARIANTS.items():
            measured[name][line] = each = measure(train, validation or None, settings)
            sys.stderr.write(f"{name}, {line}: {each.accuracy:.4f}, {each.seconds:.1f} s\n")
    machine = limits.machine(usable_cores())
    found = f"Measured on {machine['cpu']}, {usable_cores()} cores.\n\n{table(measured)}"
    PAGE.write_text(MARKED.sub(lambda match: f"{match[1]}{found}{match[2]}", PAGE.read_text()))


if __name__ == "__main__":
    main()
