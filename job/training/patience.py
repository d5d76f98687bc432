"""When to stop: once the accuracy on validation data no longer rises. The best epoch's weights are kept."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor


@dataclass(kw_only=True)
class Best:
    """The best epoch so far, the first of equals, and a copy of its weights."""

    patience: int
    """Epochs without a better one after which to stop."""
    epoch: int = 0
    """From 1; 0 before the first."""
    accuracy: float = -1.0
    weights: tuple[Tensor, ...] = ()

    def take(self, epoch: int, accuracy: float, weights: Sequence[Tensor]) -> None:
        """Takes what an epoch came to."""
        if accuracy > self.accuracy:
            self.weights = ()  # or two copies would be in memory
            self.epoch, self.accuracy = epoch, accuracy
            self.weights = tuple(each.clone() for each in weights)

    def is_over(self, num_epochs: int) -> bool:
        """Whether to stop after so many epochs."""
        return num_epochs - self.epoch >= self.patience

    def restore(self, weights: Sequence[Tensor]) -> None:
        """Writes the best epoch's weights over those of the last."""
        for each, best in zip(weights, self.weights, strict=True):
            each.copy_(best)
