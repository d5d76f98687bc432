"""The model of Triton's Python backend: what the onnxruntime backend, which is not to be had here, would do.

It runs inside tritonserver, on the same `config.pbtxt` but for the backend's name.
"""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import triton_python_backend_utils as triton


class TritonPythonModel:
    """Takes texts as the configuration's `reshape` leaves them: [N]."""

    def initialize(self, arguments: dict[str, str]) -> None:
        folder = Path(arguments["model_repository"], arguments["model_version"])
        self._session = onnxruntime.InferenceSession(
            str(folder / "model.onnx"), providers=["CPUExecutionProvider"]
        )

    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answer(triton.get_input_tensor_by_name(each, "text").as_numpy()) for each in requests]

    def _answer(self, texts: Any) -> Any:
        assert texts.ndim == 1, texts.shape
        strings = np.array([text.decode() for text in texts], dtype=object)
        log_probs, labels = self._session.run(["log_probs", "label"], {"text": strings})
        encoded = np.array([label.encode() for label in labels], dtype=object)
        return triton.InferenceResponse(
            [triton.Tensor("log_probs", log_probs), triton.Tensor("label", encoded)]
        )
