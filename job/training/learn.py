"""Training, from prepared data to a trained model and its metrics; its batches do not stay in memory."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from job.corpus.corpus import Corpus
from job.device import Device, device_errors
from job.model import BowClassifier
from job.stages import StageClock
from job.training import metrics
from job.training.batch import PackedBatch
from job.training.batch_stores import kept
from job.training.batches import prepare_batches, runs_of
from job.training.checkpoints import Checkpoints
from job.training.metrics import Metrics
from job.training.optimizer import Optimizer
from job.training.progress import show_progress
from job.training.train_state import EpochResult
from job.training.trainer import Plan, block_size, evaluate, finish, start, train
from serving.errors import TrainingError


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What training came to."""

    epochs: list[EpochResult]
    """Those that ran."""
    best_epoch: int | None
    """The one whose weights were kept, from 1; None for the last, without a patience."""
    scored: dict[str, Metrics]
    """By use: `validation`, `test`."""
    num_tokens: int
    """Known words of the training rows."""
    share: float
    """Of the steps, those that this process took: 1 where it did not go on from a checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Means:
    """With what to train, none of which changes the model."""

    device: Device
    num_threads: int
    scratch: Path | None
    """A folder for what memory need not hold."""
    for_people: bool
    """Whether somebody looks on."""
    checkpoints: Checkpoints


def learn(
    model: BowClassifier,
    corpora: Mapping[str, Corpus],
    label_names: list[str],
    optimizer: Optimizer,
    plan: Plan,
    means: Means,
    clock: StageClock,
) -> Learned:
    """Trains the model in place on the corpus `train`, and scores it on the others.

    The training rows leave memory, unless they share their blocks with validation rows.

    It goes on from a checkpoint of the same run, and keeps one where a signal ends it. Where it diverges the
    checkpoint goes, which leads there again and would keep out the run with other settings.

    Raises TrainingError where it diverges, PlatformError where the device, the memory or the disk fails,
    SettingsError where the checkpoint is of another run, and Interrupted where a signal came.
    """
    checkpoints = means.checkpoints
    with device_errors(means.device), _no_use_if_diverged(checkpoints), ExitStack() as stack:
        with clock.stage("batches"):
            # First, since the batches may take what then is left of a GPU's memory.
            state = start(model, optimizer, means.device.torch_device)
            prepared = _prepare(corpora["train"], len(label_names), plan, means)
            batches = stack.enter_context(kept(prepared, means.device, means.scratch))
        with clock.stage("train"), checkpoints.stop.deferred():
            checkpoints.resume(state)
            first_step = state.step
            num_steps = plan.epochs * len(batches) - state.step
            with show_progress(num_steps, plan.epochs, for_people=means.for_people) as progress:
                trained = train(
                    state,
                    batches,
                    optimizer,
                    plan,
                    validation=corpora.get("validation"),
                    on_step=progress.on_step,
                    on_epoch=progress.on_epoch,
                    checkpoints=checkpoints,
                )
        with clock.stage("evaluate"):
            scored = {
                use: metrics.compute(evaluate(state, corpora[use]), label_names)
                for use in ("validation", "test")
                if use in corpora
            }
        finish(state, model)
        return Learned(
            epochs=trained.epochs,
            best_epoch=trained.best_epoch,
            scored=scored,
            num_tokens=batches.num_tokens,
            share=1 - first_step / state.step,
        )


@contextmanager
def _no_use_if_diverged(checkpoints: Checkpoints) -> Iterator[None]:
    try:
        yield
    except TrainingError:
        checkpoints.stop.saved = None
        checkpoints.discard()
        raise


def _prepare(train: Corpus, num_labels: int, plan: Plan, means: Means) -> Iterator[PackedBatch]:
    runs = runs_of(
        train.drain(num_threads=means.num_threads),
        train.raw.num_tokens,
        seed=plan.seed,
        shuffle=plan.shuffle,
        scratch=means.scratch,
    )
    return prepare_batches(
        runs,
        batch_size=plan.batch_size,
        block_size=block_size(num_labels, means.device.torch_device),
        num_threads=means.num_threads,
    )
