"""Turns a trained model into files, and publishes only what agrees with the original model."""

import serving  # noqa: F401 - before onnxruntime, which it keeps from telling of models
