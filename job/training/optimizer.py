"""Row-wise optimizers: only the rows of A whose words stand in the batch are read and written."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

OptimizerName = Literal["sgd", "adagrad", "adam", "rmsprop"]

ADAGRAD_EPS = 1e-10
ADAM_BETAS = (0.9, 0.999)
RMSPROP_ALPHA = 0.99
EPS = 1e-8
"""torch.optim's own constants: Adagrad's eps apart, Adam's and RMSprop's."""

NUM_SLOTS = {"sgd": 0, "adagrad": 1, "adam": 2, "rmsprop": 1}
"""How many numbers each optimizer keeps beside a weight."""


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """An update rule and its constants; its state is the slots that `update` is given."""

    name: OptimizerName
    weight_decay: float

    def slots(self, like: Tensor) -> tuple[Tensor, ...]:
        """Fresh state for a parameter: zeros of its shape."""
        return tuple(torch.zeros_like(like) for _ in range(NUM_SLOTS[self.name]))

    def update(
        self,
        weight: Tensor,
        gradient: Tensor,
        slots: tuple[Tensor, ...],
        *,
        learning_rate: float | Tensor,
        step: int | Tensor,
    ) -> None:
        """One update in place of gathered rows `weight` [U, K] and of their state; `step` counts from 1.

        The learning rate and the step may be scalars on the device, where they are not known yet.

        On rows that every step touches these are torch's SGD, Adagrad, Adam and RMSprop with their default
        constants. On the others they are lazy, as torch's SparseAdam is: a row's state waits unchanged until
        its word stands in a batch again (Adam's bias correction goes by `step`, the count of all batches),
        and L2 weight decay, added to the gradient, shrinks a row only in the steps that touch it.
        """
        if self.weight_decay:
            gradient = gradient.add(weight, alpha=self.weight_decay)
        match self.name:
            case "sgd":
                _add(weight, gradient, factor=-learning_rate)
            case "adagrad":
                (sums,) = slots
                sums.addcmul_(gradient, gradient)
                _add_ratio(weight, gradient, sums.sqrt().add_(ADAGRAD_EPS), factor=-learning_rate)
            case "rmsprop":
                (squares,) = slots
                squares.mul_(RMSPROP_ALPHA).addcmul_(gradient, gradient, value=1 - RMSPROP_ALPHA)
                _add_ratio(weight, gradient, squares.sqrt().add_(EPS), factor=-learning_rate)
            case "adam":
                means, squares = slots
                beta1, beta2 = ADAM_BETAS
                means.lerp_(gradient, 1 - beta1)
                squares.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
                corrected = learning_rate / (1 - beta1**step)
                deviation = squares.sqrt().div_((1 - beta2**step) ** 0.5).add_(EPS)
                _add_ratio(weight, means, deviation, factor=-corrected)


def _add(weight: Tensor, change: Tensor, *, factor: float | Tensor) -> None:
    if isinstance(factor, Tensor):
        weight.add_(change * factor)
    else:
        weight.add_(change, alpha=factor)


def _add_ratio(weight: Tensor, numerator: Tensor, denominator: Tensor, *, factor: float | Tensor) -> None:
    if isinstance(factor, Tensor):
        weight.addcdiv_(numerator * factor, denominator)
    else:
        weight.addcdiv_(numerator, denominator, value=factor)
