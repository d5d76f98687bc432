"""A training step that a GPU is told once, and then repeats on one batch after another.

A step is some thirty small pieces of work, and to launch one takes the host longer than most of them take
the GPU. So all are recorded at the second step, and launched together from then on; what changes from step to
step is written to where the recorded work reads it: the batch, the learning rate, and the step's number.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from job.device import recorded
from job.training.optimizer import Optimizer
from job.training.padded import PaddedBatch, Shape
from job.training.train_state import TrainState

Step = Callable[..., Tensor]
"""`train_step`, or what does the same."""


class RecordedStep:
    """Does what `train_step` does, with batches of one shape."""

    def __init__(self, step: Step, state: TrainState, optimizer: Optimizer, shape: Shape) -> None:
        """Moves the tables of the state into larger ones, with the row 0 for padding."""
        device = state.table.device
        self._step, self._state, self._optimizer = step, state, optimizer
        self._batch = PaddedBatch(
            data=torch.zeros(shape.num_bytes, dtype=torch.uint8, device=device),
            shape=shape,
            num_rows=shape.num_rows,
            num_tokens=shape.num_tokens,
        )
        self._learning_rate = torch.zeros((), dtype=torch.float64, device=device)
        tables = [F.pad(table, (0, 0, 1, 0)) for table in (state.table, *state.table_slots)]
        state.table, *slots = (table[1:] for table in tables)
        state.table_slots = tuple(slots)
        # It counts its steps on the device, where Adam needs their number.
        number = torch.full((), state.step, dtype=torch.float64, device=device)
        self._padded = replace(state, table=tables[0], table_slots=tuple(tables[1:]), step=number)  # type: ignore[arg-type]
        self._launch = recorded(self._work, device)

    def __call__(self, batch: PaddedBatch, *, learning_rate: float) -> Tensor:
        """One update; returns the sum of the rows' NLL losses before it, a scalar on the device."""
        self._batch.data.copy_(batch.data)
        self._learning_rate.fill_(learning_rate)
        self._state.step += 1
        return self._launch().clone()  # the next step writes to the same place

    def _work(self) -> Tensor:
        return self._step(
            self._padded, self._batch.batch(), self._optimizer, learning_rate=self._learning_rate
        )
