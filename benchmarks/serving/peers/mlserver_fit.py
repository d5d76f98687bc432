"""A scikit-learn pipeline for mlserver's own runtime: `python mlserver_fit.py TRAIN FOLDER counts|ngrams`.

TRAIN is a task's train.tsv. FOLDER becomes the model's repository. It imports nothing of ours.
"""

import json
import sys
import warnings
from pathlib import Path

import joblib
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline, make_union

FEATURES = {
    "counts": lambda: CountVectorizer(tokenizer=str.split, token_pattern=None, lowercase=False),
    "ngrams": lambda: make_union(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
        TfidfVectorizer(ngram_range=(2, 4), sublinear_tf=True, analyzer="char_wb"),
    ),
}
"""Word counts at whitespace, as our defaults; or words, pairs and parts of words, as the intents recipe."""


def fit(train: Path, folder: Path, features: str) -> None:
    """Trains and writes `model.joblib` and its settings."""
    texts, labels = [], []
    with train.open(encoding="utf-8", newline="\n") as lines:
        next(lines)
        for line in lines:
            label, text = line.rstrip("\n").split("\t")
            texts.append(text)
            labels.append(label)
    pipeline = make_pipeline(FEATURES[features](), LogisticRegression(max_iter=100))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has not converged
        pipeline.fit(texts, labels)
    folder.mkdir(parents=True, exist_ok=True)
    joblib.dump(pipeline, folder / "model.joblib")
    settings = {
        "name": "bowsprit",
        "implementation": "mlserver_sklearn.SKLearnModel",
        "parameters": {"uri": "./model.joblib", "content_type": "str"},
    }
    (folder / "model-settings.json").write_text(json.dumps(settings))


if __name__ == "__main__":
    _, _train, _folder, _features = sys.argv
    fit(Path(_train), Path(_folder), _features)
