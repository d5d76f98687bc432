"""What only a machine with a GPU can show: the same training there, and the gate on it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from job.batches import prepare_batches
from job.corpus import Corpus, offsets_of
from job.model import BowClassifier
from job.optimizer import Optimizer, OptimizerName
from job.output import Output
from job.run import run
from job.settings import load_settings
from job.trainer import Plan, evaluate, finish, start, train
from serving.parity import check
from serving.verify import verify

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU"),
]


def random_corpus(num_rows: int) -> Corpus:
    generator = np.random.default_rng(0)
    lengths = generator.integers(0, 20, num_rows)
    lengths[:64] = 0  # a batch without a token
    return Corpus(
        ids=generator.integers(0, 500, lengths.sum()).astype(np.int32),
        offsets=offsets_of(lengths),
        labels=generator.integers(0, 7, num_rows),
    )


def trained_on(device: torch.device, optimizer: Optimizer) -> tuple[BowClassifier, float]:
    corpus, model = random_corpus(1000), BowClassifier(7, 500)
    batches = list(
        prepare_batches(corpus, batch_size=64, block_size=1 << 31, seed=1, shuffle=False, num_threads=1)
    )
    state = start(model, optimizer, device)
    plan = Plan(epochs=3, learning_rate=0.1, schedule="linear", seed=1, shuffle=True)
    train(state, [batch.to(device) for batch in batches], optimizer, plan, validation=corpus)
    accuracy = evaluate(state, corpus).accuracy
    finish(state, model)
    return model, accuracy


@pytest.mark.parametrize("name", ["sgd", "adagrad", "adam", "rmsprop"])
def test_the_gpu_trains_the_same_model_as_the_cpu(name: OptimizerName) -> None:
    """If it failed, a model would depend on where it was trained by more than rounding."""
    optimizer = Optimizer(name=name, weight_decay=0.01)
    there, accuracy_there = trained_on(torch.device("cuda:0"), optimizer)
    here, accuracy_here = trained_on(torch.device("cpu"), optimizer)
    torch.testing.assert_close(there.weight, here.weight, rtol=1e-3, atol=1e-4)
    assert accuracy_there == pytest.approx(accuracy_here, abs=0.01)


def test_a_run_on_the_gpu_ends_in_a_bundle_that_was_checked_there(tmp_path: Path) -> None:
    """If it failed, the default device would not work, or bow.onnx would be unproven there."""
    environ = {"BOW_TRAIN_DATA": "tutorial", "BOW_REQUIRE_GPU": "true", "BOW_OUTPUT_DIR": str(tmp_path)}
    bundle = run(load_settings(environ), Output(for_people=False))
    check(verify(bundle).rungs, "bundle")
    record = json.loads((bundle / "run.json").read_text())
    assert record["device"] == "cuda:0"
    assert record["peak_device_memory"] > 0
    assert "bow.onnx, CUDAExecutionProvider" in verify(bundle).bundle.manifest.parity.largest_differences
