"""A client of the Open Inference Protocol, version 2, over HTTP: it knows tensors, and nothing of models.

The protocol has two encodings of tensors: JSON, and the binary tensor extension, in which they follow a
JSON header: FP32 as little-endian numbers, BYTES as strings with 4 bytes of length before each.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote

import msgspec

from serving.endpoint.answer import HEADER_LENGTH, LENGTH, Answer, read_answer
from serving.endpoint.http import Address, Response, exchange, said_by
from serving.errors import PlatformError, SettingsError
from serving.printable import printable

BINARY = "binary_tensor_data"
"""How a server says that it speaks the binary tensor extension."""
CONFIGURATION = "model_configuration"
"""How a server says that it tells a model's configuration, as Triton does."""
CONFIGURED_ID = "bowsprit_bundle_id"
"""The parameter of that configuration by which `python -m export triton` says which bundle it is of."""


class RefusedError(Exception):
    """The endpoint will not do what it was asked: its status, from 300 to 499, and what it says."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}" if message else str(status))
        self.status = status


class TensorMetadata(msgspec.Struct, frozen=True):
    """What an endpoint says of an input or an output."""

    name: str
    datatype: str
    shape: list[int]
    """-1 is any number."""


class ModelMetadata(msgspec.Struct, frozen=True):
    """What an endpoint says of a model."""

    name: str
    inputs: list[TensorMetadata] = []
    outputs: list[TensorMetadata] = []


class ServerMetadata(msgspec.Struct, frozen=True):
    """What an endpoint says of itself."""

    name: str = ""
    extensions: list[str] = []


class _Models(msgspec.Struct, frozen=True):
    models: list[str | dict[str, Any]]


class _Indexed(msgspec.Struct, frozen=True):
    name: str
    state: str = "READY"


T = TypeVar("T")


class Endpoint:
    """A server that speaks the protocol, and one of its models.

    Every method raises PlatformError where the server cannot be reached, or answers 500 or more.
    """

    def __init__(self, address: Address) -> None:
        """Asks which model there is, unless the address names it.

        Raises SettingsError where it is no such endpoint, or a model must be named.
        """
        self.address = address
        self.server = self._described("/v2", ServerMetadata) or ServerMetadata()
        name = address.model or self._only_model()
        self._path = f"/v2/models/{quote(name, safe='')}"
        if address.version is not None:
            self._path += f"/versions/{quote(address.version, safe='')}"
        self.url = f"{address}{self._path}"
        metadata = self._described(self._path, ModelMetadata)
        if metadata is None:
            raise SettingsError(
                f"{self.url}: the endpoint has no such model; name one that it has, or none where it has one"
            )
        self.metadata = metadata

    def configuration(self) -> Mapping[str, Any]:
        """The model's configuration as Triton's extension tells it; empty where the server does not."""
        if CONFIGURATION not in self.server.extensions:
            return {}
        return self._described(f"{self._path}/config", dict[str, Any]) or {}

    def infer(
        self, name: str, texts: Sequence[str], shape: Sequence[int], outputs: Sequence[str], *, binary: bool
    ) -> Answer:
        """What the model answers to an input of texts that has this name and shape.

        Raises RefusedError where the endpoint does not take them, AnswerError where the answer is malformed.
        """
        tensor: dict[str, Any] = {"name": name, "shape": list(shape), "datatype": "BYTES"}
        wanted: list[dict[str, Any]] = [{"name": each} for each in outputs]
        headers = {"Content-Type": "application/json"}
        values = b""
        if binary:
            encoded = [text.encode() for text in texts]
            values = b"".join(LENGTH.pack(len(text)) + text for text in encoded)
            tensor["parameters"] = {"binary_data_size": len(values)}
            wanted = [each | {"parameters": {"binary_data": True}} for each in wanted]
        else:
            tensor["data"] = list(texts)
        head = msgspec.json.encode({"inputs": [tensor], "outputs": wanted})
        if binary:
            headers = {"Content-Type": "application/octet-stream", HEADER_LENGTH: str(len(head))}
        return read_answer(self._ask("POST", f"{self._path}/infer", head + values, headers))

    def _only_model(self) -> str:
        names = self._model_names()
        if len(names) == 1:
            return names[0]
        example = f"{self.address}/v2/models/{quote(names[0], safe='') if names else 'NAME'}"
        if not names:
            raise PlatformError(f"{self.address}: the endpoint has no model that is ready; load one, or wait")
        raise SettingsError(
            f"{self.address}: the endpoint has {len(names)} models, {printable(', '.join(names))}; "
            f"name one: {example}"
        )

    def _model_names(self) -> list[str]:
        """By KServe's list, which is ours, or else by Triton's."""
        listed = self._described("/v2/models", _Models)
        if listed is not None:
            names = [each if isinstance(each, str) else str(each.get("name")) for each in listed.models]
            return sorted(set(names))
        try:
            response = self._ask("POST", "/v2/repository/index", b"{}", {"Content-Type": "application/json"})
        except RefusedError as refused:
            raise SettingsError(
                f"{self.address}: expected an Open Inference Protocol endpoint, and neither GET /v2/models "
                f"nor POST /v2/repository/index answers ({refused}); if it is one, name its model: "
                f"{self.address}/v2/models/NAME"
            ) from refused
        indexed = self._decoded("/v2/repository/index", response, list[_Indexed])
        return sorted({each.name for each in indexed if each.state == "READY"})

    def _described(self, path: str, of: type[T]) -> T | None:
        """What the endpoint says under a path; None where it has no such path."""
        try:
            response = self._ask("GET", path)
        except RefusedError as refused:
            if refused.status in (404, 405, 501):
                return None
            # Triton's answer for a model that it does not know was this one before it was 404.
            if refused.status == 400 and "unknown model" in str(refused):
                return None
            raise SettingsError(f"{self.address}: GET {path} was refused ({refused})") from refused
        return self._decoded(path, response, of)

    def _decoded(self, path: str, response: Response, of: type[T]) -> T:
        try:
            return msgspec.json.decode(response.body, type=of)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise SettingsError(
                f"{self.address}{path}: expected what an Open Inference Protocol endpoint answers, found "
                f"something else ({error}); name such an endpoint"
            ) from error

    def _ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Response:
        response = exchange(self.address, method, path, body, headers or {})
        if response.status >= 500:
            raise PlatformError(
                f"{self.address}: {method} {path} was answered with {response.status} "
                f"({said_by(response)}); look at the endpoint's log, or try again when it is ready"
            )
        if response.status >= 300:
            raise RefusedError(response.status, said_by(response))
        return response
