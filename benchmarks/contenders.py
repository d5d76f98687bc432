"""The contenders: each trains a model from files, writes it to disk, and predicts.

What a contender imports it imports when it is made, so that this can be timed apart.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from benchmarks.task import Task


class Contender(Protocol):
    """Trains and predicts."""

    def fit(self, task: Task, model: Path) -> dict[str, float]:
        """Trains from the task's files and writes the model; returns seconds that it knows of, by stage."""
        ...

    def predict(self, texts: list[str]) -> list[int]:
        """The most probable label of each text, by the model that was written."""
        ...


class Bowsprit:
    """The job as it is, with default settings but those given; what proves the bundle is timed apart."""

    def __init__(self, num_threads: int, **settings: str) -> None:
        import job.run  # noqa: F401

        self._settings = {"NUM_THREADS": str(num_threads), "DEVICE": "cpu", "RUN_NAME": "model"} | settings

    def fit(self, task: Task, model: Path) -> dict[str, float]:
        """A whole run."""
        from job.environment import load_settings
        from job.run import run
        from job.telling.output import Output

        settings = self._settings | {
            "TRAIN_DATA": str(task.path("train", "tsv")),
            "OUTPUT_DIR": str(model.parent),
        }
        environ = {f"BOW_{name}": value for name, value in settings.items()}
        begin = time.perf_counter()
        bundle = Path(run(load_settings(environ), Output(for_people=False)))
        seconds = time.perf_counter() - begin
        record = json.loads((bundle / "run.json").read_text())
        stages = {name: stage["seconds"] for name, stage in record["stages"].items()}
        self._labels = json.loads((bundle / "manifest.json").read_text())["labels"]
        self._load(bundle / "model.onnx")
        return stages | {
            "file_to_model": seconds - stages["verify"],
            "tokens_per_second": record["tokens_per_second"],
            "peak_memory": record["peak_memory"],
            "least_memory": _least_memory(
                record, model_bytes=(bundle / "weights.safetensors").stat().st_size
            ),
        }

    def _load(self, path: Path) -> None:
        from serving.session import TextModel

        self._model = TextModel(path, len(self._labels))

    def predict(self, texts: list[str]) -> list[int]:
        """By onnxruntime."""
        return [int(label) for label in self._model.predict(texts)[1]]


def _least_memory(record: dict[str, Any], *, model_bytes: int) -> int:
    """Bytes of ids, offsets, weights and Adagrad's state: what training in memory cannot do without."""
    return int(4 * record["num_tokens"] + 8 * (record["num_rows"] + 1) + 2 * model_bytes)


class FastText:
    """`fasttext-community`: the maintained build of fastText's own code."""

    def __init__(self, num_threads: int, *, dim: int = 100, **options: float) -> None:
        import fasttext

        self._fasttext = fasttext
        self._options = {"dim": dim, "thread": num_threads, "verbose": 0, **options}

    def fit(self, task: Task, model: Path) -> dict[str, float]:
        """Trains from its own format and writes its binary model."""
        self._model = self._fasttext.train_supervised(str(task.path("train", "ft")), **self._options)
        self._model.save_model(str(model))
        return {}

    def predict(self, texts: list[str]) -> list[int]:
        """A list at a time."""
        return [int(names[0].removeprefix("__label__")) for names in self._model.predict(texts)[0]]


class VowpalWabbit:
    """One-against-all logistic regression, with its own cache for all passes but the first."""

    def __init__(self, _num_threads: int, *, passes: int, learning_rate: float = 0.5) -> None:
        import vowpalwabbit

        self._workspace = vowpalwabbit.Workspace
        self._passes, self._learning_rate = passes, learning_rate

    def fit(self, task: Task, model: Path) -> dict[str, float]:
        """Reads with a thread of its own, learns with another; it must be told the number of labels."""
        num_labels = task.num_labels
        begin = time.perf_counter()
        cache = model.with_suffix(".cache")
        workspace = self._workspace(
            arg_list=[
                *("--oaa", str(num_labels), "--loss_function", "logistic", "--quiet", "-b", "22"),
                *("--passes", str(self._passes), "--holdout_off", "-l", str(self._learning_rate), "-k"),
                *("-d", str(task.path("train", "vw")), "--cache_file", str(cache), "-f", str(model)),
            ]
        )
        workspace.run_parser()
        workspace.finish()
        seconds = time.perf_counter() - begin
        self._model = self._workspace(arg_list=["-i", str(model), "-t", "--quiet"])
        return {"file_to_model": seconds}

    def predict(self, texts: list[str]) -> list[int]:
        """One after the other: it has no other way."""
        return [
            self._model.predict("| " + text.replace(":", "\u2236").replace("|", "\u2223")) - 1
            for text in texts
        ]


