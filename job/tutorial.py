"""The data of the PyTorch NLP tutorial ("Deep Learning with PyTorch"), built in, and what it prints."""

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import nn

from job.corpus.collect import collect, tokenize_rows
from job.corpus.data_set import DataSet
from job.dataset import RejectedRows, Rows
from job.features.vocabulary import Vocabulary
from job.model import BowClassifier
from serving.bundle import DataRecord

TRAIN = (
    ("me gusta comer en la cafeteria", "SPANISH"),
    ("Give it to me", "ENGLISH"),
    ("No creo que sea una buena idea", "SPANISH"),
    ("No it is not a good idea to get lost at sea", "ENGLISH"),
)
TEST = (
    ("Yo creo que si", "SPANISH"),
    ("it is lost on me", "ENGLISH"),
)
LABELS = ("SPANISH", "ENGLISH")
"""In the tutorial's order: SPANISH is 0."""

SHOWN_WORD = "creo"
"""The word whose column of A the tutorial prints: it is Spanish, so SPANISH's weight must rise."""


def vocabulary() -> Vocabulary:
    """The tutorial's 26 words in order of appearance, those of the test sentences included."""
    words = dict.fromkeys(word for text, _ in TRAIN + TEST for word in text.split())
    return Vocabulary(pa.array(words, pa.string()))


def data_set(sentences: tuple[tuple[str, str], ...]) -> DataSet:
    """Labelled sentences as any data set is read.

    The hash in its record is that of a TSV file of them without a header.
    """
    texts, labels = zip(*sentences, strict=True)
    rows = Rows(texts=pa.array(texts, pa.string()), labels=pa.array(labels, pa.string()))
    corpus, sample = collect([tokenize_rows(rows, sample=len(texts))], sample=len(texts))
    file = "".join(f"{label}\t{text}\n" for text, label in sentences).encode()
    record = DataRecord(sha256=hashlib.sha256(file).hexdigest(), rows=len(sentences), rejected=0)
    return DataSet(corpus=corpus, sample=sample, record=record, rejected=RejectedRows())


def replay_draws() -> None:
    """Makes the random draws that the tutorial makes before its classifier's initial weights.

    They are its examples of an affine map, a ReLU and a softmax. Without them torch's generator would stand
    elsewhere, and none of the tutorial's figures could be met.
    """
    nn.Linear(5, 3)
    for shape in ((2, 5), (2, 2), (5,)):
        torch.randn(shape)


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """What the tutorial prints of a model, before and after training."""

    log_probs: npt.NDArray[np.float32]
    """Of the two test sentences: [2, 2]."""
    word: npt.NDArray[np.float32]
    """The column of A of the word `creo`: [2]."""


@torch.no_grad()
def snapshot(model: BowClassifier) -> Snapshot:
    """Looks at a model over the tutorial's vocabulary."""
    words = vocabulary().words
    bow = torch.tensor([[text.split().count(word) for word in words] for text, _ in TEST])
    return Snapshot(
        log_probs=model(bow.float()).numpy(),
        word=model.weight[:, words.index(SHOWN_WORD)].numpy().copy(),
    )


def describe(before: Snapshot, after: Snapshot) -> str:
    """Both snapshots side by side, to the tutorial's four decimals."""
    rows = [
        (f'"{text}"', *(_vector(shot.log_probs[row]) for shot in (before, after)))
        for row, (text, _) in enumerate(TEST)
    ]
    rows.append((f'weights of "{SHOWN_WORD}"', *(_vector(shot.word) for shot in (before, after))))
    title = f"log-probabilities of {', '.join(LABELS)}"
    width = max(len(title), *(len(row[0]) for row in rows)) + 2
    lines = [f"{title:{width}}{'before':<20}after"]
    return "\n".join(lines + [f"{name:{width}}{one:<20}{other}" for name, one, other in rows]) + "\n"


def _vector(values: npt.NDArray[np.float32]) -> str:
    return "[" + ", ".join(f"{value:.4f}" for value in values) + "]"
