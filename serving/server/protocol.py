"""The Open Inference Protocol, version 2, over REST: requests and answers as JSON, or with binary tensors.

Strings go in (datatype BYTES); float32 (FP32) and strings come out. With the binary tensor extension a
header `Inference-Header-Content-Length` says how many bytes of the body are JSON; the tensors follow, in
their order there. A string is four bytes, its length as a little-endian number, and its UTF-8.

Source: https://github.com/kserve/open-inference-protocol and Triton's extension_binary_data.md.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import orjson

from serving.errors import DataError

HEADER_LENGTH = "inference-header-content-length"
EXTENSIONS = ["binary_tensor_data"]
BINARY = "application/octet-stream"
JSON = "application/json"
MAX_DIMENSIONS = 8


class TooLargeError(DataError):
    """More than the server takes at a time."""


class Input(msgspec.Struct, frozen=True):
    """A tensor of a request, as its JSON describes it."""

    name: str
    shape: list[int]
    datatype: str
    data: list[str | list[str]] | None = None
    """Flat, or a list for each row; None where the tensor is binary."""
    parameters: dict[str, Any] | None = None


class Output(msgspec.Struct, frozen=True):
    """A tensor that a request asks for."""

    name: str
    parameters: dict[str, Any] | None = None


class Call(msgspec.Struct, frozen=True):
    """The JSON of a request. Some languages write null for what is not there."""

    inputs: list[Input]
    id: str | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[Output] | None = None
    """None or empty for all."""


class Request(NamedTuple):
    """A request, read."""

    call: Call
    strings: dict[str, list[str]]
    """The elements of each input, row after row, by its name."""


class Tensor(NamedTuple):
    """A tensor of an answer."""

    name: str
    shape: Sequence[int]
    data: npt.NDArray[np.float32] | list[str]
    """Strings row after row."""


_CALL = msgspec.json.Decoder(Call)


def read(body: bytes, header_length: str | None, max_elements: int) -> Request:
    """Reads a request's body.

    header_length: the header `Inference-Header-Content-Length`; None where there is none.
    max_elements: how many strings a tensor may have.

    Raises DataError that says what is wrong, TooLargeError for too many strings.
    """
    json_size = len(body) if header_length is None else _json_size(header_length, len(body))
    try:
        call = _CALL.decode(memoryview(body)[:json_size])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        # What msgspec says of both.
        found = str(error).replace(
            "Input data was truncated",
            "it ends too soon, or a string holds half of a surrogate pair (\\ud800)",
        )
        raise DataError(f"expected a request of the Open Inference Protocol as JSON: {found}") from error
    strings: dict[str, list[str]] = {}
    place = json_size
    for each in call.inputs:
        if each.name in strings:
            raise DataError(f"input {each.name!r} is there twice")
        if each.datatype != "BYTES":
            raise DataError(f"input {each.name!r}: expected the datatype BYTES, found {each.datatype!r}")
        number = _num_elements(each, max_elements)
        size = each.parameters.get("binary_data_size") if each.parameters else None
        if size is None:
            strings[each.name] = _flat(each, number)
            continue
        if type(size) is not int or not 0 <= size <= len(body) - place or each.data is not None:
            raise DataError(
                f"input {each.name!r}: expected binary_data_size to be at most the "
                f"{len(body) - place:,} bytes that are left, and no data beside it; found {str(size)[:40]}"
            )
        strings[each.name] = _unpacked(body[place : place + size], number, each.name)
        place += size
    if place != len(body):
        raise DataError(f"{len(body) - place:,} bytes are left behind the last tensor of the request")
    return Request(call=call, strings=strings)


def write(
    call: Call, tensors: Sequence[Tensor], fields: Mapping[str, object]
) -> tuple[bytes, dict[str, str]]:
    """The body and the headers of an answer.

    tensors: in the order in which they are given.
    fields: what else its JSON holds, such as the model's name.
    """
    by_default = (call.parameters or {}).get("binary_data_output", False) is True
    asked = {
        output.name: (output.parameters or {}).get("binary_data", by_default) is True
        for output in call.outputs or ()
    }
    outputs, packed = [], []
    for tensor in tensors:
        as_text = isinstance(tensor.data, list)
        described: dict[str, object] = {
            "name": tensor.name,
            "shape": tensor.shape,
            "datatype": "BYTES" if as_text else "FP32",
        }
        if asked.get(tensor.name, by_default):
            content = _packed(tensor.data)
            described["parameters"] = {"binary_data_size": len(content)}
            packed.append(content)
        else:
            described["data"] = tensor.data if isinstance(tensor.data, list) else tensor.data.ravel()
        outputs.append(described)
    answer = {**fields, "outputs": outputs}
    if call.id is not None:
        answer["id"] = call.id
    header = orjson.dumps(answer, option=orjson.OPT_SERIALIZE_NUMPY)
    if not packed:
        return header, {"content-type": JSON}
    return b"".join([header, *packed]), {"content-type": BINARY, HEADER_LENGTH: str(len(header))}


def _json_size(header_length: str, size: int) -> int:
    is_number = header_length.isascii() and header_length.isdecimal() and len(header_length) <= 20
    if not is_number or int(header_length) > size:
        raise DataError(
            f"header Inference-Header-Content-Length: expected at most the {size:,} bytes of the request, "
            f"found {header_length[:40]!r}"
        )
    return int(header_length)


def _num_elements(described: Input, limit: int) -> int:
    shape = described.shape
    if not 1 <= len(shape) <= MAX_DIMENSIONS or min(shape) < 0:
        raise DataError(f"input {described.name!r}: expected a shape such as [1], found {str(shape)[:80]}")
    number = math.prod(shape)
    if number > limit:
        # Python writes no number of thousands of digits.
        found = f"{number:,}" if number < 1 << 64 else "far more"
        raise TooLargeError(f"input {described.name!r}: expected at most {limit:,} elements, found {found}")
    return number


def _flat(described: Input, number: int) -> list[str]:
    data: Any = described.data or []
    found: list[str] = data
    if not set(map(type, data)) <= {str}:
        found = []
        for each in data:
            found.append(each) if isinstance(each, str) else found.extend(each)
    if described.data is None or len(found) != number:
        raise DataError(
            f"input {described.name!r}: shape {described.shape} has {number:,} elements, and the data "
            f"{len(found):,}"
        )
    return found


def _unpacked(content: bytes, number: int, name: str) -> list[str]:
    """The strings of a binary tensor."""
    found: list[str] = []
    place = 0
    while place < len(content) and len(found) < number:
        start = place + 4
        place = start + int.from_bytes(content[place:start], "little")
        if start > len(content) or place > len(content):
            raise DataError(f"input {name!r}: the binary data end within string {len(found)}")
        try:
            found.append(content[start:place].decode())
        except UnicodeDecodeError as error:
            raise DataError(
                f"input {name!r}: string {len(found)} is not UTF-8 (byte {content[start + error.start]:#04x} "
                f"at place {error.start})"
            ) from error
    if len(found) != number or place != len(content):
        raise DataError(
            f"input {name!r}: the shape has {number:,} elements, and the binary data "
            f"{'fewer' if len(found) < number else 'more'}"
        )
    return found


def _packed(data: npt.NDArray[np.float32] | list[str]) -> bytes:
    if isinstance(data, list):
        encoded = [each.encode() for each in data]
        return b"".join(part for each in encoded for part in (len(each).to_bytes(4, "little"), each))
    return data.astype("<f4", copy=False).tobytes()
