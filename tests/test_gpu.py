"""What only a machine with a GPU can show: the same training there, and the gate on it."""

import json
from pathlib import Path

import pytest
import torch

from job.corpus.bags import Bags, concatenate
from job.device import Device, choose_device
from job.environment import load_settings
from job.model import BowClassifier, initialize_uniform
from job.run import run
from job.telling.output import Output
from job.training import batch_stores
from job.training.batch_stores import BatchesOnTheirWay, kept
from job.training.optimizer import Optimizer, OptimizerName
from job.training.trainer import Plan, evaluate, finish, start, train
from serving.parity.rungs import check
from serving.parity.verify import verify
from serving.predictor import Predictor
from tests.job.training.bags import NUM_LABELS, NUM_WORDS, batches_of, random_bags

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU"),
]


BATCHES = {"batch_size": 64, "block_size": 1 << 31, "shuffle": False}


def random_rows() -> Bags:
    rows = random_bags(1000, max_tokens=20)
    return concatenate([random_bags(64, max_tokens=1), rows])  # a batch without a token


def trained_on(device: Device, optimizer: Optimizer) -> tuple[BowClassifier, float]:
    torch.manual_seed(1)
    rows, model = random_rows(), BowClassifier(NUM_LABELS, NUM_WORDS)
    # From zeros many gradients begin as 0 but for rounding, and the optimizers take steps of any size alike.
    initialize_uniform(model)
    state = start(model, optimizer, device.torch_device)
    plan = Plan(epochs=3, batch_size=64, learning_rate=0.1, schedule="linear", seed=1, shuffle=True)
    with kept(batches_of([rows], **BATCHES), device, None) as batches:
        train(state, batches, optimizer, plan, validation=[rows])
    accuracy = evaluate(state, [rows]).accuracy
    finish(state, model)
    return model, accuracy


@pytest.mark.parametrize("name", ["sgd", "adagrad", "adam", "rmsprop"])
def test_the_gpu_trains_the_same_model_as_the_cpu(name: OptimizerName) -> None:
    """If it failed, a model would depend on where it was trained by more than rounding."""
    optimizer = Optimizer(name=name, weight_decay=0.01)
    there, accuracy_there = trained_on(choose_device("cuda:0", require_gpu=True), optimizer)
    here, accuracy_here = trained_on(choose_device("cpu", require_gpu=False), optimizer)
    torch.testing.assert_close(there.weight, here.weight, rtol=1e-3, atol=1e-4)
    assert accuracy_there == pytest.approx(accuracy_here, abs=0.01)


def test_the_same_seed_gives_the_same_bytes() -> None:
    """If it failed, a bundle's ID would change from run to run."""
    gpu, optimizer = choose_device("cuda:0", require_gpu=True), Optimizer(name="adam", weight_decay=0.01)
    (one, _), (other, _) = trained_on(gpu, optimizer), trained_on(gpu, optimizer)
    assert torch.equal(one.weight, other.weight)
    assert torch.equal(one.bias, other.bias)


def test_batches_that_are_copied_one_by_one_train_to_the_same_weights(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """If it failed, a step would begin before its batch has arrived, or after its memory was reused."""
    device, optimizer = choose_device("cuda:0", require_gpu=True), Optimizer(name="sgd", weight_decay=0)
    plan = Plan(epochs=20, batch_size=64, learning_rate=0.1, schedule="linear", seed=1, shuffle=True)
    tables = []
    for share, folder in ((1.0, None), (0.0, None), (0.0, tmp_path)):
        monkeypatch.setattr(batch_stores, "DEVICE_SHARE", share)
        state = start(BowClassifier(NUM_LABELS, NUM_WORDS), optimizer, device.torch_device)
        with kept(batches_of([random_rows()], **BATCHES), device, folder) as batches:
            assert isinstance(batches, BatchesOnTheirWay) == (not share)
            train(state, batches, optimizer, plan)
        tables.append(state.table.cpu())
    for table in tables[1:]:
        torch.testing.assert_close(table, tables[0], rtol=1e-5, atol=1e-6)


def test_a_run_on_the_gpu_ends_in_a_bundle_that_was_checked_there(tmp_path: Path) -> None:
    """If it failed, the default device would not work, or bow.onnx would be unproven there."""
    environ = {"BOW_TRAIN_DATA": "tutorial", "BOW_REQUIRE_GPU": "true", "BOW_OUTPUT_DIR": str(tmp_path)}
    bundle = run(load_settings(environ), Output(for_people=False))
    check(verify(bundle).rungs, "bundle")
    record = json.loads((bundle / "run.json").read_text())
    assert record["device"] == "cuda:0"
    assert record["peak_device_memory"] > 0
    assert "bow.onnx, CUDAExecutionProvider" in verify(bundle).bundle.manifest.parity.largest_differences


@pytest.mark.parametrize(
    "features",
    [{}, {"BOW_WORD_NGRAMS": "1-2", "BOW_CHAR_NGRAMS": "1-3", "BOW_WEIGHTING": "tfidf"}],
    ids=["words", "n-grams"],
)
def test_a_server_that_is_told_to_use_the_gpu_answers(features: dict[str, str], tmp_path: Path) -> None:
    """If it failed, a bundle that is whole would be refused where a GPU is preferred: CUDA takes no text."""
    data = tmp_path / "data.tsv"
    data.write_text("label\ttext\n" + "es\tme gusta comer\nen\tgive it to me\n" * 8)
    environ = {"BOW_TRAIN_DATA": str(data), "BOW_OUTPUT_DIR": str(tmp_path)} | features
    bundle = run(load_settings(environ), Output(for_people=False))
    predictor = Predictor.load(bundle, providers=["CUDAExecutionProvider"])
    assert predictor.provider == "CPUExecutionProvider"
    texts = ["give me", "me gusta", ""]
    assert (predictor.log_probs(texts) == Predictor.load(bundle).log_probs(texts)).all()
