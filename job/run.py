"""One run, stage by stage: from settings to a published bundle. The one module that imports `export`."""

import platform
from importlib.metadata import version
from pathlib import Path

import onnxruntime
import pyarrow as pa
import torch

from export.bundle import Provenance, seal, write_model
from export.destination import Destination, destination
from export.gate import climb_all
from export.limits import check_size
from export.provider import why_unusable
from export.publish import point_latest_again, prepare_folder, publish, staging
from job import metrics, tutorial
from job.cache import Cache
from job.dataset import DataSpec, TooManyRejected
from job.defaults import complete
from job.device import Device, choose_device, device_errors, peak_device_memory, usable_cores
from job.fetch import fetched
from job.identity import default_name, is_published
from job.inputs import Inputs, read_inputs
from job.learn import Learned, Means, learn
from job.memory import give_back_freed_memory, peak_memory, set_up_allocator
from job.model import BowClassifier, initialize_uniform
from job.ngrams import Limits
from job.optimizer import Optimizer
from job.output import Output
from job.prepare import FeatureLimits, Prepared, prepare, unseen_labels
from job.run_record import EpochRecord, RunRecord, StageClock, host_facts
from job.settings import Settings, feature_spec, not_shaping, shaping
from job.trainer import Plan
from serving.bundle import FILES, open_bundle
from serving.parity import Rung, Tolerance, check
from serving.weights import Parameters


def run(settings: Settings, output: Output) -> Path | str:
    """Trains, exports, checks and publishes; returns where the bundle is.

    Raises what the stages raise, each a `BowspritError`; nothing is published then.
    """
    with destination(settings.output_dir) as place:
        return _run(settings, output, place)


def _run(settings: Settings, output: Output, place: Destination) -> Path | str:
    clock = StageClock()
    set_up_allocator(keep_freed=settings.cache_dir is None)  # with a cache, memory is what is short
    num_threads = _use_threads(settings)
    device = choose_device(settings.device, settings.require_gpu)
    output.device(device, num_threads)
    prepare_folder(place.folder)

    with clock.stage("read"):
        inputs = _read(settings, place, num_threads)
    output.inputs(inputs)
    settings = _complete(settings, inputs, output)
    run_name = settings.run_name or default_name(shaping(settings), inputs.records)
    place.pull(run_name)
    bundle = place.folder / run_name
    if not settings.overwrite and is_published(bundle, shaping(settings), inputs.records):
        point_latest_again(place.folder, run_name)
        place.settle(run_name)
        output.already_published(place.shown(bundle))
        return place.shown(bundle)
    for use, names in unseen_labels(inputs).items():
        output.unseen_labels(use, names)
    _list_rejected(inputs, f"{run_name}.rejected.jsonl", place, output)

    with clock.stage("encode"):
        prepared = _prepare(settings, inputs)
    output.prepared(prepared, inputs.label_names)
    check_size(prepared.token_bytes, inputs.label_names, table_bytes=prepared.table_bytes)

    with device_errors(device):
        model = _initialize(settings, inputs, prepared)
    before = tutorial.snapshot(model) if inputs.is_tutorial else None
    means = Means(
        device=device, num_threads=num_threads, scratch=settings.cache_dir, for_people=output.for_people
    )
    learned = learn(
        model, prepared.corpora, inputs.label_names, *_how_to_learn(settings), means=means, clock=clock
    )
    give_back_freed_memory()
    if before is not None:
        output.tutorial(before, tutorial.snapshot(model))
    output.metrics(learned.scored)

    parameters = _parameters(model, prepared, inputs)
    provenance = _provenance(settings, inputs)
    tolerance = Tolerance(atol=settings.parity_atol, rtol=settings.parity_rtol)
    with staging(place.folder) as folder:
        with clock.stage("export"):
            write_model(folder, model, parameters, provenance)
            (folder / FILES.metrics).write_bytes(metrics.to_json(learned.scored))
        give_back_freed_memory()
        with clock.stage("verify"):
            rungs = _climb(folder, model, parameters, provenance, inputs, tolerance, device, output)
        output.parity(rungs)
        check(rungs, run_name)
        record = _record(settings, clock, device, num_threads, prepared, learned)
        (folder / FILES.run).write_bytes(record.to_json())
        summaries = {use: each.summary for use, each in learned.scored.items()}
        seal(folder, parameters, provenance, summaries, rungs, tolerance)
        publish(folder, place.folder, run_name, overwrite=settings.overwrite)
    place.push(run_name, overwrite=settings.overwrite)
    output.published(place.shown(bundle), open_bundle(bundle).bundle_id)
    return place.shown(bundle)


def _use_threads(settings: Settings) -> int:
    """Gives torch and Arrow as many threads as the settings say, or as this process has cores."""
    num_threads = settings.num_threads or usable_cores()
    torch.set_num_threads(num_threads)
    pa.set_cpu_count(num_threads)
    return num_threads


def _read(settings: Settings, place: Destination, num_threads: int) -> Inputs:
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
        with fetched(specs, settings.cache_dir) as at_hand:
            return read_inputs(
                at_hand,
                settings.vocabulary_file,
                num_threads=num_threads,
                max_rejected=settings.max_rejected,
                max_vocabulary=settings.max_vocabulary,
                features=feature_spec(settings),
                cache=None if settings.cache_dir is None else Cache(settings.cache_dir),
            )
    except TooManyRejected as error:
        # The run has no name yet where its name comes from the data.
        path = place.folder / f"{settings.run_name or 'run'}.rejected.jsonl"
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


def _list_rejected(inputs: Inputs, name: str, place: Destination, output: Output) -> None:
    """Lists the rejected rows beside the bundle; a list that an earlier run left there goes."""
    path = place.folder / name
    if len(inputs.rejected):
        inputs.rejected.write(path)
        output.rejected(len(inputs.rejected), place.shown(path))
    else:
        path.unlink(missing_ok=True)


def _prepare(settings: Settings, inputs: Inputs) -> Prepared:
    return prepare(
        inputs,
        validation_split=settings.validation_split,
        seed=settings.seed,
        spec=feature_spec(settings),
        limits=FeatureLimits(
            tokens=Limits(min_count=settings.min_count, max_size=settings.max_vocabulary),
            word_ngrams=Limits(min_count=settings.min_word_ngram_count, max_size=settings.max_word_ngrams),
            char_ngrams=Limits(min_count=settings.min_char_ngram_count, max_size=settings.max_char_ngrams),
        ),
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


def _how_to_learn(settings: Settings) -> tuple[Optimizer, Plan]:
    assert settings.epochs is not None
    assert settings.batch_size is not None
    assert settings.learning_rate is not None
    plan = Plan(
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        learning_rate=settings.learning_rate,
        schedule=settings.learning_rate_schedule,
        seed=settings.seed,
        shuffle=settings.shuffle,
    )
    return Optimizer(name=settings.optimizer, weight_decay=settings.weight_decay), plan


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
        stages=clock.stages,
        peak_memory=peak_memory(),
        peak_device_memory=peak_device_memory(device),
    )
