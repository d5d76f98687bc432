"""What each stage is given, from the settings: the one place that knows which of them it needs."""

from pathlib import Path

import torch

from job import tutorial
from job.corpus.prepare import FeatureLimits, Prepared, prepare
from job.features.ngrams import Limits
from job.features.specification import feature_spec
from job.inputs import Inputs
from job.model import BowClassifier, initialize_uniform
from job.quality import QualityGate
from job.read import test_data
from job.settings import Settings, shaping
from job.stopping import Stop
from job.training.checkpoint import Identity
from job.training.checkpoints import Checkpoints, Copy
from job.training.optimizer import Optimizer
from job.training.trainer import Plan
from serving.storage.store import Store


def quality_gate(settings: Settings, inputs: Inputs, latest: Path, num_threads: int) -> QualityGate:
    """The limits for a model to go into service; `latest` is the link to the one that is."""
    return QualityGate(
        min_accuracy=settings.min_accuracy,
        max_drop=settings.max_drop,
        latest=latest,
        test=test_data(settings, inputs, num_threads),
    )


def prepare_rows(settings: Settings, inputs: Inputs) -> Prepared:
    """The vocabulary, and the rows in its numbers; raises what `prepare` raises."""
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
        class_weights=settings.class_weights,
    )


def initial_model(settings: Settings, inputs: Inputs, prepared: Prepared) -> BowClassifier:
    """The model before training, on the CPU, so that the same seed draws the same weights for any device."""
    torch.manual_seed(settings.seed)
    if inputs.is_tutorial:
        tutorial.replay_draws()
    model = BowClassifier(len(inputs.label_names), len(prepared.vocabulary)).eval()
    if settings.init == "uniform":
        initialize_uniform(model)
    return model


def checkpoints_of(
    settings: Settings, inputs: Inputs, run_name: str, stop: Stop, *, folder: Path, store: Store | None
) -> Checkpoints:
    """The run's checkpoints: where BOW_CHECKPOINT_DIR says, else beside the bundle.

    folder, store: where the bundle is made, and the object storage that gets it.
    """
    beside = folder / f".{run_name}.checkpoint"
    match settings.checkpoint_dir:
        case None:
            path, remote = beside, None if store is None else Copy(store=store, key=beside.name)
        case Path() as own:
            path, remote = own / f"{run_name}.checkpoint", None
        case str() as url:
            path, remote = beside, Copy(store=Store(url), key=f"{run_name}.checkpoint")
    return Checkpoints(
        path=path,
        copy=remote,
        stays=path != beside or store is None,
        identity=Identity(settings=shaping(settings), data=inputs.records),
        every=settings.checkpoint_every,
        grace=settings.grace_seconds,
        replaces=settings.overwrite,
        stop=stop,
    )


def how_to_learn(settings: Settings) -> tuple[Optimizer, Plan]:
    """How the weights change, and how often; `job.training.defaults` has filled in what was left open."""
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
        patience=settings.patience,
    )
    return Optimizer(name=settings.optimizer, weight_decay=settings.weight_decay), plan