class ScikitLearn:
    """CountVectorizer at whitespace, without lower case, and a linear classifier."""

    def __init__(self, num_threads: int, *, classifier: str) -> None:
        import joblib
        from sklearn.feature_extraction.text import CountVectorizer
        from sklearn.linear_model import LogisticRegression, SGDClassifier

        self._dump = joblib.dump
        self._vectorizer = CountVectorizer(tokenizer=str.split, token_pattern=None, lowercase=False)
        self._classifier = (
            SGDClassifier(loss="log_loss", max_iter=5, tol=None, n_jobs=num_threads, random_state=0)
            if classifier == "sgd"
            else LogisticRegression(max_iter=100)
        )

    def fit(self, task: Task, model: Path) -> dict[str, float]:
        """Reads the TSV in Python and pickles the two."""
        import warnings

        texts, labels = task.rows("train")
        counts = self._vectorizer.fit_transform(texts)
        with warnings.catch_warnings():
            # That it has not converged; what it reached is what is shown.
            warnings.simplefilter("ignore")
            self._classifier.fit(counts, labels)
        self._dump((self._vectorizer, self._classifier), model)
        return {}

    def predict(self, texts: list[str]) -> list[int]:
        """By the pipeline that was fitted."""
        found: list[int] = self._classifier.predict(self._vectorizer.transform(texts)).tolist()
        return found


class ScikitLearnTfidf:
    """tf-idf of words 1-2 and of characters 2-5 within words, in lower case, and logistic regression."""

    def __init__(self, _num_threads: int) -> None:
        import joblib
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline, make_union

        self._dump = joblib.dump
        self._pipeline = make_pipeline(
            make_union(
                TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True),
                TfidfVectorizer(ngram_range=(2, 5), sublinear_tf=True, analyzer="char_wb"),
            ),
            LogisticRegression(C=10, max_iter=100),
        )

    def fit(self, task: Task, model: Path) -> dict[str, float]:
        """Reads the TSV in Python and pickles the pipeline."""
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._pipeline.fit(*task.rows("train"))
        self._dump(self._pipeline, model)
        return {}

    def predict(self, texts: list[str]) -> list[int]:
        """By the pipeline that was fitted."""
        found: list[int] = self._pipeline.predict(texts).tolist()
        return found


def _recipe(name: str) -> dict[str, str]:
    """The settings of a recipe, without their prefix."""
    lines = (Path(__file__).parents[1] / "recipes" / f"{name}.env").read_text().splitlines()
    return dict(line.removeprefix("BOW_").split("=", 1) for line in lines if line.startswith("BOW_"))


CONTENDERS: dict[str, Callable[[int], Contender]] = {
    "bowsprit": lambda threads: Bowsprit(threads),
    "bowsprit, 1 epoch": lambda threads: Bowsprit(threads, EPOCHS="1", LEARNING_RATE="0.5"),
    "bowsprit, small steps": lambda threads: Bowsprit(
        threads, EPOCHS="20", BATCH_SIZE="64", LEARNING_RATE="0.4", WEIGHT_DECAY="1e-4"
    ),
    "bowsprit, GPU": lambda threads: Bowsprit(threads, DEVICE="cuda:0", REQUIRE_GPU="true"),
    "bowsprit, words seen twice": lambda threads: Bowsprit(threads, MIN_COUNT="2"),
    "fasttext 5 epochs": lambda threads: FastText(threads, epoch=5, lr=0.1),
    "fasttext 5 epochs, lr 0.5": lambda threads: FastText(threads, epoch=5, lr=0.5),
    "fasttext 25 epochs": lambda threads: FastText(threads, epoch=25, lr=0.5),
    "vw 5 passes": lambda threads: VowpalWabbit(threads, passes=5),
    "vw 20 passes": lambda threads: VowpalWabbit(threads, passes=20),
    "sklearn sgd": lambda threads: ScikitLearn(threads, classifier="sgd"),
    "sklearn logistic": lambda threads: ScikitLearn(threads, classifier="logistic"),
}
"""By name; each is made with the number of threads that it may use."""

NGRAM_CONTENDERS: dict[str, Callable[[int], Contender]] = {
    "bowsprit, intents": lambda threads: Bowsprit(threads, **_recipe("intents")),
    "bowsprit, topics": lambda threads: Bowsprit(threads, **_recipe("topics")),
    "bowsprit, language-id": lambda threads: Bowsprit(threads, **_recipe("language-id")),
    "bowsprit, language-id, few parts": lambda threads: Bowsprit(
        threads,
        **_recipe("language-id")
        | {"CHAR_NGRAMS": "1-2", "MAX_CHAR_NGRAMS": "5000", "MIN_CHAR_NGRAM_COUNT": "50", "EPOCHS": "1"}
        | {"MAX_VOCABULARY": "3000", "WEIGHTING": "binary"},
    ),
    "fasttext wordNgrams 2": lambda threads: FastText(threads, epoch=50, lr=0.5, wordNgrams=2),
    "fasttext subwords 1-4": lambda threads: FastText(threads, epoch=5, lr=0.5, minn=1, maxn=4, dim=16),
    "sklearn tf-idf": lambda threads: ScikitLearnTfidf(threads),
}
"""Those whose features are more than tokens: `--ngrams` has them compete instead."""

FOR_FEW_ROWS = ("bowsprit, small steps",)
"""Those that are for few training rows, and are left out of larger tasks."""
FEW_ROWS = 20_000

SCALED = ("bowsprit", "bowsprit, GPU", "fasttext 5 epochs", "vw 5 passes")
"""Those whose time is shown against the number of tokens."""
