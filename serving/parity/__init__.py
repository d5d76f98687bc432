"""Whether every runtime gives the trained model's log-probabilities: the reference, the ladder, `verify`."""
