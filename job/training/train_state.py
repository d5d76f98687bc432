"""What training changes, and so what a checkpoint has to hold."""

from dataclasses import dataclass, field

from torch import Tensor

from job.training.patience import Best


@dataclass(frozen=True, kw_only=True)
class EpochResult:
    """What an epoch came to."""

    epoch: int
    """From 1."""
    loss: float
    """Mean over the epoch's rows of the NLL loss, each times its weight, before the update that used it, in
    nats."""
    validation_accuracy: float | None
    """Of the state after the epoch; None without validation data."""


@dataclass(kw_only=True)
class TrainState:
    """Everything that training changes: from it a run can go on."""

    table: Tensor
    """A transposed, so that a word's weights lie together: [V, K]."""
    bias: Tensor
    """b: [K]."""
    table_slots: tuple[Tensor, ...]
    """The optimizer's state for `table`, each [V, K]."""
    bias_slots: tuple[Tensor, ...]
    """The optimizer's state for `bias`, each [K]."""
    step: int = 0
    """Updates made so far."""
    epochs: list[EpochResult] = field(default_factory=list)
    """Those that are done."""
    num_batches: int = 0
    """Batches done of the epoch that is under way."""
    num_rows: int = 0
    """Rows of these."""
    loss_sum: float = 0.0
    """Of these rows, as far as it was asked for."""
    best: Best | None = None
    """The best epoch so far; None where training does not go by it."""

    def end_epoch(self, validation_accuracy: float | None) -> EpochResult:
        """Notes what the epoch came to, and is at the beginning of the next."""
        result = EpochResult(
            epoch=len(self.epochs) + 1,
            loss=self.loss_sum / self.num_rows,
            validation_accuracy=validation_accuracy,
        )
        self.epochs.append(result)
        self.num_batches, self.num_rows, self.loss_sum = 0, 0, 0.0
        return result
