"""One run, stage by stage: from settings to a published bundle. The one module that imports `export`."""

import platform
from importlib.metadata import version
from pathlib import Path

import onnxruntime
import pyarrow as pa
import torch

from export.bundle import Provenance, seal, write_model
from export.gate import climb_all
from export.limits import check_size
from export.provider import why_unusable
from export.publish import (
    LATEST,
    alone,
    is_newer_than_latest,
    point_latest_again,
    prepare_folder,
    publish,
    staging,
)
from export.retention import remove_old
from job import metrics, tutorial
from job.defaults import complete
from job.device import Device, choose_device, device_errors, peak_device_memory, usable_cores
from job.from_settings import checkpoints_of, how_to_learn, initial_model, prepare_rows, quality_gate
from job.identity import default_name, is_published
from job.inputs import Inputs
from job.learn import Learned, Means, learn
from job.memory import give_back_freed_memory, peak_memory, set_up_allocator
from job.model import BowClassifier
from job.output import Output
from job.prepare import Prepared, unseen_labels
from job.quality import Judgement, QualityGate, quality_error
from job.read import list_rejected, read_data
from job.run_lock import only_job
from job.run_record import EpochRecord, RunRecord, StageClock, host_facts
from job.settings import Settings, feature_spec, not_shaping, shaping
from job.stopping import Stop
from serving.bundle import FILES, open_bundle
from serving.parity import Rung, Tolerance, check
from serving.quality import read_failed_gate
from serving.weights import Parameters


def run(settings: Settings, output: Output, stop: Stop | None = None) -> Path:
    """Trains, exports, checks and publishes; returns where the bundle is.

    stop: what tells whether a signal came, where somebody listens for them.

    Raises what the stages raise, each a `BowspritError`, or Interrupted; nothing is published then, but
    for a QualityError.
    """
    clock = StageClock()
    if settings.run_name is not None:
        output.named(settings.run_name)
    set_up_allocator(keep_freed=settings.cache_dir is None)  # with a cache, memory is what is short
    num_threads = _use_threads(settings)
    device = choose_device(settings.device, settings.require_gpu)
    output.device(device, num_threads)
    prepare_folder(settings.output_dir)

    with clock.stage("read"):
        inputs = read_data(settings, num_threads)
    output.inputs(inputs)
    settings = _complete(settings, inputs, output)
    run_name = settings.run_name or default_name(shaping(settings), inputs.records)
    output.named(run_name)
    gate = quality_gate(settings, inputs, settings.output_dir / LATEST, num_threads)
    gate.check_latest()
    with only_job(settings.output_dir, run_name):
        bundle = settings.output_dir / run_name
        if not settings.overwrite and is_published(bundle, shaping(settings), inputs.records):
            judgement = _publish_again(bundle, gate, settings, output)
        else:
            for use, names in unseen_labels(inputs).items():
                output.unseen_labels(use, names)
            list_rejected(inputs, settings.output_dir / f"{run_name}.rejected.jsonl", output)
            bundle, judgement = _make(
                settings, inputs, run_name, device, num_threads, clock, stop or Stop(), gate, output
            )
    if judgement.failed is not None:
        raise quality_error(judgement.failed, bundle, gate.latest)
    return bundle


def _make(
    settings: Settings,
    inputs: Inputs,
    run_name: str,
    device: Device,
    num_threads: int,
    clock: StageClock,
    stop: Stop,
    gate: QualityGate,
    output: Output,
) -> tuple[Path, Judgement]:
    """From what was read to the published bundle: where it is, and what the quality gate said of it."""
    with clock.stage("encode"):
        prepared = prepare_rows(settings, inputs)
    output.prepared(prepared, inputs.label_names)
    check_size(prepared.token_bytes, inputs.label_names, table_bytes=prepared.table_bytes)

    with device_errors(device):
        model = initial_model(settings, inputs, prepared)
    before = tutorial.snapshot(model) if inputs.is_tutorial else None
    checkpoints = checkpoints_of(settings, inputs, run_name, stop)
    means = Means(
        device=device,
        num_threads=num_threads,
        scratch=settings.cache_dir,
        for_people=output.for_people,
        checkpoints=checkpoints,
    )
    learned = learn(
        model, prepared.corpora, inputs.label_names, *how_to_learn(settings), means=means, clock=clock
    )
    give_back_freed_memory()
    if before is not None:
        output.tutorial(before, tutorial.snapshot(model))
    output.best_epoch(learned.epochs, learned.best_epoch)
    output.metrics(learned.scored)

    parameters = _parameters(model, prepared, inputs)
    provenance = _provenance(settings, inputs)
    tolerance = Tolerance(atol=settings.parity_atol, rtol=settings.parity_rtol)
    with staging(settings.output_dir) as folder:
        with clock.stage("export"):
            write_model(folder, model, parameters, provenance)
            (folder / FILES.metrics).write_bytes(metrics.to_json(learned.scored))
        give_back_freed_memory()
        with clock.stage("verify"):
            rungs = _climb(folder, model, parameters, provenance, inputs, tolerance, device, output)
        output.parity(rungs)
        check(rungs, run_name)
        record = _record(settings, clock, device, num_threads, prepared, learned)
        output.trained(record.tokens_per_second)
        (folder / FILES.run).write_bytes(record.to_json())
        summaries = {use: each.summary for use, each in learned.scored.items()}
        seal(folder, parameters, provenance, summaries, rungs, tolerance)
        bundle, judgement = _publish(folder, run_name, gate, settings, output)
    checkpoints.discard()
    return bundle, judgement


