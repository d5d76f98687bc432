"""The Open Inference Protocol's bytes: read and written, and refused where they lie."""

import json
import struct
from typing import Any

import numpy as np
import pytest

from serving.errors import DataError
from serving.server import protocol
from serving.server.protocol import Call, Request, Tensor, TooLargeError, read, write

LIMIT = 100
STRINGS = ["", "a", "café 東京", "😀", '"quoted" \\ \n']


def described(**changes: Any) -> dict[str, Any]:
    return {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["a"]} | changes


def in_json(*inputs: dict[str, Any], **fields: Any) -> bytes:
    return json.dumps({"inputs": inputs, **fields}).encode()


def packed(*strings: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(each)) + each for each in strings)


def binary(content: bytes, *, shape: list[int], size: Any = None, **changes: Any) -> tuple[bytes, str]:
    """A request with one binary tensor, and its header."""
    parameters = {"binary_data_size": len(content) if size is None else size}
    tensor = {"name": "text", "shape": shape, "datatype": "BYTES", "parameters": parameters} | changes
    head = in_json(tensor)
    return head + content, str(len(head))


@pytest.mark.parametrize(
    ("shape", "data"),
    [
        ([5], STRINGS),
        ([5, 1], STRINGS),
        ([5, 1], [[each] for each in STRINGS]),
        ([1, 5], [STRINGS]),
        ([0], []),
        ([0, 1], []),
    ],
)
def test_strings_are_read_from_json(shape: list[int], data: list[Any]) -> None:
    """If it failed, clients that send JSON would be refused, or their texts mixed up."""
    found = read(in_json(described(shape=shape, data=data)), None, LIMIT)
    assert found.strings == {"text": STRINGS if data else []}


@pytest.mark.parametrize("strings", [STRINGS, [], [""], ["a"] * LIMIT])
def test_strings_are_read_from_binary_tensors(strings: list[str]) -> None:
    """If it failed, clients that send binary tensors, as Triton's do, would be refused."""
    body, length = binary(packed(*(each.encode() for each in strings)), shape=[len(strings)])
    assert read(body, length, LIMIT).strings == {"text": strings}


