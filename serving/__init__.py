"""Uses the files: loads, verifies and serves a bundle. Imports no torch."""

import os

# From 1.29 on onnxruntime tells its makers of the models that are loaded (names, sizes, hashes of weights),
# and keeps an ID of the machine in its user's folder; it looks here, when it is imported, whether it may.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
