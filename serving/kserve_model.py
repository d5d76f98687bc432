"""A bundle in KServe's own model server, for those who live in KServe, and for gRPC.

    python -m serving.kserve_model BUNDLE [--model_name NAME] [KServe's own flags]

The one module that imports kserve. `python -m serving serve` is the faster server, with limits and reloads;
what a request is answered with is the same.
"""

import argparse
import asyncio
import contextlib
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from serving.answer import Answer, answer, selection_of
from serving.errors import BowspritError, DataError, ExitCode
from serving.predictor import Predictor
from serving.selection import Selection
from serving.storage.store import is_url

try:
    from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer, model_server
    from kserve.errors import InferenceError, InvalidInput, ModelNotFound
    from kserve.protocol.dataplane import DataPlane
    from kserve.protocol.infer_type import to_http_parameters
except ImportError as error:
    if __name__ == "__main__":
        sys.stderr.write(
            f"error: KServe's model server needs the package kserve ({error}); install "
            "bowsprit[serving,kserve], or use the server without it: python -m serving serve\n"
        )
        sys.exit(ExitCode.SETTINGS)
    raise

INPUT = "text"
OUTPUTS = ("log_probs", "label")


class BowspritModel(Model):  # type: ignore[misc] # kserve is not among what the types are checked with
    """A bundle as KServe's model: ready once the bundle has been verified."""

    def __init__(self, name: str, source: str) -> None:
        """`source` is the bundle's folder or URL."""
        super().__init__(name)
        # Where a link such as `latest` leads to now, so that every worker loads the same.
        self._source = source if is_url(source) else str(Path(source).resolve())
        self._predictor: Predictor | None = None

    def load(self) -> bool:
        """Verifies the bundle and loads it; raises as `Predictor.load` does."""
        self._predictor = Predictor.load(self._source)
        self.ready = True
        return self.ready

    def get_input_types(self) -> list[dict[str, object]]:
        """The texts; -1 stands for any number."""
        return [{"name": INPUT, "datatype": "BYTES", "shape": [-1]}]

    def get_output_types(self) -> list[dict[str, object]]:
        """The outputs of a request without `top_k` and `threshold`."""
        shapes = {"log_probs": ("FP32", [-1, len(self._loaded.labels)]), "label": ("BYTES", [-1])}
        return [
            {"name": name, "datatype": datatype, "shape": shape} for name, (datatype, shape) in shapes.items()
        ]

    async def predict(
        self,
        payload: Any,
        headers: dict[str, str] | None = None,  # noqa: ARG002 # KServe hands it over
        response_headers: dict[str, str] | None = None,  # noqa: ARG002
    ) -> Any:
        """Answers an `InferRequest`; raises InvalidInput, 400 to the client, for what cannot be answered."""
        if not isinstance(payload, InferRequest):
            raise InvalidInput(
                "expected a request of the Open Inference Protocol, version 2; "
                f"send it to /v2/models/{self.name}/infer"
            )
        predictor = self._loaded
        if payload.model_version not in (None, "", predictor.version):
            raise ModelNotFound(f"{self.name} in version {payload.model_version}")
        try:
            wanted = _wanted(payload)
            texts = _texts(payload)
            selection = _selection(payload)
            # In a thread, so that a long batch does not hold up the probes.
            found = await asyncio.to_thread(answer, predictor, texts, selection)
        except DataError as error:
            raise InvalidInput(str(error)) from error
        return InferResponse(
            # KServe's own type of an answer wants a string.
            response_id=payload.id or "",
            model_name=self.name,
            model_version=predictor.version,
            parameters={"bundle_id": predictor.bundle_id},
            infer_outputs=_outputs(found, wanted, payload),
            use_binary_outputs=payload.use_binary_outputs,
            requested_outputs=payload.request_outputs,
        )

    @property
    def _loaded(self) -> Predictor:
        assert self._predictor is not None, "KServe asks a model only once it is ready"
        return self._predictor

    def __getstate__(self) -> dict[str, object]:
        """With --workers, KServe hands the model to new processes, which a session cannot go to."""
        return self.__dict__ | {"_predictor": self._loaded.bundle_id}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Loads the very bundle that the first process has verified."""
        self.__dict__.update(state)
        self._predictor = Predictor.load(self._source, expected_id=state["_predictor"])


class Requests(DataPlane):  # type: ignore[misc]
    """KServe's, but that a body which cannot be read is the client's mistake: 400, not 500."""

    def decode(self, *arguments: Any, **options: Any) -> Any:
        """Reads a request of REST; raises InvalidInput where it is none."""
        try:
            return super().decode(*arguments, **options)
        except InvalidInput:
            raise
        except (AttributeError, InferenceError, KeyError, TypeError, ValueError, struct.error) as error:
            raise InvalidInput(f"expected a request of the Open Inference Protocol: {error}") from error


def _texts(request: Any) -> list[str]:
    """The texts of a request; raises DataError where its input is another than the one that there is."""
    names = [tensor.name for tensor in request.inputs]
    if names != [INPUT]:
        raise DataError(f"expected one input, {INPUT}, found {', '.join(map(repr, names)) or 'none'}")
    (tensor,) = request.inputs
    shape = list(tensor.shape)
    if tensor.datatype != "BYTES" or not shape or shape[0] < 0 or shape[1:] not in ([], [1]):
        raise DataError(
            f"input {INPUT}: expected BYTES of shape [N] or [N, 1], found {tensor.datatype} of {shape}"
        )
    try:
        elements = tensor.as_numpy().ravel().tolist()
    except (ValueError, struct.error) as error:
        raise DataError(f"input {INPUT}: expected {shape[0]} texts, as its shape says ({error})") from error
    return [_text(element, number) for number, element in enumerate(elements)]


def _text(element: object, number: int) -> str:
    if isinstance(element, str):
        return element
    if not isinstance(element, bytes):
        raise DataError(f"text {number}: expected a string, found {type(element).__name__}")
    try:
        return element.decode()
    except UnicodeDecodeError as error:
        raise DataError(
            f"text {number}: expected UTF-8, found {error.reason} at byte {error.start}"
        ) from error


def _selection(request: Any) -> Selection | None:
    parameters = request.parameters or {}
    if not request.from_grpc:
        return selection_of(parameters)
    # KServe's gRPC knows booleans, whole numbers and strings, and drops what else a client sends.
    plain = to_http_parameters(parameters)
    for name in ("top_k", "threshold"):
        if name in parameters and name not in plain:
            raise DataError(
                f"parameter {name}: came in a type that KServe's gRPC does not know; send top_k as a whole "
                'number, and threshold as a string such as "0.5"'
            )
    if isinstance(plain.get("threshold"), str):
        # What is no number is refused as any other string.
        with contextlib.suppress(ValueError):
            plain["threshold"] = float(plain["threshold"])
    return selection_of(plain)


def _wanted(request: Any) -> Sequence[str]:
    """The names of the outputs that a request asks for: all, unless it names some."""
    names = [output.name for output in request.request_outputs or ()] or OUTPUTS
    for name in names:
        if name not in OUTPUTS:
            raise DataError(f"expected outputs among {', '.join(OUTPUTS)}, found {name!r}")
    return names


def _outputs(found: Answer, wanted: Sequence[str], request: Any) -> list[Any]:
    labels = np.empty(len(found.label), dtype=object)
    labels[:] = found.label
    arrays = {"log_probs": found.log_probs, "label": labels.reshape(found.label_shape)}
    types = {"log_probs": "FP32", "label": "BYTES"}
    outputs = []
    for name in wanted:
        array = arrays[name]
        output = InferOutput(name=name, shape=list(array.shape), datatype=types[name], data=array)
        # For REST, KServe does so itself, for each output as the client asks for it.
        if request.from_grpc:
            output.set_data_from_numpy(array, binary_data=request.use_binary_outputs)
        outputs.append(output)
    return outputs


def main(argv: Sequence[str]) -> ExitCode:
    """Verifies the bundle and serves it until a signal ends the server."""
    parser = argparse.ArgumentParser(
        prog="python -m serving.kserve_model",
        description="Serves a bundle by KServe's own model server: Open Inference Protocol, REST and gRPC.",
        parents=[model_server.parser],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "bundle", metavar="BUNDLE", help="such as artifacts/latest or s3://bucket/models/latest"
    )
    parser.set_defaults(model_name="bowsprit")
    arguments = parser.parse_args(argv)
    model = BowspritModel(arguments.model_name, arguments.bundle)
    try:
        model.load()
    except BowspritError as error:
        sys.stderr.write(f"error: {error}\n")
        return error.exit_code
    server = ModelServer()
    server.dataplane = Requests(server.registered_models)
    server.start([model])
    return ExitCode.DONE


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