def test_several_binary_tensors_stand_in_their_order() -> None:
    """If it failed, one input's strings would be taken for another's."""
    first, second = packed(b"a", b"bc"), packed(b"d")
    head = in_json(
        {"name": "x", "shape": [2], "datatype": "BYTES", "parameters": {"binary_data_size": len(first)}},
        {"name": "y", "shape": [1], "datatype": "BYTES", "data": ["z"]},
        {"name": "v", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": len(second)}},
    )
    found = read(head + first + second, str(len(head)), LIMIT)
    assert found.strings == {"x": ["a", "bc"], "y": ["z"], "v": ["d"]}


def test_the_rest_of_a_request_is_read() -> None:
    """If it failed, a request's own id and parameters would be lost."""
    body = in_json(
        described(), id="7", parameters={"top_k": 2}, outputs=[{"name": "label"}], unknown={"ignored": [1]}
    )
    found: Request = read(body, None, LIMIT)
    assert found.call.id == "7"
    assert found.call.parameters == {"top_k": 2}
    assert found.call.outputs == [protocol.Output("label")]


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"", "as JSON"),
        (b"{", "as JSON"),
        (b"[]", "Expected `object`, got `array`"),
        (b"null", "Expected `object`, got `null`"),
        (b"{}", "missing required field `inputs`"),
        (b'{"inputs": 1}', r"\$\.inputs"),
        (b"\xff", "as JSON"),
        (b'{"inputs": [], "id": "\xff"}', "as JSON"),
        (b'{"inputs": [], "id": "\\ud800"}', "as JSON: .* half of a surrogate pair"),
        (b"[" * 100_000, "as JSON"),
        (b'{"inputs":' + b"[" * 100_000, "as JSON"),
        (b'{"parameters":' + b'{"a":' * 100_000, "as JSON"),
        (in_json(described(data=[1])), r"\$\.inputs\[0\]\.data\[0\]"),
        (in_json(described(data=[None])), r"\$\.inputs\[0\]\.data\[0\]"),
        (in_json(described(data=[["a", 1]])), r"\$\.inputs\[0\]\.data\[0\]\[1\]"),
        (in_json(described(data="a")), r"\$\.inputs\[0\]\.data"),
        (in_json(described(shape="1")), r"\$\.inputs\[0\]\.shape"),
        (in_json(described(shape=[1.5])), r"\$\.inputs\[0\]\.shape"),
        (in_json(described(name=1)), r"\$\.inputs\[0\]\.name"),
        (in_json(described(parameters=[])), r"\$\.inputs\[0\]\.parameters"),
        (in_json(described(), id=1), r"\$\.id"),
        (in_json(described(), outputs=[1]), r"\$\.outputs\[0\]"),
        (in_json(described(datatype="FP32")), "expected the datatype BYTES, found 'FP32'"),
        (in_json(described(shape=[])), "expected a shape such as"),
        (in_json(described(shape=[-1])), "expected a shape such as"),
        (in_json(described(shape=[-1, -1])), "expected a shape such as"),
        (in_json(described(shape=[1] * 9)), "expected a shape such as"),
        (in_json(described(shape=[2])), "has 2 elements, and the data 1"),
        (in_json(described(shape=[0])), "has 0 elements, and the data 1"),
        (in_json(described(data=[["a", "b"]])), "has 1 elements, and the data 2"),
        (in_json(described(data=None)), "has 1 elements, and the data 0"),
        (in_json(described(), described()), "input 'text' is there twice"),
        (in_json(described(parameters={"binary_data_size": 0})), "no data beside it"),
        (in_json(described()) + b"{}", "as JSON"),
    ],
)
def test_a_request_that_is_none_is_refused_in_words(body: bytes, what: str) -> None:
    """If it failed, a client would be told nothing, or get an answer to what it did not ask."""
    with pytest.raises(DataError, match=what) as caught:
        read(body, None, LIMIT)
    assert not isinstance(caught.value, TooLargeError)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("content", "shape", "what"),
    [
        (packed(b"a"), [2], "has 2 elements, and the binary data fewer"),
        (packed(b"a", b"b"), [1], "has 1 elements, and the binary data more"),
        (packed(b"a"), [0], "has 0 elements, and the binary data more"),
        (b"", [1], "has 1 elements, and the binary data fewer"),
        (packed(b"abc")[:-1], [1], "end within string 0"),
        (packed(b"abc")[:3], [1], "end within string 0"),
        (packed(b"a") + b"\0", [2], "end within string 1"),
        (b"\xff\xff\xff\xff", [1], "end within string 0"),
        (b"\xff\xff\xff\x7fa", [1], "end within string 0"),
        (packed(b"a", b"b\xff"), [2], r"string 1 is not UTF-8 \(byte 0xff at place 1\)"),
        (packed(b"\xed\xa0\x80"), [1], "string 0 is not UTF-8"),
        (packed("é".encode()[:1]), [1], "string 0 is not UTF-8"),
    ],
)
def test_binary_data_that_lie_are_refused(content: bytes, shape: list[int], what: str) -> None:
    """If it failed, a text would be cut, or made of the next one's length."""
    body, length = binary(content, shape=shape)
    with pytest.raises(DataError, match=what):
        read(body, length, LIMIT)


@pytest.mark.parametrize("size", [-1, 6, 10**30, 5.0, "5", True, [5]])
def test_a_size_that_lies_is_refused(size: Any) -> None:
    """If it failed, a request could reach beyond its own end."""
    body, length = binary(packed(b"a"), shape=[1], size=size)
    with pytest.raises(DataError, match="binary_data_size"):
        read(body, length, LIMIT)


