"""One run, stage by stage: from settings to a published bundle. The one module that imports `export`."""

import platform
from contextlib import ExitStack
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
from export.publish import FAILED, LATEST, alone, is_newer_than_latest, prepare_folder, staging
from job import tutorial
from job.corpus.memory import give_back_freed_memory, set_up_allocator
from job.corpus.prepare import Prepared
from job.device import Device, choose_device, device_errors
from job.features.specification import feature_spec
from job.from_settings import checkpoints_of, how_to_learn, initial_model, prepare_rows, quality_gate
from job.identity import SettingValues, default_name, is_published
from job.inputs import Inputs
from job.model import BowClassifier
from job.quality import Judgement, QualityGate, quality_error
from job.read import read_data
from job.run_lock import only_job
from job.run_record import run_record
from job.settings import Settings, not_shaping, shaping
from job.stages import StageClock
from job.stopping import Stop
from job.telling.output import Output
from job.training import checkpoint, metrics
from job.training.defaults import complete
from job.training.learn import Means, learn
from serving.bundle import FILES, open_bundle
from serving.cores import usable_cores
from serving.errors import PlatformError
from serving.parity.rungs import Rung, Tolerance, check
from serving.quality import read_failed_gate
from serving.weights import Parameters


def run(settings: Settings, output: Output, stop: Stop | None = None) -> Path | str:
    """Trains, exports, checks and publishes; returns where the bundle is, a URL in object storage.

    stop: what tells whether a signal came, where somebody listens for them.

    Raises what the stages raise, each a `BowspritError`, or Interrupted; nothing is published then, but
    for a QualityError, or an Interrupted that says so.
    """
    with destination(settings.output_dir, settings.keep_bundles) as place:
        # Everything is made in a folder of this machine, which need not be the one that was asked for.
        here = settings.model_copy(update={"output_dir": place.folder})
        return place.shown(_run(here, not_shaping(settings), place, output, stop or Stop()))


def _run(settings: Settings, asked: SettingValues, place: Destination, output: Output, stop: Stop) -> Path:
    """The bundle in the folder of `place`; `asked` is what run.json says of the settings."""
    clock = StageClock()
    if settings.run_name is not None:
        output.named(settings.run_name)
    set_up_allocator(keep_freed=settings.cache_dir is None)  # with a cache, memory is what is short
    num_threads = _use_threads(settings)
    device = choose_device(settings.device, settings.require_gpu)
    output.device(device, num_threads)
    prepare_folder(place.folder)
    if settings.checkpoint_dir is not None:
        checkpoint.prepare(settings.checkpoint_dir)

    with clock.stage("read"):
        rejected = place.rejected_list(settings.run_name)
        inputs = read_data(settings, rejected, num_threads)
    output.inputs(inputs)
    settings = _complete(settings, inputs, output)
    run_name = settings.run_name or default_name(shaping(settings), inputs.records)
    output.named(run_name)
    if settings.max_drop is not None or settings.min_accuracy is not None:
        place.pull_latest(whole=settings.max_drop is not None)
    gate = quality_gate(settings, inputs, place.folder / LATEST, num_threads)
    gate.check_latest()
    checkpoints = checkpoints_of(settings, inputs, run_name, stop, folder=place.folder, store=place.store)
    with ExitStack() as stack:
        # Runs with other output folders may keep their checkpoints in the same place.
        for folder in {each.resolve(): each for each in (place.folder, checkpoints.path.parent)}.values():
            stack.enter_context(only_job(folder, run_name))
        place.pull(run_name)
        bundle = place.folder / run_name
        means = Means(
            device=device,
            num_threads=num_threads,
            scratch=settings.cache_dir,
            for_people=output.for_people,
            checkpoints=checkpoints,
        )
        if not settings.overwrite and is_published(bundle, shaping(settings), inputs.records):
            judgement = _publish_again(bundle, gate, place, output, stop)
            checkpoints.discard()  # a job may have been ended between the two
        else:
            output.labels(inputs)
            _list_rejected(inputs, run_name, place, output)
            bundle, judgement = _make(settings, asked, inputs, run_name, means, clock, gate, place, output)
    if judgement.failed is not None:
        raise quality_error(judgement.failed, bundle, gate.latest)
    return bundle


