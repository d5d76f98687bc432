"""The floor: `python bare.py MODEL PORT` answers with the least that a Python server of v2 JSON can do.

One route, no validation, no limits, no metrics, no log. It imports nothing of ours.
"""

import sys

import numpy as np
import onnxruntime as ort
import orjson
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


def app(model: str) -> Starlette:
    """The app; one thread runs it and the model."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    async def infer(request: Request) -> Response:
        texts = orjson.loads(await request.body())["inputs"][0]["data"]
        log_probs, labels = session.run(["log_probs", "label"], {"text": np.array(texts, dtype=object)})
        answer = {
            "model_name": "bowsprit",
            "outputs": [
                {
                    "name": "log_probs",
                    "datatype": "FP32",
                    "shape": log_probs.shape,
                    "data": log_probs.ravel(),
                },
                {"name": "label", "datatype": "BYTES", "shape": labels.shape, "data": labels.tolist()},
            ],
        }
        return Response(
            orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json"
        )

    async def ready(_: Request) -> Response:
        return Response()

    return Starlette(
        routes=[
            Route("/v2/models/bowsprit/infer", infer, methods=["POST"]),
            Route("/v2/health/ready", ready),
        ]
    )


if __name__ == "__main__":
    _, _model, _port = sys.argv
    uvicorn.run(
        app(_model),
        host="127.0.0.1",
        port=int(_port),
        loop="uvloop",
        http="httptools",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        log_level="warning",
    )
