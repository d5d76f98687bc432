import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from job.model import BowClassifier, initialize_uniform


def test_the_initial_weights_are_those_of_linear() -> None:
    """If it failed, `uniform` would not be what the tutorial draws."""
    torch.manual_seed(5)
    linear = nn.Linear(30, 4)
    torch.manual_seed(5)
    model = BowClassifier(4, 30)
    initialize_uniform(model)
    assert torch.equal(model.weight, linear.weight)
    assert torch.equal(model.bias, linear.bias)


@pytest.mark.parametrize("rows", [0, 1, 9])
def test_forward_is_log_softmax_of_an_affine_map(rows: int) -> None:
    """If it failed, the model would not be the tutorial's."""
    torch.manual_seed(0)
    model = BowClassifier(3, 6)
    initialize_uniform(model)
    bow = torch.randint(0, 4, (rows, 6)).float()
    expected = torch.log_softmax(bow @ model.weight.t() + model.bias, dim=1)
    torch.testing.assert_close(model(bow), expected)
    assert model(bow).shape == (rows, 3)


def test_score_gives_the_same_from_bags() -> None:
    """If it failed, the two interfaces of TorchScript would disagree: on repeated words, or on empty bags."""
    torch.manual_seed(0)
    model = BowClassifier(3, 6)
    initialize_uniform(model)
    ids, offsets = torch.tensor([5, 5, 0, 1]), torch.tensor([0, 3, 3, 4])
    bow = torch.tensor([[1, 0, 0, 0, 0, 2], [0, 0, 0, 0, 0, 0], [0, 1, 0, 0, 0, 0]])
    log_probs = model.score(ids, offsets)
    assert log_probs.dtype is torch.float64
    torch.testing.assert_close(log_probs, model.double()(bow.double()), rtol=0, atol=1e-7)
    assert model.score(torch.empty(0, dtype=torch.int64), torch.tensor([0])).shape == (0, 3)


def test_score_sums_in_float64() -> None:
    """If it failed, a word that stands 2,000 times would be thousands of tolerances off."""
    model = BowClassifier(2, 1)
    with torch.no_grad():
        model.weight[:, 0] = torch.tensor([0.1, -0.7])
    log_probs = model.score(torch.zeros(2000, dtype=torch.int64), torch.tensor([0, 2000]))
    weight = np.array([0.1, -0.7], np.float32).astype(np.float64) * 2000
    assert log_probs[0, 1].item() == pytest.approx(weight[1] - weight[0], rel=1e-12)


def test_score_takes_many_labels_in_parts() -> None:
    """If it failed, a long text at many labels would get the parts in another order, or lose one."""
    torch.manual_seed(0)
    model = BowClassifier(41, 6)
    initialize_uniform(model)
    ids = torch.randint(0, 6, (1 << 20,))
    offsets = torch.tensor([0, 5, 1 << 20])
    bow = torch.stack([torch.bincount(part, minlength=6) for part in (ids[:5], ids[5:])])
    with torch.no_grad():
        log_probs = model.score(ids, offsets)
        expected = model.double()(bow.double())
    torch.testing.assert_close(log_probs, expected, rtol=1e-9, atol=1e-6)


def test_weights_come_back_from_safetensors() -> None:
    """If it failed, the published weights could not be loaded into the model again."""
    model = BowClassifier(3, 6)
    initialize_uniform(model)
    other = BowClassifier(3, 6)
    other.load_state_dict(load(save(model.state_dict())))
    assert torch.equal(other.weight, model.weight)
    assert torch.equal(other.bias, model.bias)