def _make(
    settings: Settings,
    asked: SettingValues,
    inputs: Inputs,
    run_name: str,
    means: Means,
    clock: StageClock,
    gate: QualityGate,
    place: Destination,
    output: Output,
) -> tuple[Path, Judgement]:
    """From what was read to the published bundle: where it is, and what the quality gate said of it."""
    with clock.stage("encode"):
        prepared = prepare_rows(settings, inputs)
    output.prepared(prepared, inputs.label_names)
    check_size(prepared.token_bytes, inputs.label_names, table_bytes=prepared.table_bytes)

    with device_errors(means.device):
        model = initial_model(settings, inputs, prepared)
    before = tutorial.snapshot(model) if inputs.is_tutorial else None
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
    with staging(place.folder) as folder:
        with clock.stage("export"):
            write_model(folder, model, parameters, provenance)
            (folder / FILES.metrics).write_bytes(metrics.to_json(learned.scored))
        give_back_freed_memory()
        with clock.stage("verify"):
            rungs = _climb(folder, model, parameters, provenance, inputs, tolerance, means.device, output)
        output.parity(rungs)
        check(rungs, run_name)
        record = run_record(asked, clock, means, prepared, learned)
        output.trained(record.tokens_per_second)
        (folder / FILES.run).write_bytes(record.to_json())
        summaries = {use: each.summary for use, each in learned.scored.items()}
        seal(folder, parameters, provenance, summaries, rungs, tolerance)
        bundle, judgement = _publish(folder, run_name, gate, settings, place, output, means.checkpoints.stop)
    means.checkpoints.discard()
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


def _list_rejected(inputs: Inputs, run_name: str, place: Destination, output: Output) -> None:
    """Lists the rejected rows beside the bundle; a list that an earlier run left there goes."""
    path = place.rejected_list(run_name)
    if len(inputs.rejected):
        inputs.rejected.write(path)
        output.rejected(inputs.rejected, place.shown(path))
    else:
        place.remove_list(path)


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
    folder: Path,
    run_name: str,
    gate: QualityGate,
    settings: Settings,
    place: Destination,
    output: Output,
    stop: Stop,
) -> tuple[Path, Judgement]:
    """Publishes a sealed bundle, marked where it does not pass the quality gate."""
    with alone(place.folder):
        judgement = gate.judge(open_bundle(folder).manifest.metrics.get("test"))
        passed = judgement.failed is None
        if judgement.failed is not None:
            (folder / FILES.failed_gate).write_bytes(judgement.failed.to_json())
        # In object storage a name's bundles are those that passed: no retry moves `latest` to another.
        name = run_name if passed or place.store is None else f"{run_name}{FAILED}"
        overwrite = settings.overwrite or name != run_name
        stop.saved = f"{place.shown(place.folder / name)} was being published"
        bundle = place.publish(folder, name, overwrite=overwrite, move_latest=passed)
        _settle("published" if passed else "kept_back", bundle, place, output, stop)
        _retain(bundle, place, output)
    output.judged(judgement)
    (output.published if passed else output.kept_back)(place.shown(bundle))
    return bundle, judgement


def _publish_again(
    bundle: Path, gate: QualityGate, place: Destination, output: Output, stop: Stop
) -> Judgement:
    """Takes the last steps of publishing for a bundle that has its name, where a killed job has not.

    One that is marked is judged anew, by the limits and the bundle in service of now.
    """
    with alone(place.folder):
        # One that passed keeps its place: `latest` may have moved on to a better one since.
        with_latest = place.store is None and (
            read_failed_gate(bundle) is not None or is_newer_than_latest(bundle)
        )
        judgement = gate.judge(open_bundle(bundle).manifest.metrics.get("test"), with_latest=with_latest)
        passed = judgement.failed is None
        if passed:
            place.settle(bundle.name)
        _settle("already_published" if passed else "kept_back", bundle, place, output, stop)
        _retain(bundle, place, output)
    output.judged(judgement)
    if passed:
        output.already_published(place.shown(bundle), latest=place.latest())
    else:
        output.kept_back(place.shown(bundle))
    return judgement


def _settle(outcome: str, bundle: Path, place: Destination, output: Output, stop: Stop) -> None:
    """Lets whatever ends the run from here on, a signal for one, be told with the bundle that is there."""
    output.settled(outcome, open_bundle(bundle))
    stop.saved = f"{place.shown(bundle)} is {outcome.replace('_', ' ')}"


def _retain(bundle: Path, place: Destination, output: Output) -> None:
    """Removes old bundles; where that fails the new one is published all the same, and the next run tries."""
    try:
        output.removed(place.remove_old(bundle), place.keep)
    except PlatformError as error:
        output.not_removed(str(error))
