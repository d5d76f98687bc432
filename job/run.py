"""One run, stage by stage: from settings to a published bundle. The one module that imports `export`."""

import contextlib
import platform
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import onnxruntime
import pyarrow as pa
import torch

from export.bundle import Provenance, seal, write_model
from export.gate import climb_all
from export.limits import check_size
from export.provider import why_unusable
from export.publish import point_latest_again, prepare_folder, publish, staging
from job import metrics, tutorial
from job.batches import Batch, prepare_batches
from job.cache import Cache
from job.dataset import DataSpec, TooManyRejected
from job.defaults import complete
from job.device import Device, choose_device, device_errors, peak_device_memory, usable_cores
from job.identity import default_name, is_published
from job.inputs import Inputs, read_inputs
from job.memory import keep_freed_memory, peak_memory
from job.metrics import Metrics
from job.model import BowClassifier, initialize_uniform
from job.optimizer import Optimizer
from job.output import Output
from job.prepare import Prepared, prepare, unseen_labels
from job.progress import show_progress
from job.run_record import EpochRecord, RunRecord, StageClock, host_facts
from job.settings import Settings, not_shaping, shaping
from job.stored_batches import stored
from job.trainer import EpochResult, Plan, TrainState, block_size, evaluate, finish, start, train
from serving.bundle import FILES, open_bundle
from serving.features import FeatureSpec
from serving.parity import Rung, Tolerance, check
from serving.weights import Parameters


def run(settings: Settings, output: Output) -> Path:
    """Trains, exports, checks and publishes; returns where the bundle is.

    Raises what the stages raise, each a `BowspritError`; nothing is published then.
    """
    clock = StageClock()
    if settings.cache_dir is None:  # with it, memory is what is short
        keep_freed_memory()
    num_threads = _use_threads(settings)
    device = choose_device(settings.device, settings.require_gpu)
    output.device(device, num_threads)
    prepare_folder(settings.output_dir)

    with clock.stage("read"):
        inputs = _read(settings, num_threads)
    output.inputs(inputs)
    settings = _complete(settings, inputs, output)
    run_name = settings.run_name or default_name(shaping(settings), inputs.records)
    bundle = settings.output_dir / run_name
    if not settings.overwrite and is_published(bundle, shaping(settings), inputs.records):
        point_latest_again(settings.output_dir, run_name)
        output.already_published(bundle)
        return bundle
    for use, names in unseen_labels(inputs).items():
        output.unseen_labels(use, names)
    _list_rejected(inputs, settings.output_dir / f"{run_name}.rejected.jsonl", output)

    with clock.stage("encode"):
        prepared = _prepare(settings, inputs)
    output.prepared(prepared, inputs.label_names)
    check_size(prepared.token_bytes, inputs.label_names)

    with device_errors(device), contextlib.ExitStack() as stack:
        model = _initialize(settings, inputs, prepared)
        before = tutorial.snapshot(model) if inputs.is_tutorial else None
        with clock.stage("batches"):
            batches = stack.enter_context(_batches(settings, inputs, prepared, device, num_threads))
        with clock.stage("train"):
            state, epochs = _train(settings, model, batches, prepared, device, output)
        with clock.stage("evaluate"):
            scored = _evaluate(state, prepared, inputs.label_names)
    finish(state, model)
    if before is not None:
        output.tutorial(before, tutorial.snapshot(model))
    output.metrics(scored)

    parameters = _parameters(model, prepared, inputs)
    provenance = _provenance(settings, inputs)
    tolerance = Tolerance(atol=settings.parity_atol, rtol=settings.parity_rtol)
    with staging(settings.output_dir) as folder:
        with clock.stage("export"):
            write_model(folder, model, parameters, provenance)
            (folder / FILES.metrics).write_bytes(metrics.to_json(scored))
        with clock.stage("verify"):
            rungs = _climb(folder, model, parameters, provenance, inputs, tolerance, device, output)
        output.parity(rungs)
        check(rungs, run_name)
        record = _record(settings, clock, device, num_threads, prepared, epochs)
        (folder / FILES.run).write_bytes(record.to_json())
        summaries = {use: each.summary for use, each in scored.items()}
        seal(folder, parameters, provenance, summaries, rungs, tolerance)
        publish(folder, settings.output_dir, run_name, overwrite=settings.overwrite)
    output.published(bundle, open_bundle(bundle).bundle_id)
    return bundle


def _use_threads(settings: Settings) -> int:
    """Gives torch and Arrow as many threads as the settings say, or as this process has cores."""
    num_threads = settings.num_threads or usable_cores()
    torch.set_num_threads(num_threads)
    pa.set_cpu_count(num_threads)
    return num_threads


