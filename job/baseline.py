"""The bundle in service and its accuracy on this run's test data: what a new model is compared with."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from job import tutorial
from job.dataset import DataSpec, Rows, read
from job.fetch import fetched
from job.identity import SettingValues
from serving.bundle import FILES, Bundle, DataRecord, check_files, open_bundle
from serving.errors import ArtifactError, DataError
from serving.session import TextModel

READ_BY = ("data_format", "text_column", "label_column")
"""The settings that decide which rows the same files give."""
BATCH = 1024
"""Texts that the model in service is given at once."""


@dataclass(frozen=True, kw_only=True)
class TestData:
    """This run's test data, which can be read once more."""

    __test__ = False  # pytest takes every class of such a name for tests

    spec: DataSpec | None
    """None is the tutorial's test sentences."""
    record: DataRecord
    """What the manifest says of it."""
    settings: SettingValues
    """Those that shape the model."""
    cache_dir: Path | None
    """Where copies of objects are kept."""
    num_threads: int


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """The bundle in service, as a new one is compared with it."""

    run: str
    """Its name."""
    accuracy: float
    """On this run's test data."""
    scored_anew: bool
    """Whether its own manifest has no figure for these rows."""


def open_latest(link: Path) -> Bundle | None:
    """The bundle that `latest` names; None where there is no link, or one to a bundle that was deleted.

    Raises ArtifactError where what it names is not a bundle: a gate that cannot compare must not open.
    """
    if not link.exists():
        return None
    try:
        return open_bundle(link.resolve())
    except ArtifactError as error:
        raise ArtifactError(
            f"{link}: BOW_MAX_DROP compares with the bundle that it names, which cannot be read ({error}). "
            "Point it at a whole bundle, or remove it to begin anew"
        ) from error


def baseline_of(bundle: Bundle, test: TestData) -> Baseline:
    """How well the bundle in service does on the same rows as the new one.

    That is its manifest's figure where it was scored on these rows, else that of its `model.onnx` on them: a
    figure of other rows says nothing about which model is better. Rows with labels that it does not have
    count as wrong, as they do for the new one.

    Raises ArtifactError where the bundle is damaged, DataError where the test data changed since it was read.
    """
    manifest = bundle.manifest
    same_rows = manifest.data.get("test") == test.record and all(
        manifest.settings.get(name) == test.settings.get(name) for name in READ_BY
    )
    if same_rows and "test" in manifest.metrics:
        accuracy, scored_anew = manifest.metrics["test"].accuracy, False
    else:
        accuracy, scored_anew = _score(bundle, test), True
    return Baseline(run=bundle.path.name, accuracy=accuracy, scored_anew=scored_anew)


def _score(bundle: Bundle, test: TestData) -> float:
    """The share of the test rows whose label `model.onnx` gives."""
    check_files(bundle, [FILES.labels, FILES.text_model])
    model = TextModel(bundle.path / FILES.text_model, len(bundle.labels()))

    def num_right(rows: Rows) -> int:
        texts, labels = rows.texts.to_pylist(), rows.labels.to_pylist()
        right = 0
        for start in range(0, len(texts), BATCH):
            _, predicted = model.predict(texts[start : start + BATCH])
            right += sum(map(str.__eq__, predicted, labels[start : start + BATCH]))
        return right

    if test.spec is None:
        texts, labels = zip(*tutorial.TEST, strict=True)
        return num_right(Rows(texts=pa.array(texts), labels=pa.array(labels))) / len(texts)
    counts: list[int] = []
    # How many rows may be unusable was judged when they were read first.
    with fetched({"test": test.spec}, test.cache_dir) as at_hand:
        summary = read(
            at_hand["test"], num_right, counts.append, num_threads=test.num_threads, max_rejected=1.0
        )
    if summary.fingerprint != test.record.sha256:
        raise DataError(
            f"{test.spec.setting}={test.spec.location}: the files changed while the job ran, and the new "
            "model and the one in service can only be compared on the same rows; run it again when nothing "
            "writes them"
        )
    return sum(counts) / summary.num_rows
