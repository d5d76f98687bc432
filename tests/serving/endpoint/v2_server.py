"""A small Open Inference Protocol v2 server over the real model, which can be told to misbehave."""

import contextlib
import json
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.bundle import FILES, open_bundle
from serving.session import TextModel

Predict = Callable[[Sequence[str]], tuple[npt.NDArray[np.float32], list[str]]]
HEADER = "Inference-Header-Content-Length"


@dataclass(kw_only=True)
class Behaviour:
    """What the server does; the defaults are those of a good one."""

    predict: Predict
    labels: Sequence[str]
    name: str = "bowsprit"
    extensions: Sequence[str] = ("binary_tensor_data",)
    in_column: bool = False
    """Whether it takes texts as [N, 1] alone, and gives labels so, as Triton does where it batches."""
    models: Sequence[str] | None = ("bowsprit",)
    """What GET /v2/models lists; with None there is Triton's index instead."""
    ready: Sequence[str] = ("bowsprit",)
    metadata: Any = None
    """Instead of the model's."""
    configuration: Any = None
    parameters: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    max_texts: int = 1024
    max_text_bytes: int = 1 << 20
    takes_empty: bool = True
    status: dict[str, int] = field(default_factory=dict)
    """By the last part of a path, what it answers there instead."""
    said: str = "told to"
    """What it says there."""
    delay: float = 0
    """Seconds before any answer."""
    output: Callable[[dict[str, Any]], None] = lambda output: None
    """Alters an output in JSON, or its description."""
    raw: Callable[[bytes], bytes] = lambda raw: raw
    """Alters the binary values of an output."""
    body: Callable[[bytes], bytes] = lambda body: body
    """Alters an answer to inference."""
    sizes: list[int] = field(default_factory=list)
    """How many texts each request had."""

    def described(self) -> Any:
        column = [-1, 1] if self.in_column else [-1]
        return self.metadata or {
            "name": "bowsprit",
            "versions": ["1"],
            "platform": "onnx",
            "inputs": [{"name": "text", "datatype": "BYTES", "shape": column}],
            "outputs": [
                {"name": "log_probs", "datatype": "FP32", "shape": [-1, len(self.labels)]},
                {"name": "label", "datatype": "BYTES", "shape": column},
            ],
        }


def of_bundle(folder: Path) -> Behaviour:
    """A good server of a bundle's model."""
    labels = open_bundle(folder).labels()
    return Behaviour(predict=TextModel(folder / FILES.text_model, len(labels)).predict, labels=labels)


@contextlib.contextmanager
def served(behaviour: Behaviour) -> Iterator[str]:
    """The server's URL, while it runs."""
    handler = type("Handler", (_Handler,), {"behaviour": behaviour})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


class _Handler(BaseHTTPRequestHandler):
    behaviour: Behaviour

    def log_message(self, *_: object) -> None:
        """Not in the tests' output."""

    def do_GET(self) -> None:
        it = self.behaviour
        known: dict[str, Any] = {
            "/v2": {"name": it.name, "version": "1", "extensions": list(it.extensions)},
            "/v2/models/bowsprit": it.described(),
            "/v2/models/bowsprit/versions/1": it.described(),
        }
        if it.models is not None:
            known["/v2/models"] = {"models": list(it.models)}
        if it.configuration is not None:
            known["/v2/models/bowsprit/config"] = it.configuration
        self._answer(known.get(self.path))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == "/v2/repository/index":
            states = [{"name": name, "state": "READY"} for name in self.behaviour.ready]
            index = [*states, {"name": "unloaded", "state": "UNAVAILABLE"}]
            self._answer(index if self.behaviour.models is None else None)
        elif self.path.endswith("/infer"):
            self._infer(body)
        else:
            self._answer(None)

    def _infer(self, body: bytes) -> None:
        it = self.behaviour
        length = int(self.headers.get(HEADER, len(body)))
        request = json.loads(body[:length])
        (given,) = request["inputs"]
        texts = given["data"] if "data" in given else unpacked(body[length:])
        number = len(texts)
        it.sizes.append(number)
        assert (given["name"], given["datatype"]) == ("text", "BYTES")
        assert given["shape"] == ([number, 1] if it.in_column else [number])
        if number > it.max_texts or (number == 0 and not it.takes_empty):
            self._answer({"error": f"takes 1 to {it.max_texts} texts"}, 400)
            return
        if max((len(text.encode()) for text in texts), default=0) > it.max_text_bytes:
            self._answer({"error": f"takes texts of up to {it.max_text_bytes} bytes"}, 413)
            return
        log_probs, labels = it.predict(texts)
        outputs: list[dict[str, Any]] = [
            {"name": "log_probs", "datatype": "FP32", "shape": list(log_probs.shape)},
            {
                "name": "label",
                "datatype": "BYTES",
                "shape": [len(labels), 1] if it.in_column else [len(labels)],
            },
        ]
        values = [log_probs.astype("<f4").tobytes(), packed(labels)]
        lists = [log_probs.ravel().tolist(), labels]
        rest = b""
        wanted = {each["name"]: each.get("parameters", {}).get("binary_data") for each in request["outputs"]}
        for output, raw, data in zip(outputs, values, lists, strict=True):
            if wanted[output["name"]]:
                raw = it.raw(raw)
                output["parameters"] = {"binary_data_size": len(raw)}
                rest += raw
            else:
                output["data"] = data
            it.output(output)
        head = {
            "model_name": "bowsprit",
            "model_version": "1",
            "parameters": it.parameters,
            "outputs": outputs,
        }
        encoded = json.dumps(head).encode()
        headers = it.headers | ({HEADER: str(len(encoded))} if any(wanted.values()) else {})
        self._answer(it.body(encoded + rest), headers=headers)

    def _answer(self, value: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        time.sleep(self.behaviour.delay)
        last = self.path.rpartition("/")[2]
        if value is None:
            value, status = {"error": "not found"}, 404
        if last in self.behaviour.status:
            value, status = {"error": self.behaviour.said}, self.behaviour.status[last]
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        self.send_response(status)
        for name, each in (headers or {}).items():
            self.send_header(name, each)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self.wfile.write(body)


def packed(values: Sequence[str]) -> bytes:
    """Strings in the binary extension."""
    return b"".join(struct.pack("<I", len(each.encode())) + each.encode() for each in values)


def unpacked(raw: bytes) -> list[str]:
    """What was packed."""
    values = []
    while raw:
        (size,) = struct.unpack_from("<I", raw)
        values.append(raw[4 : 4 + size].decode())
        raw = raw[4 + size :]
    return values
