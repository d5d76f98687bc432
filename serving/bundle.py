"""The bundle: which files it has, what its manifest says, and whether they are whole."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from serving.errors import ArtifactError
from serving.features.specification import FeatureSpec

SCHEMA_VERSION = 1
"""Raised when a reader of the last version could misread a bundle of the next."""


@dataclass(frozen=True)
class FileNames:
    """The one list of the files of a bundle."""

    manifest: str = "manifest.json"
    """What the bundle is: labels, feature specification, settings, data, metrics, parity, hashes. Its own
    SHA-256 is the bundle's ID."""
    text_model: str = "model.onnx"
    """Text in: `text` string [N]; out: `log_probs` float32 [N, K] and `label` string [N]."""
    bow_model: str = "bow.onnx"
    """What each feature counts in: `bow` float32 [N, V], the word counts where nothing else was chosen; out:
    `log_probs` float32 [N, K]."""
    torchscript: str = "model.ts"
    """TorchScript: `forward(bow [N, V])` and `score(ids, offsets)`, which takes `values` as well where
    features are weighted; with vocabulary.jsonl and labels.jsonl as extra files."""
    weights: str = "weights.safetensors"
    """The trained parameters: `weight` float32 [K, V] and `bias` float32 [K]; with `tfidf` also `idf` float32
    [V]."""
    vocabulary: str = "vocabulary.jsonl"
    """A feature's name a line, as a JSON string; line i (from 0) is the feature with id i. A word n-gram has
    spaces between its tokens, a character n-gram one before it."""
    labels: str = "labels.jsonl"
    """A label a line, as a JSON string, in the order of the log-probabilities."""
    golden: str = "golden.jsonl"
    """Texts made from the vocabulary, each with its log-probabilities in float64 by the trained model."""
    metrics: str = "metrics.json"
    """The metrics in full: by label, and the confusion counts."""
    run: str = "run.json"
    """What differs from run to run: times, host, device, speed, memory, paths. The manifest leaves it out."""
    failed_gate: str = "failed-gate.json"
    """Only in a bundle that did not pass the quality gate, so that `latest` was not moved to it: why, with
    the figures. The manifest leaves it out."""

    @property
    def hashed(self) -> list[str]:
        """The files whose hash and size stand in the manifest, in order of their names."""
        return sorted(set(asdict(self).values()) - {self.manifest, self.run, self.failed_gate})


FILES = FileNames()


class FileRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the manifest knows of a file."""

    sha256: str
    size: int
    """Bytes."""

    @classmethod
    def of(cls, path: Path) -> "FileRecord":
        """The record of a file on disk."""
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
        return cls(sha256=digest.hexdigest(), size=path.stat().st_size)


class DataRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A data set that the model was trained or scored on."""

    sha256: str
    """Of the decompressed files, one after the other."""
    rows: int
    """Rows that could be used."""
    rejected: int
    """Rows that could not."""


