"""A bundle in memory, proven and ready to classify: what every way of serving it stands on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np

from serving.bundle import FILES, Bundle, check_files, check_id, open_bundle
from serving.errors import DataError
from serving.helpers import Helpers
from serving.parity.golden import read_golden
from serving.parity.reference import Scores
from serving.parity.rungs import Tolerance, check, compare
from serving.quality import read_failed_gate
from serving.selection import Prediction, select
from serving.session import CPU, Float32, TextModel, strings
from serving.storage.store import is_url

PIECE = 48
"""Texts that the model is given at a time, at most, those of like length together: the rows of all their
words then stay in the processor's cache, and short texts are not padded to a long one's length."""
NGRAM_PIECE = 16
"""The same where features are n-grams, of which a text has many: as many as the model takes at a time."""
USED = (FILES.golden, FILES.labels, FILES.text_model)
"""The files of a bundle that classifying needs, beside the manifest."""


class Predictor:
    """A bundle's text model. Several threads may use one at a time.

    predictor = Predictor.load("artifacts/latest")
    predictor.predict(["where is my parcel"])   # [[Prediction(label="delivery", prob=0.93, ...)]]
    predictor.log_probs(["where is my parcel"])  # float32 [1, K]
    """

    def __init__(self, bundle: Bundle, model: TextModel, threads: int = 1) -> None:
        """`load` makes one."""
        self._bundle = bundle
        self._model = model
        self._helpers = Helpers(threads - 1)
        self._piece = NGRAM_PIECE if bundle.manifest.features.has_ngrams else PIECE
        self.labels = bundle.manifest.labels
        """In the order of the log-probabilities: [K]."""
        self.failed_gate = read_failed_gate(bundle.path)
        """Why the bundle did not pass the quality gate; None where it passed, or was not judged."""

    @classmethod
    def load(
        cls,
        source: Path | str,
        *,
        providers: Sequence[str] = (CPU[0],),
        expected_id: str | None = None,
        threads: int = 1,
    ) -> Self:
        """Opens a bundle, checks it against its manifest, and replays its golden examples.

        source: the bundle's folder, or the URL of one, such as s3://bucket/models/latest.
        providers: onnxruntime's execution providers, the preferred one first.
        expected_id: the ID that the bundle must have.
        threads: that share a long list, at most; each takes some hundred texts.

        Raises ArtifactError where the bundle is damaged or another one, ParityError where this onnxruntime
        gives other log-probabilities than the trained model, SettingsError where no provider is usable, and
        what `serving.storage.store` raises for a URL.
        """
        if threads < 1:
            raise ValueError(f"expected threads from 1, found {threads}")
        if not is_url(source):
            return cls._load(Path(source), providers, expected_id, threads)
        from serving.storage.published import fetched

        with fetched(str(source), (*USED, FILES.failed_gate)) as folder:
            return cls._load(folder, providers, expected_id, threads)

    @classmethod
    def _load(cls, folder: Path, providers: Sequence[str], expected_id: str | None, threads: int) -> Self:
        bundle = open_bundle(folder)
        check_id(bundle, expected_id)
        check_files(bundle, USED)
        model = TextModel(folder / FILES.text_model, len(bundle.labels()), providers)
        predictor = cls(bundle, model, threads)
        predictor._replay()
        return predictor

    def _replay(self) -> None:
        """Classifies the golden examples, one by one and all at once: a proof, and the warm-up."""
        texts, expected = read_golden(self._bundle.path, self.labels)
        tolerance = Tolerance()
        scores = Scores(log_probs=expected, rounding_scale=np.zeros(len(expected)))
        name = f"{FILES.text_model}, {self.provider}"
        found = (
            self.log_probs(texts),
            np.concatenate([self.log_probs([text]) for text in texts]),
        )
        check(
            [compare(name, "golden texts", each, scores, tolerance, float32_sums=False) for each in found],
            str(self._bundle.path),
        )

    @property
    def bundle_id(self) -> str:
        """SHA-256 of the bundle's manifest, in hexadecimal."""
        return self._bundle.bundle_id

    @property
    def version(self) -> str:
        """The first 12 digits of the bundle's ID: enough to tell bundles apart, and to name one in a URL."""
        return self._bundle.bundle_id[:12]

    @property
    def provider(self) -> str:
        """The execution provider that onnxruntime really uses."""
        return self._model.provider

    def log_probs(self, texts: Sequence[str]) -> Float32:
        """The log-probabilities, float32 [N, K]; N may be 0.

        Raises DataError where a text holds NUL or a lone surrogate, TypeError where it is no text.
        """
        _check_texts(texts)
        number = len(texts)
        if number <= self._piece:
            return self._model.log_probs(texts)
        order = np.argsort(np.fromiter(map(len, texts), dtype=np.int64, count=number), kind="stable")
        in_order = strings(texts)[order]
        size = -(-number // -(-number // self._piece))  # that of all pieces, but for the last one
        found = np.empty((number, len(self.labels)), dtype=np.float32)

        def classify(piece: int) -> None:
            some = slice(piece * size, (piece + 1) * size)
            found[order[some]] = self._model.log_probs(in_order[some])

        self._helpers.share(classify, -(-number // size))
        return found

    def predict(
        self, texts: Sequence[str], *, top_k: int = 1, threshold: float = 0.0
    ) -> list[list[Prediction]]:
        """The `top_k` most probable labels of each text, those with a probability of at least `threshold`.

        Raises as `log_probs` does, and ValueError for a top_k below 1 or a threshold beyond 0 to 1.
        """
        if top_k < 1 or not 0 <= threshold <= 1:
            raise ValueError(
                f"expected a top_k from 1 and a threshold from 0 to 1, found {top_k} and {threshold}"
            )
        return select(self.log_probs(texts), self.labels, top_k, threshold)


def _check_texts(texts: Sequence[str]) -> None:
    if isinstance(texts, str):
        raise TypeError("expected a list of texts, found a single text; put it into a list")
    try:
        together = "".join(texts)
        if "\0" not in together and (together.isascii() or not _has_surrogate(together)):
            return
    except TypeError:
        pass  # one of them is no text: which?
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"expected texts, found {type(text).__name__} at place {number}")
        # Some runtimes end a text there, and others do not.
        if "\0" in text:
            raise DataError(f"text {number}: holds a NUL character, which no text may; remove it")
        if not text.isascii() and _has_surrogate(text):
            raise DataError(
                f"text {number}: holds half of a surrogate pair, which UTF-8 cannot carry; decode it properly"
            )


def _has_surrogate(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False
