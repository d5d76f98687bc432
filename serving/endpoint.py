"""A client of the Open Inference Protocol, version 2, over HTTP: it knows tensors, and nothing of models.

The protocol has two encodings of tensors: JSON, and the binary tensor extension, in which they follow a
JSON header: FP32 as little-endian numbers, BYTES as strings with 4 bytes of length before each.
"""

import http.client
import math
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar
from urllib.parse import quote, unquote, urlsplit

import msgspec
import numpy as np
import numpy.typing as npt

from serving.errors import PlatformError, SettingsError

TIMEOUT_SECONDS = 60.0
"""For a connection, and for each time that nothing comes from it."""
BINARY = "binary_tensor_data"
"""How a server says that it speaks the binary tensor extension."""
CONFIGURATION = "model_configuration"
"""How a server says that it tells a model's configuration, as Triton does."""

_LENGTH = struct.Struct("<I")
_HEADER_LENGTH = "Inference-Header-Content-Length"
_PATH = re.compile(r"(?P<prefix>.*?)(?:/v2(?:/models/(?P<model>[^/]+)(?:/versions/(?P<version>[^/]+))?)?)?/?")


class RefusedError(Exception):
    """The endpoint will not do what it was asked: its status, from 300 to 499, and what it says."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}" if message else str(status))
        self.status = status


class AnswerError(Exception):
    """An answer is not what the protocol allows."""


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where an endpoint is, and perhaps which of its models is meant."""

    scheme: str
    host: str
    port: int | None
    prefix: str
    """What stands before /v2 in every path, mostly nothing."""
    model: str | None
    """None where the endpoint is to be asked which it has."""
    version: str | None
    """None for the one that the endpoint chooses."""

    @classmethod
    def parse(cls, url: str) -> Self:
        """Reads http(s)://HOST[:PORT][/v2/models/NAME[/versions/V]]; raises SettingsError for others."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), None
        path = _PATH.fullmatch(parts.path)
        extra = parts.query or parts.fragment or "@" in parts.netloc
        if parts.scheme not in ("http", "https") or not parts.hostname or extra or path is None:
            raise SettingsError(
                "expected the URL of an endpoint, http://HOST:PORT or http://HOST:PORT/v2/models/NAME, "
                f"without user, query and fragment, found {url.rpartition('@')[2]!r}"
            )
        model, version = path["model"], path["version"]
        return cls(
            scheme=parts.scheme,
            host=parts.hostname,
            port=port,
            prefix=path["prefix"],
            model=None if model is None else unquote(model),
            version=None if version is None else unquote(version),
        )

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port is None else f":{self.port}"
        return f"{self.scheme}://{host}{port}{self.prefix}"


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


class Tensor(msgspec.Struct, frozen=True):
    """A tensor of an answer, its values not read yet."""

    name: str
    datatype: str
    shape: list[int]
    data: msgspec.Raw = msgspec.Raw()
    parameters: dict[str, Any] | None = None


class _AnswerHead(msgspec.Struct, frozen=True):
    outputs: list[Tensor]
    parameters: dict[str, Any] | None = None


class _Models(msgspec.Struct, frozen=True):
    models: list[str | dict[str, Any]]


class _Indexed(msgspec.Struct, frozen=True):
    name: str
    state: str = "READY"


class _Problem(msgspec.Struct, frozen=True):
    error: str


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What an endpoint answered to some texts."""

    headers: Mapping[str, str]
    """By their names in lower case."""
    parameters: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    raw: Mapping[str, bytes]
    """The values of those tensors that came in binary."""

    def floats(self, name: str) -> npt.NDArray[np.float32]:
        """A tensor of FP32, in its shape."""
        tensor = self._tensor(name, "FP32")
        size = math.prod(tensor.shape)
        if name in self.raw:
            found = len(self.raw[name])
            if found != 4 * size:
                raise AnswerError(
                    f"{name}: expected {4 * size:,} bytes for the shape {tensor.shape}, found {found:,}"
                )
            return np.frombuffer(self.raw[name], dtype="<f4").reshape(tensor.shape).astype(np.float32)
        with np.errstate(over="ignore"):
            values = np.array(_flat(tensor, float), dtype=np.float32)
        return values.reshape(tensor.shape)

    def strings(self, name: str) -> tuple[list[str], list[int]]:
        """The values of a tensor of BYTES, and its shape."""
        tensor = self._tensor(name, "BYTES")
        if name not in self.raw:
            return _flat(tensor, str), tensor.shape
        values = _strings(name, self.raw[name])
        _check_number(tensor, len(values))
        return values, tensor.shape

    def _tensor(self, name: str, datatype: str) -> Tensor:
        tensor = self.tensors.get(name)
        if tensor is None:
            raise AnswerError(f"expected an output {name}, found {', '.join(self.tensors) or 'none'}")
        if tensor.datatype != datatype:
            raise AnswerError(f"{name}: expected the datatype {datatype}, found {tensor.datatype}")
        if any(size < 0 for size in tensor.shape):
            raise AnswerError(f"{name}: expected a shape, found {tensor.shape}")
        return tensor


