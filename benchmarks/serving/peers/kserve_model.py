"""The KServe SDK's server around the model's session: `python kserve_model.py MODEL --http_port PORT`.

What a user of the SDK writes, its own logs off and its gRPC server too. It imports nothing of ours.
"""

import logging
import sys
from uuid import uuid4

import kserve
import numpy as np
import onnxruntime as ort


class BowspritModel(kserve.Model):  # type: ignore[misc]  # it has no types
    """Text in, log-probabilities and labels out."""

    def __init__(self, model: str) -> None:
        super().__init__("bowsprit")
        options = ort.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self.ready = True

    def predict(
        self, payload: kserve.InferRequest, headers: object = None, response_headers: object = None
    ) -> kserve.InferResponse:
        """Runs in the server's own thread, which costs least for so short a run."""
        del headers, response_headers
        texts = np.array(payload.inputs[0].data, dtype=object)
        log_probs, labels = self._session.run(["log_probs", "label"], {"text": texts})
        return kserve.InferResponse(
            response_id=payload.id or str(uuid4()),
            model_name=self.name,
            infer_outputs=[
                kserve.InferOutput("log_probs", list(log_probs.shape), "FP32", log_probs.ravel().tolist()),
                kserve.InferOutput("label", list(labels.shape), "BYTES", labels.tolist()),
            ],
        )


if __name__ == "__main__":
    server = kserve.ModelServer(enable_grpc=False, enable_latency_logging=False)
    for _name in ("kserve", "kserve.trace", "uvicorn", "uvicorn.access"):
        logging.getLogger(_name).setLevel(logging.ERROR)
    # uvicorn writes access logs where this logger has someone to write them.
    _access = logging.getLogger("uvicorn.access")
    _access.handlers, _access.propagate = [], False
    server.start([BowspritModel(sys.argv[1])])
