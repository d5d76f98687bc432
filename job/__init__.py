"""Trains: from settings and labelled texts to a bag-of-words classifier."""

import serving  # noqa: F401 - before onnxruntime, which it keeps from telling of models