def _read(settings: Settings, num_threads: int) -> Inputs:
    locations = {
        "train": settings.train_data,
        "validation": settings.validation_data,
        "test": settings.test_data,
    }
    specs = {
        use: DataSpec(
            location=location,
            format=settings.data_format,
            text_column=settings.text_column,
            label_column=settings.label_column,
            setting=f"BOW_{use.upper()}_DATA",
        )
        for use, location in locations.items()
        if location is not None
    }
    try:
        return read_inputs(
            specs,
            settings.vocabulary_file,
            num_threads=num_threads,
            max_rejected=settings.max_rejected,
            cache=None if settings.cache_dir is None else Cache(settings.cache_dir),
        )
    except TooManyRejected as error:
        # The run has no name yet where its name comes from the data.
        path = settings.output_dir / f"{settings.run_name or 'run'}.rejected.jsonl"
        if len(error.rejected):
            error.rejected.write(path)
            error.add_note(f"The rejected rows are listed in {path}")
        raise


def _complete(settings: Settings, inputs: Inputs, output: Output) -> Settings:
    num_rows = inputs.corpora["train"].num_rows
    completed = complete(settings, num_rows)
    if completed != settings:
        output.learning_plan(completed, num_rows)
    return completed


def _list_rejected(inputs: Inputs, path: Path, output: Output) -> None:
    """Lists the rejected rows beside the bundle; a list that an earlier run left there goes."""
    if len(inputs.rejected):
        inputs.rejected.write(path)
        output.rejected(len(inputs.rejected), path)
    else:
        path.unlink(missing_ok=True)


def _prepare(settings: Settings, inputs: Inputs) -> Prepared:
    return prepare(
        inputs,
        validation_split=settings.validation_split,
        seed=settings.seed,
        min_count=settings.min_count,
        max_size=settings.max_vocabulary,
        scratch=settings.cache_dir,
    )


def _initialize(settings: Settings, inputs: Inputs, prepared: Prepared) -> BowClassifier:
    """The model before training, on the CPU, so that the same seed draws the same weights for any device."""
    torch.manual_seed(settings.seed)
    if inputs.is_tutorial:
        tutorial.replay_draws()
    model = BowClassifier(len(inputs.label_names), len(prepared.vocabulary)).eval()
    if settings.init == "uniform":
        initialize_uniform(model)
    return model


@contextlib.contextmanager
def _batches(
    settings: Settings, inputs: Inputs, prepared: Prepared, device: Device, num_threads: int
) -> Iterator[Sequence[Batch]]:
    """On the GPU or in memory; those for the CPU in the cache's folder where there is one."""
    assert settings.batch_size is not None
    batches = prepare_batches(
        prepared.corpora["train"],
        batch_size=settings.batch_size,
        block_size=block_size(len(inputs.label_names), device.torch_device),
        seed=settings.seed,
        shuffle=settings.shuffle,
        num_threads=num_threads,
        scratch=settings.cache_dir,
    )
    if settings.cache_dir is not None and device.torch_device.type == "cpu":
        with stored(settings.cache_dir, batches) as on_disk:
            yield on_disk
    else:
        yield [batch.to(device.torch_device) for batch in batches]


def _train(
    settings: Settings,
    model: BowClassifier,
    batches: Sequence[Batch],
    prepared: Prepared,
    device: Device,
    output: Output,
) -> tuple[TrainState, list[EpochResult]]:
    assert settings.epochs is not None
    assert settings.learning_rate is not None
    optimizer = Optimizer(name=settings.optimizer, weight_decay=settings.weight_decay)
    plan = Plan(
        epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        schedule=settings.learning_rate_schedule,
        seed=settings.seed,
        shuffle=settings.shuffle,
    )
    state = start(model, optimizer, device.torch_device)
    with show_progress(plan.epochs * len(batches), plan.epochs, for_people=output.for_people) as progress:
        epochs = train(
            state,
            batches,
            optimizer,
            plan,
            validation=prepared.corpora.get("validation"),
            on_step=progress.on_step,
            on_epoch=progress.on_epoch,
        )
    return state, epochs


def _evaluate(state: TrainState, prepared: Prepared, label_names: list[str]) -> dict[str, Metrics]:
    return {
        use: metrics.compute(evaluate(state, prepared.corpora[use]), label_names)
        for use in ("validation", "test")
        if use in prepared.corpora
    }


def _parameters(model: BowClassifier, prepared: Prepared, inputs: Inputs) -> Parameters:
    return Parameters(
        weight=model.weight.detach().numpy(),
        bias=model.bias.detach().numpy(),
        vocabulary=prepared.vocabulary.words,
        labels=inputs.label_names,
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
        features=FeatureSpec(),
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
    texts = {f"{use} texts": inputs.corpora[use].sample}
    return climb_all(folder, model, parameters, provenance, texts, tolerance, provider=provider)


def _record(
    settings: Settings,
    clock: StageClock,
    device: Device,
    num_threads: int,
    prepared: Prepared,
    epochs: list[EpochResult],
) -> RunRecord:
    train_corpus = prepared.corpora["train"]
    num_tokens = len(train_corpus.ids)
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
        num_rows=train_corpus.num_rows,
        num_tokens=num_tokens,
        tokens_per_second=num_tokens * len(epochs) / clock.stages["train"].seconds,
        epochs=[
            EpochRecord(loss=epoch.loss, validation_accuracy=epoch.validation_accuracy) for epoch in epochs
        ],
        stages=clock.stages,
        peak_memory=peak_memory(),
        peak_device_memory=peak_device_memory(device),
    )