@dataclass(frozen=True, kw_only=True)
class _Response:
    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes


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
            values = b"".join(_LENGTH.pack(len(text)) + text for text in encoded)
            tensor["parameters"] = {"binary_data_size": len(values)}
            wanted = [each | {"parameters": {"binary_data": True}} for each in wanted]
        else:
            tensor["data"] = list(texts)
        head = msgspec.json.encode({"inputs": [tensor], "outputs": wanted})
        if binary:
            headers = {"Content-Type": "application/octet-stream", _HEADER_LENGTH: str(len(head))}
        return _answer(self._ask("POST", f"{self._path}/infer", head + values, headers))

    def _only_model(self) -> str:
        names = self._model_names()
        if len(names) == 1:
            return names[0]
        example = f"{self.address}/v2/models/{quote(names[0], safe='') if names else 'NAME'}"
        if not names:
            raise PlatformError(f"{self.address}: the endpoint has no model that is ready; load one, or wait")
        raise SettingsError(
            f"{self.address}: the endpoint has {len(names)} models, {', '.join(names)}; name one: {example}"
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

    def _decoded(self, path: str, response: _Response, of: type[T]) -> T:
        try:
            return msgspec.json.decode(response.body, type=of)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise SettingsError(
                f"{self.address}{path}: expected what an Open Inference Protocol endpoint answers, found "
                f"something else ({error}); name such an endpoint"
            ) from error

    def _ask(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> _Response:
        response = self._exchange(method, path, body, headers or {})
        if response.status >= 500:
            raise PlatformError(
                f"{self.address}: {method} {path} was answered with {response.status} "
                f"({_said(response)}); look at the endpoint's log, or try again when it is ready"
            )
        if response.status >= 300:
            raise RefusedError(response.status, _said(response))
        return response

    def _exchange(self, method: str, path: str, body: bytes | None, headers: Mapping[str, str]) -> _Response:
        address = self.address
        kind = http.client.HTTPSConnection if address.scheme == "https" else http.client.HTTPConnection
        connection = kind(address.host, address.port, timeout=TIMEOUT_SECONDS)
        try:
            try:
                connection.request(method, address.prefix + path, body, dict(headers))
            except (BrokenPipeError, ConnectionResetError):
                # Who refuses a large body may answer, and hang up, before it has come.
                if body is None:
                    raise
            response = connection.getresponse()
            return _Response(
                status=response.status,
                reason=response.reason,
                headers={name.lower(): value for name, value in response.getheaders()},
                body=response.read(),
            )
        except TimeoutError as error:
            raise PlatformError(
                f"{address}: no answer to {method} {path} within {TIMEOUT_SECONDS:g} seconds; check that the "
                "endpoint runs, and that its host and port are these"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise PlatformError(
                f"{address}: cannot be reached by {method} {path} ({reason}); check that the endpoint runs, "
                "and that its host and port are these"
            ) from error
        finally:
            connection.close()


def _said(response: _Response) -> str:
    """What a refusal says: the protocol's `error`, or HTTP's reason; and where a redirection leads."""
    if "location" in response.headers:
        return f"{response.reason}, to {response.headers['location']}"
    try:
        return msgspec.json.decode(response.body, type=_Problem).error.strip()[:300] or response.reason
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return response.reason


def _answer(response: _Response) -> Answer:
    body, stated = response.body, response.headers.get(_HEADER_LENGTH.lower())
    length = len(body)
    if stated is not None:
        if not (stated.isascii() and stated.isdigit()) or int(stated) > len(body):
            raise AnswerError(
                f"{_HEADER_LENGTH}: expected a number of up to {len(body):,} bytes, found {stated!r}"
            )
        length = int(stated)
    try:
        head = msgspec.json.decode(body[:length], type=_AnswerHead)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise AnswerError(
            f"expected an answer in JSON with outputs, found something else ({error})"
        ) from error
    raw, end = {}, length
    for tensor in head.outputs:
        size = (tensor.parameters or {}).get("binary_data_size")
        if size is None:
            continue
        if not isinstance(size, int) or size < 0 or end + size > len(body):
            raise AnswerError(
                f"{tensor.name}: expected binary_data_size {size!r} bytes, found "
                f"{len(body) - end:,} that are left"
            )
        raw[tensor.name] = body[end : end + size]
        end += size
    if end != len(body):
        raise AnswerError(f"expected {end:,} bytes, found {len(body) - end:,} more that no output names")
    return Answer(
        headers=response.headers,
        parameters=head.parameters or {},
        tensors={tensor.name: tensor for tensor in head.outputs},
        raw=raw,
    )


def _flat(tensor: Tensor, of: type[T]) -> list[T]:
    """The values of a tensor in JSON; the protocol lets them be nested by its shape, or not."""
    for nested in (False, True):
        try:
            if nested:
                rows = msgspec.json.decode(tensor.data, type=list[list[of]])  # type: ignore[valid-type]
                values = [value for row in rows for value in row]
            else:
                values = msgspec.json.decode(tensor.data, type=list[of])  # type: ignore[valid-type]
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
            problem = str(error)
            continue
        _check_number(tensor, len(values))
        return values
    kind = "numbers" if of is float else "strings"
    raise AnswerError(f"{tensor.name}: expected {kind} in its data, found something else ({problem})")


def _check_number(tensor: Tensor, found: int) -> None:
    if found != math.prod(tensor.shape):
        raise AnswerError(
            f"{tensor.name}: expected {math.prod(tensor.shape):,} values for the shape {tensor.shape}, "
            f"found {found:,}"
        )


def _strings(name: str, raw: bytes) -> list[str]:
    values = []
    place = 0
    while place < len(raw):
        start = place + _LENGTH.size
        size = _LENGTH.unpack_from(raw, place)[0] if start <= len(raw) else len(raw)
        place = start + size
        if place > len(raw):
            raise AnswerError(
                f"{name}: expected strings with 4 bytes of length before each, found one cut off"
            )
        try:
            values.append(raw[start:place].decode())
        except UnicodeDecodeError as error:
            raise AnswerError(f"{name}: expected UTF-8, found {error.reason}") from error
    return values
