"""The optimizers where a step touches only some rows: against torch's sparse ones, and by hand."""

import numpy as np
import pytest
import torch
from torch import Tensor

from job.training.optimizer import Optimizer, OptimizerName

NUM_ROWS, NUM_COLUMNS, NUM_STEPS = 12, 3, 20
LEARNING_RATE = 0.1

Step = tuple[Tensor, Tensor]
"""The rows that a step touches, and their gradient."""


def random_steps() -> list[Step]:
    generator = np.random.default_rng(0)
    steps = []
    for _ in range(NUM_STEPS):
        rows = np.sort(generator.choice(NUM_ROWS, size=4, replace=False))
        steps.append((torch.from_numpy(rows), torch.from_numpy(generator.normal(size=(4, NUM_COLUMNS)))))
    return steps


def initial() -> Tensor:
    return torch.from_numpy(np.random.default_rng(1).normal(size=(NUM_ROWS, NUM_COLUMNS)))


def row_wise(optimizer: Optimizer, steps: list[Step]) -> Tensor:
    """What the trainer does: rows are gathered, updated and written back."""
    table = initial()
    state = optimizer.slots(table)
    for number, (rows, gradient) in enumerate(steps, 1):
        weight, slots = table[rows], tuple(slot[rows] for slot in state)
        optimizer.update(weight, gradient, slots, learning_rate=LEARNING_RATE, step=number)
        for whole, part in zip((table, *state), (weight, *slots), strict=True):
            whole[rows] = part
    return table


def torchs_own(name: OptimizerName, steps: list[Step]) -> Tensor:
    """The same with torch's optimizer on sparse gradients."""
    table = torch.nn.Parameter(initial())
    optimizer: torch.optim.Optimizer
    match name:
        case "sgd":
            optimizer = torch.optim.SGD([table], lr=LEARNING_RATE)
        case "adagrad":
            optimizer = torch.optim.Adagrad([table], lr=LEARNING_RATE)
        case _:
            optimizer = torch.optim.SparseAdam([table], lr=LEARNING_RATE)
    for number, (rows, gradient) in enumerate(steps, 1):
        if name == "adam":
            # SparseAdam adds eps before the bias correction, Adam after it: so scaled they are the same.
            optimizer.param_groups[0]["eps"] = 1e-8 * (1 - 0.999**number) ** 0.5
        # torch warns unless somebody says whether sparse tensors are to be checked.
        with torch.sparse.check_sparse_tensor_invariants():
            shape = (NUM_ROWS, NUM_COLUMNS)
            table.grad = torch.sparse_coo_tensor(rows.unsqueeze(0), gradient, shape).coalesce()
            optimizer.step()
    return table.detach()


@pytest.mark.parametrize("name", ["sgd", "adagrad", "adam"])
def test_rows_that_are_not_always_touched_go_as_torchs_sparse_optimizers_take_them(
    name: OptimizerName,
) -> None:
    """If it differed, rare words would be learned by another rule than the one the setting names."""
    steps = random_steps()
    found = row_wise(Optimizer(name=name, weight_decay=0), steps)
    torch.testing.assert_close(found, torchs_own(name, steps), rtol=0, atol=1e-12)


def test_rmsprop_leaves_the_state_of_absent_rows_alone() -> None:
    """If it failed, a row's running mean would decay while its word is absent; torch has no rule for it."""
    gradients = [torch.tensor([[1.0, -2.0, 0.5]]).double(), torch.tensor([[3.0, 1.0, -1.0]]).double()]
    elsewhere = (torch.tensor([7]), torch.ones(1, NUM_COLUMNS).double())
    here = torch.tensor([4])
    found = row_wise(
        Optimizer(name="rmsprop", weight_decay=0),
        [(here, gradients[0]), elsewhere, elsewhere, (here, gradients[1])],
    )
    weight, square = initial()[4], torch.zeros(NUM_COLUMNS).double()
    for gradient in gradients:
        square = 0.99 * square + 0.01 * gradient[0] ** 2
        weight = weight - LEARNING_RATE * gradient[0] / (square.sqrt() + 1e-8)
    torch.testing.assert_close(found[4], weight, rtol=0, atol=1e-12)


def test_weight_decay_shrinks_a_row_only_in_the_steps_that_touch_it() -> None:
    """If it failed, weight decay would cost as much as the vocabulary is large, or hit absent words."""
    nothing = torch.zeros(1, NUM_COLUMNS).double()
    steps = [(torch.tensor([4]), nothing), (torch.tensor([7]), nothing), (torch.tensor([4]), nothing)]
    found = row_wise(Optimizer(name="sgd", weight_decay=0.5), steps)
    shrunk = 1 - LEARNING_RATE * 0.5
    torch.testing.assert_close(found[4], initial()[4] * shrunk**2, rtol=0, atol=1e-12)
    torch.testing.assert_close(found[7], initial()[7] * shrunk, rtol=0, atol=1e-12)
    assert torch.equal(found[5], initial()[5])
