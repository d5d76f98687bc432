"""From a corpus to a trained model: mini-batches, steps, metrics and checkpoints."""