def _use_threads(settings: Settings) -> int:
    """Gives torch and Arrow as many threads as the settings say, or as this process has cores."""
    num_threads = settings.num_threads or usable_cores()
    torch.set_num_threads(num_threads)
    pa.set_cpu_count(num_threads)
    return num_threads


def _complete(settings: Settings, inputs: Inputs, output: Output) -> Settings:
    num_rows = inputs.corpora["train"].num_rows
    completed = complete(settings, num_rows)
    if completed != settings:
        output.learning_plan(completed, num_rows)
    return completed


def _parameters(model: BowClassifier, prepared: Prepared, inputs: Inputs) -> Parameters:
    return Parameters(
        weight=model.weight.detach().numpy(),
        bias=model.bias.detach().numpy(),
        vocabulary=prepared.vocabulary.words,
        labels=inputs.label_names,
        spec=prepared.spec,
        idf=prepared.idf,
    )


def _provenance(settings: Settings, inputs: Inputs) -> Provenance:
    # onnxruntime has distributions of several names; torch's version tells its CUDA builds apart.
    versions = {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "onnxruntime": onnxruntime.__version__,
    }
    libraries = ("bowsprit", "numpy", "pyarrow", "onnx", "safetensors")
    return Provenance(
        settings=shaping(settings),
        data=inputs.records,
        versions=versions | {name: version(name) for name in libraries},
        features=feature_spec(settings),
    )


def _climb(
    folder: Path,
    model: BowClassifier,
    parameters: Parameters,
    provenance: Provenance,
    inputs: Inputs,
    tolerance: Tolerance,
    device: Device,
    output: Output,
) -> list[Rung]:
    use = "validation" if "validation" in inputs.corpora else "train"
    provider = device.onnx_provider
    reason = why_unusable(provider) if provider is not None else None
    if provider is not None and reason is not None:
        output.provider_unusable(provider[0], reason)
        provider = None
    texts = {f"{use} texts": inputs.samples[use]}
    return climb_all(folder, model, parameters, provenance, texts, tolerance, provider=provider)


def _publish(
    folder: Path, run_name: str, gate: QualityGate, settings: Settings, output: Output
) -> tuple[Path, Judgement]:
    """Publishes a sealed bundle, marked where it does not pass the quality gate."""
    with alone(settings.output_dir):
        judgement = gate.judge(open_bundle(folder).manifest.metrics.get("test"))
        passed = judgement.failed is None
        if judgement.failed is not None:
            (folder / FILES.failed_gate).write_bytes(judgement.failed.to_json())
        bundle = publish(
            folder, settings.output_dir, run_name, overwrite=settings.overwrite, move_latest=passed
        )
        _retain(bundle, settings, output)
    output.judged(judgement)
    (output.published if passed else output.kept_back)(open_bundle(bundle))
    return bundle, judgement


def _publish_again(bundle: Path, gate: QualityGate, settings: Settings, output: Output) -> Judgement:
    """Takes the last steps of publishing for a bundle that has its name, where a killed job has not.

    One that is marked is judged anew, by the limits and the bundle in service of now.
    """
    with alone(settings.output_dir):
        # One that passed keeps its place: `latest` may have moved on to a better one since.
        with_latest = read_failed_gate(bundle) is not None or is_newer_than_latest(bundle)
        judgement = gate.judge(open_bundle(bundle).manifest.metrics.get("test"), with_latest=with_latest)
        passed = judgement.failed is None
        if passed:
            point_latest_again(settings.output_dir, bundle.name)
        _retain(bundle, settings, output)
    output.judged(judgement)
    (output.already_published if passed else output.kept_back)(open_bundle(bundle))
    return judgement


def _retain(bundle: Path, settings: Settings, output: Output) -> None:
    if settings.keep_bundles is not None:
        output.removed(remove_old(settings.output_dir, settings.keep_bundles, bundle), settings.keep_bundles)


def _record(
    settings: Settings,
    clock: StageClock,
    device: Device,
    num_threads: int,
    prepared: Prepared,
    learned: Learned,
) -> RunRecord:
    return RunRecord(
        started=clock.started,
        seconds=clock.seconds,
        **host_facts(),
        device=str(device.torch_device),
        device_name=device.description,
        device_requested=device.requested,
        device_reason=device.reason,
        num_threads=num_threads,
        settings=not_shaping(settings),
        num_rows=prepared.corpora["train"].num_rows,
        num_tokens=learned.num_tokens,
        tokens_per_second=learned.num_tokens * len(learned.epochs) / clock.stages["train"].seconds,
        epochs=[
            EpochRecord(loss=epoch.loss, validation_accuracy=epoch.validation_accuracy)
            for epoch in learned.epochs
        ],
        best_epoch=learned.best_epoch,
        stages=clock.stages,
        peak_memory=peak_memory(),
        peak_device_memory=peak_device_memory(device),
    )
