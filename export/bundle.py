"""Writes the files of a bundle: the model in four formats, words, labels, golden examples, the manifest."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import msgspec
from safetensors.numpy import save
from torch import nn

from export import bow_graph, text_graph, torchscript
from export.golden import golden_examples
from serving.bundle import (
    FILES,
    SCHEMA_VERSION,
    DataRecord,
    FileRecord,
    Manifest,
    MetricsSummary,
    ParityRecord,
    onnx_metadata,
    strings_to_jsonl,
)
from serving.features.specification import FeatureSpec
from serving.parity.rungs import Rung, Tolerance
from serving.weights import Parameters


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a model comes from: what the manifest says of it beside its words and labels."""

    settings: dict[str, str | int | float | bool | None]
    """Those that shape the model."""
    data: dict[str, DataRecord]
    versions: dict[str, str]
    features: FeatureSpec

    def onnx_metadata(self, labels: Sequence[str]) -> dict[str, str]:
        """What the metadata of both ONNX files says."""
        return onnx_metadata(list(labels), self.features, self.settings, self.data)


def write_model(folder: Path, model: nn.Module, parameters: Parameters, provenance: Provenance) -> None:
    """Writes every file that holds the model or tests it.

    model: on the CPU, in evaluation mode; `parameters` are its own.
    """
    weight, bias = parameters.weight, parameters.bias
    vocabulary, labels = list(parameters.vocabulary), list(parameters.labels)
    metadata = provenance.onnx_metadata(labels)
    extra_files = {FILES.vocabulary: strings_to_jsonl(vocabulary), FILES.labels: strings_to_jsonl(labels)}
    # Writing takes as long as all the rest, and leaves Python free to make the next file.
    with ThreadPoolExecutor(2) as pool:
        written: list[Future[object]] = [
            pool.submit((folder / name).write_bytes, content) for name, content in extra_files.items()
        ]
        bow_file = bow_graph.build(weight, bias, metadata)
        written.append(pool.submit(bow_file.write, folder / FILES.bow_model))
        # It holds A transposed, which torch makes several times as fast as numpy.
        table = model.get_parameter("weight").detach().t().contiguous().numpy()
        features = None
        if parameters.tables is not None:
            features = text_graph.Features(tables=parameters.tables, idf=parameters.idf)
        text_file = text_graph.build(table.T, bias, vocabulary, labels, metadata, features)
        written.append(pool.submit(text_file.write, folder / FILES.text_model))
        tensors = save(
            {"weight": weight, "bias": bias} | ({} if parameters.idf is None else {"idf": parameters.idf})
        )
        written.append(pool.submit((folder / FILES.weights).write_bytes, tensors))
        torchscript.write(folder / FILES.torchscript, model, extra_files)
        examples = golden_examples(parameters)
        (folder / FILES.golden).write_bytes(msgspec.json.Encoder().encode_lines(examples))
    for each in written:
        each.result()


def seal(
    folder: Path,
    parameters: Parameters,
    provenance: Provenance,
    metrics: Mapping[str, MetricsSummary],
    rungs: Sequence[Rung],
    tolerance: Tolerance,
) -> None:
    """Writes the manifest, the last file: from here on the folder is a bundle."""
    differences: dict[str, float] = {}
    for rung in rungs:
        differences[rung.name] = max(differences.get(rung.name, 0.0), rung.largest_difference)
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        labels=list(parameters.labels),
        features=provenance.features,
        vocabulary_size=len(parameters.vocabulary),
        settings=provenance.settings,
        data=provenance.data,
        versions=provenance.versions,
        metrics=dict(metrics),
        parity=ParityRecord(atol=tolerance.atol, rtol=tolerance.rtol, largest_differences=differences),
        files={name: FileRecord.of(folder / name) for name in FILES.hashed},
    )
    unfinished = folder / f".{FILES.manifest}"
    unfinished.write_bytes(manifest.to_json())
    unfinished.rename(folder / FILES.manifest)
