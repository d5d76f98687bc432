"""What an endpoint answers: tensors in JSON, or in binary behind it."""

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from serving.endpoint.http import Response
from serving.printable import printable

HEADER_LENGTH = "Inference-Header-Content-Length"
LENGTH = struct.Struct("<I")
"""Stands before each string of a binary tensor."""

_MAX_DIMENSIONS = 8
_MAX_VALUES = 1 << 40
"""More than any answer can hold; numpy takes no more than 64 dimensions, nor more bytes than 2**63."""
_MAX_MESSAGE = 1000
"""Characters: what an answer says of itself may be as long as the answer."""

T = TypeVar("T")


class AnswerError(Exception):
    """An answer is not what the protocol allows; the message may quote it."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message[:_MAX_MESSAGE]))


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
        shape = tensor.shape
        if (
            len(shape) > _MAX_DIMENSIONS
            or any(size < 0 for size in shape)
            or math.prod(max(size, 1) for size in shape) > _MAX_VALUES
        ):
            raise AnswerError(f"{name}: expected a shape, found {shape}")
        return tensor


def read_answer(response: Response) -> Answer:
    """Reads an answer; raises AnswerError where it is malformed."""
    body, stated = response.body, response.headers.get(HEADER_LENGTH.lower())
    length = len(body)
    if stated is not None:
        # Python makes no number of thousands of digits.
        is_number = stated.isascii() and stated.isdigit() and len(stated) < 20
        if not is_number or int(stated) > len(body):
            raise AnswerError(
                f"{HEADER_LENGTH}: expected a number of up to {len(body):,} bytes, found {stated!r}"
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
        start = place + LENGTH.size
        size = LENGTH.unpack_from(raw, place)[0] if start <= len(raw) else len(raw)
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