class MetricsSummary(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How well the model does on a data set; metrics.json has the same by label."""

    rows: int
    """Rows that were scored."""
    accuracy: float
    """The share of rows whose most probable label is the true one."""
    macro_f1: float
    """The mean of the F1 of the labels that occur or were predicted."""
    weighted_f1: float
    """The mean of the labels' F1, each counted as often as it occurs."""
    log_loss: float | None
    """Mean NLL in nats over the rows whose label the model has; None where there is none."""


class ParityRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How far the files' log-probabilities were from the trained model's before the bundle was published."""

    atol: float
    rtol: float
    largest_differences: dict[str, float]
    """By rung of the ladder."""


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `manifest.json` holds; the same run gives the same bytes."""

    schema_version: int
    labels: list[str]
    """In the order of the log-probabilities: [K]."""
    features: FeatureSpec
    vocabulary_size: int
    """V."""
    settings: dict[str, str | int | float | bool | None]
    """Those that shape the model."""
    data: dict[str, DataRecord]
    """By use: `train`, `validation`, `test`, and `vocabulary` where a file fixed it."""
    versions: dict[str, str]
    """Of the libraries that made the bundle."""
    metrics: dict[str, MetricsSummary]
    """By data set: `train`, `validation`, `test`."""
    parity: ParityRecord
    files: dict[str, FileRecord]

    def to_json(self) -> bytes:
        """The bytes of `manifest.json`."""
        return msgspec.json.format(msgspec.json.encode(self, order="deterministic"), indent=2) + b"\n"


def onnx_metadata(
    labels: list[str],
    features: FeatureSpec,
    settings: dict[str, str | int | float | bool | None],
    data: dict[str, DataRecord],
) -> dict[str, str]:
    """What the metadata of both ONNX files says, as JSON: enough to know a model by, away from its bundle."""
    parts = {"labels": labels, "features": features, "settings": settings, "data": data}
    return {
        f"bowsprit.{name}": msgspec.json.encode(part, order="deterministic").decode()
        for name, part in parts.items()
    }


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A bundle on disk whose manifest was read."""

    path: Path
    manifest: Manifest
    bundle_id: str
    """SHA-256 of the manifest, in hexadecimal."""

    def labels(self) -> list[str]:
        """The labels of `labels.jsonl`, which are the manifest's."""
        labels = read_strings(self.path / FILES.labels)
        if labels != self.manifest.labels:
            raise ArtifactError(
                f"{self.path / FILES.labels}: the labels or their order differ from {FILES.manifest}; "
                "the bundle was altered: get it again from where it was published"
            )
        return labels

    def vocabulary(self) -> list[str]:
        """The tokens of `vocabulary.jsonl`, as many as the manifest says."""
        tokens = read_strings(self.path / FILES.vocabulary)
        if len(tokens) != self.manifest.vocabulary_size:
            raise ArtifactError(
                f"{self.path / FILES.vocabulary}: {len(tokens):,} tokens, and {FILES.manifest} says "
                f"{self.manifest.vocabulary_size:,}; the bundle was altered: get it again"
            )
        return tokens


def open_bundle(path: Path) -> Bundle:
    """Reads the manifest of the bundle at `path`.

    Raises ArtifactError where there is no bundle, or one of another schema version.
    """
    # os.path's answer is False where pathlib's raises: for a name that is too long.
    if not os.path.isdir(path):  # noqa: PTH112
        found = "a file" if os.path.exists(path) else "nothing"  # noqa: PTH110
        raise ArtifactError(
            f"{path}: expected a bundle, a folder with {FILES.manifest}; found {found}. "
            "Name the folder that the training job published, for example artifacts/latest"
        )
    manifest_path = path / FILES.manifest
    try:
        data = manifest_path.read_bytes()
    except FileNotFoundError:
        raise ArtifactError(
            f"{path}: expected a bundle; found no {FILES.manifest} in the folder. It is written last, so "
            "a bundle without it is incomplete: copy it whole, or train again"
        ) from None
    except OSError as error:
        raise ArtifactError(f"{manifest_path}: cannot be read ({error.strerror})") from error
    return Bundle(
        path=path, manifest=_decode(data, manifest_path), bundle_id=hashlib.sha256(data).hexdigest()
    )


def check_id(bundle: Bundle, expected: str | None) -> None:
    """Raises ArtifactError where a bundle is not the one with the expected ID; None takes any."""
    if expected is not None and bundle.bundle_id != expected.lower():
        raise ArtifactError(
            f"{bundle.path}: expected the bundle {expected}, found {bundle.bundle_id}; this is another "
            f"bundle, or {FILES.manifest} was altered"
        )


def check_files(bundle: Bundle, names: Sequence[str] = FILES.hashed) -> None:
    """Compares the size and SHA-256 of files, all of them unless named, with the manifest's.

    Raises ArtifactError that names every file which is missing or differs.
    """
    problems = []
    expected = bundle.manifest.files
    if sorted(expected) != FILES.hashed:
        problems.append(
            f"{FILES.manifest} lists {', '.join(sorted(expected)) or 'no file'}; "
            f"a bundle has {', '.join(FILES.hashed)}"
        )
    for name in names:
        try:
            found = FileRecord.of(bundle.path / name)
        except OSError as error:
            problems.append(f"{name} cannot be read ({error.strerror})")
            continue
        if name in expected and found != expected[name]:
            problems.append(
                f"{name} differs: {found.size:,} bytes with SHA-256 {found.sha256[:12]}…, and the manifest "
                f"says {expected[name].size:,} with {expected[name].sha256[:12]}…"
            )
    if problems:
        raise ArtifactError(
            f"{bundle.path}: the bundle is damaged: " + "; ".join(problems) + ". Get it again, or train again"
        )


def strings_to_jsonl(values: list[str]) -> bytes:
    """JSON strings, one a line.

    >>> strings_to_jsonl(["me", 'a"b'])
    b'"me"\\n"a\\\\"b"\\n'
    """
    return msgspec.json.Encoder().encode_lines(values)


def read_strings(path: Path) -> list[str]:
    """Reads what `strings_to_jsonl` wrote."""
    return read_lines(path, str)


T = TypeVar("T")


def read_lines(path: Path, of: type[T]) -> list[T]:
    """Reads JSON lines, each of the type `of`.

    Raises ArtifactError where the file is missing or a line is not of that type.
    """
    try:
        return msgspec.json.Decoder(of).decode_lines(path.read_bytes())
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror}); the bundle is incomplete") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ArtifactError(
            f"{path}: is not what a bundle holds there ({error}); get the bundle again"
        ) from error


class _Version(msgspec.Struct):
    schema_version: int


def _decode(data: bytes, path: Path) -> Manifest:
    """The manifest; its version is looked at first, since another version may have other fields."""
    try:
        version = msgspec.json.decode(data, type=_Version).schema_version
        if version == SCHEMA_VERSION:
            manifest = msgspec.json.decode(data, type=Manifest)
            if manifest.labels and manifest.vocabulary_size > 0:
                return manifest
            raise ArtifactError(f"{path}: a model without labels or without words; get the bundle again")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ArtifactError(
            f"{path}: is not a manifest that this release can read ({error}); get the bundle again"
        ) from error
    raise ArtifactError(
        f"{path}: schema version {version}, and this release reads {SCHEMA_VERSION}; "
        f"use the release of bowsprit that made the bundle, or train again"
    )