@pytest.mark.parametrize("size", [0, 4])
def test_bytes_that_no_tensor_takes_are_refused(size: int) -> None:
    """If it failed, what a client believes to have sent would be dropped."""
    body, length = binary(packed(b""), shape=[size // 4], size=size)
    with pytest.raises(DataError, match="3 bytes are left behind"):
        read(body[: len(body) - 4 + size] + b"abc", length, LIMIT)


@pytest.mark.parametrize("length", ["-1", "1e3", "", "abc", "9" * 5000, "0" * 5000, "٣", "100000", " 5"])
def test_a_header_length_that_lies_is_refused(length: str) -> None:
    """If it failed, a client could have the server read what is no JSON, or beyond the end."""
    with pytest.raises(DataError, match="Inference-Header-Content-Length: expected at most"):
        read(in_json(described()), length, LIMIT)


@pytest.mark.parametrize("shape", [[LIMIT + 1], [LIMIT + 1, 1], [10**18], [10**18] * 8, [10**4200] * 2])
def test_too_many_strings_are_refused_before_they_are_read(shape: list[int]) -> None:
    """If it failed, one request could hold the server for seconds."""
    with pytest.raises(TooLargeError, match="expected at most 100 elements"):
        read(in_json(described(shape=shape)), None, LIMIT)
    body, length = binary(packed(b""), shape=shape)
    with pytest.raises(TooLargeError):
        read(body, length, LIMIT)


def test_an_answer_is_written_as_json() -> None:
    """If it failed, clients would get other numbers than the model's, or no JSON."""
    log_probs = np.log(np.array([[0.25, 0.75], [0.1, 0.9]], dtype=np.float32))
    tensors = [
        Tensor(name="log_probs", shape=[2, 2], data=log_probs),
        Tensor(name="label", shape=[2], data=["é", '"']),
    ]
    content, headers = write(Call(inputs=[], id="é7"), tensors, {"model_name": "m"})
    assert headers == {"content-type": "application/json"}
    found = json.loads(content)
    assert found["model_name"] == "m"
    assert found["id"] == "é7"
    first, second = found["outputs"]
    assert (first["name"], first["datatype"], first["shape"]) == ("log_probs", "FP32", [2, 2])
    assert np.array(first["data"], dtype=np.float32).tolist() == log_probs.ravel().tolist()
    assert second == {"name": "label", "datatype": "BYTES", "shape": [2], "data": ["é", '"']}


@pytest.mark.parametrize(
    ("call", "in_binary"),
    [
        (Call(inputs=[], parameters={"binary_data_output": True}), {"log_probs", "label"}),
        (Call(inputs=[], parameters={"binary_data_output": "yes"}), set()),
        (Call(inputs=[], outputs=[protocol.Output("label", {"binary_data": True})]), {"label"}),
        (
            Call(
                inputs=[],
                parameters={"binary_data_output": True},
                outputs=[protocol.Output("label", {"binary_data": False})],
            ),
            {"log_probs"},
        ),
    ],
)
def test_an_answer_is_written_as_binary_tensors_where_they_are_asked_for(
    call: Call, in_binary: set[str]
) -> None:
    """If it failed, clients that ask for binary tensors would read JSON as numbers."""
    log_probs = np.array([[1.5, -2.0]], dtype=np.float32)
    tensors = [
        Tensor(name="log_probs", shape=[1, 2], data=log_probs),
        Tensor(name="label", shape=[1], data=["é"]),
    ]
    content, headers = write(call, tensors, {})
    length = int(headers.get(protocol.HEADER_LENGTH, len(content)))
    assert headers["content-type"] == (protocol.BINARY if in_binary else protocol.JSON)
    place = length
    for each in json.loads(content[:length])["outputs"]:
        assert ("data" in each) == (each["name"] not in in_binary)
        if each["name"] in in_binary:
            size = each["parameters"]["binary_data_size"]
            found = content[place : place + size]
            expected = log_probs.tobytes() if each["name"] == "log_probs" else packed("é".encode())
            assert found == expected
            place += size
    assert place == len(content)
