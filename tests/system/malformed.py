"""Requests that no server should take, drawn from a seeded generator."""

import json
import random
import struct
from collections.abc import Callable
from typing import Any

from tests.system.server import INFER, call, request

MAX_TEXTS, MAX_TEXT_BYTES, MAX_REQUEST_BYTES = 64, 20_000, 100_000
"""The server's limits, low ones so that what is beyond them is quickly sent."""

Draw = Callable[[random.Random], bytes]


def draw_request(generator: random.Random) -> tuple[str, bytes]:
    """HTTP that can be read, and must be answered with 4xx while the connection is kept; and its kind."""
    name = generator.choice(sorted(READABLE))
    return name, READABLE[name](generator)


def draw_stream(generator: random.Random) -> tuple[str, bytes]:
    """What is no HTTP, or too much of it: 4xx and the connection's end, or its end alone; and its kind."""
    name = generator.choice(sorted(UNREADABLE))
    return name, UNREADABLE[name](generator)


def _tensor(**fields: Any) -> bytes:
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["yes"]} | fields
    return json.dumps({"inputs": [{name: each for name, each in tensor.items() if each is not ...}]}).encode()


def _nested(depth: int) -> str:
    return "[" * depth + "]" * depth


def _one_of(*bodies: bytes) -> Draw:
    return lambda generator: request(INFER, generator.choice(bodies))


def _cut(generator: random.Random) -> bytes:
    body = call(["me gusta", "日本語 の 本"], id="é")
    return request(INFER, body[: generator.randrange(len(body))])


def _control_character(generator: random.Random) -> bytes:
    body = call(["me gusta", "日本語 の 本"])
    place = generator.randrange(len(body))
    return request(INFER, body[:place] + bytes([generator.choice([0, 1, 8, 11, 31])]) + body[place:])


def _noise(generator: random.Random) -> bytes:
    return request(INFER, generator.randbytes(generator.randrange(1, 300)))


def _not_utf8(generator: random.Random) -> bytes:
    sequences = [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe6\x97", b"\x80"]
    return request(INFER, call(["hello X world"]).replace(b"X", generator.choice(sequences)))


def _half_a_character(generator: random.Random) -> bytes:
    escapes = [b"\\ud800", b"\\udfff", b"\\ud83d", b"\\udc00\\ud800", b"\\ud83dx", b"\\ud8"]
    return request(INFER, call(["hello X world"]).replace(b"X", generator.choice(escapes)))


def _too_deep(generator: random.Random) -> bytes:
    nested = _nested(generator.choice([900, 2_000, 40_000]))
    place = generator.choice(['"top_k":%s', '"threshold":%s'])
    body = '{"parameters":{%s},"inputs":[{"name":"text","shape":[1],"datatype":"BYTES","data":["a"]}]}'
    return request(INFER, (body % (place % nested)).encode())


def _huge_number(generator: random.Random) -> bytes:
    digits = "9" * generator.choice([19, 20, 400, 4_299, 4_301, 20_000])
    shapes = [f"[{digits}]", f"[-{digits}]", f"[{digits},{digits}]", f"[1,{digits}]", "[1e400]"]
    shape = generator.choice(shapes)
    return request(
        INFER, f'{{"inputs":[{{"name":"text","shape":{shape},"datatype":"BYTES","data":["a"]}}]}}'.encode()
    )


def _parameters(generator: random.Random) -> bytes:
    wrong: list[Any] = [{"top_k": each} for each in (0, -1, 1.5, "3", [], {}, True, -(10**30))]
    wrong += [{"threshold": each} for each in (2, -0.1, "x", [], True, 10**400)]
    wrong += [1, "a", []]
    return request(INFER, call(["yes"], parameters=generator.choice(wrong)))


def _outputs(generator: random.Random) -> bytes:
    log_probs = {"name": "log_probs"}
    wrong: list[Any] = [1, {}, [1], [{}], [{"name": 1}], [{"name": "x" * 5_000}], [log_probs, log_probs]]
    wrong += [[{"name": "label", "parameters": {"classification": 2}}]]
    return request(INFER, call(["yes"], outputs=generator.choice(wrong)))


def _binary(generator: random.Random) -> bytes:
    """A binary tensor of which one thing is not as it says."""
    strings = [b"me gusta", "日本語".encode(), b""]
    packed = b"".join(struct.pack("<I", len(each)) + each for each in strings)
    fields: dict[str, Any] = {"name": "text", "shape": [3], "datatype": "BYTES"}
    size: Any = len(packed)
    match generator.randrange(8):
        case 0:
            size = generator.choice([-1, size + 1, 10**30, 1.0, "12", [], True, 10**18])
        case 1:
            place = generator.choice([0, 4 + 8])
            wrong = struct.pack("<I", generator.choice([0xFFFFFFFF, 1 << 31, 6, 10, 200]))
            packed = packed[:place] + wrong + packed[place + 4 :]
        case 2:
            packed = packed.replace(b"gusta", generator.choice([b"gu\0ta", b"gu\xffta", b"gu\xed\xa0\x80"]))
            size = len(packed)
        case 3:
            fields["shape"] = generator.choice([[2], [4], [3, 2], [0], [10**18], []])
        case 4:
            packed += b"\0" * generator.choice([1, 4, 400])
        case 5:
            fields["data"] = ["me gusta", "日本語", ""]
        case 6:
            packed = packed[: generator.randrange(len(packed))]
        case 7:
            size -= generator.choice([1, 4, 20])
    fields["parameters"] = {"binary_data_size": size}
    head = json.dumps({"inputs": [fields]}).encode()
    return request(INFER, head + packed, f"inference-header-content-length: {len(head)}")


def _header_length(generator: random.Random) -> bytes:
    body = call(["yes"])
    wrong = [
        len(body) - 1,
        len(body) + 1,
        -1,
        "x",
        "",
        "1e2",
        "0x10",
        "²",
        "9" * 5_000,
        "0" * 5_000,
        0,
        1 << 64,
    ]
    header = f"inference-header-content-length: {generator.choice(wrong)}"
    return request(INFER, body, header, *(["inference-header-content-length: 5"] * generator.randrange(2)))


def _path(generator: random.Random) -> bytes:
    paths = [
        *("/v2%00", "/%00", "/v2/models/bowsprit%00/infer", "/v2/models/%ff%fe/infer", "/v2%0a", "//v2", "/"),
        *("/v2/models/bowsprit/versions/%E6%97%A5/infer", "/v2/models/../models/bowsprit/infer", "/v2/"),
        *("/v2/models/bowsprit/infer/", "/V2", "/v2/models//infer", "/%", "/%zz", "/?" + "a" * 9_000),
        *("/" + "a" * 9_000, "/v2/models/" + "%F0%9F%91%8D" * 500 + "/infer", "/v2/models/other/infer"),
        *("*", "/v2/models/bowsprit/versions/0/infer", "/v2/models/bowsprit/%69nfer%2f", "/v2;x", "/%2e%2e"),
    ]
    return request(generator.choice(paths), generator.choice([call(["yes"]), b"", generator.randbytes(100)]))


def _method(generator: random.Random) -> bytes:
    method = generator.choice(["PUT", "DELETE", "PATCH", "TRACE", "OPTIONS", "PROPFIND", "M-SEARCH", "PURGE"])
    path = generator.choice([INFER, "/v2", "/metrics", "/v2/health/ready", "/openapi.json"])
    return request(path, generator.choice([None, b"", b"{}"]), method=method)


def _too_large(generator: random.Random) -> bytes:
    bodies = [
        call(["x" * (MAX_TEXT_BYTES + 1)]),
        call(["é" * (MAX_TEXT_BYTES // 2 + 1)]),
        call([""] * (MAX_TEXTS + 1)),
        call(["x" * MAX_REQUEST_BYTES]),
        b" " * (MAX_REQUEST_BYTES + 1),
    ]
    return request(INFER, generator.choice(bodies))


def _encoded(generator: random.Random) -> bytes:
    encoding = generator.choice(["gzip", "br", "zstd", "x" * 5_000, "identity, gzip", "é"])
    return request(INFER, call(["yes"]), f"content-encoding: {encoding}")


def _dressed(generator: random.Random) -> bytes:
    """A bad body behind headers that ask for something else first."""
    headers = generator.choice(
        [
            ["expect: 100-continue"],
            ["connection: upgrade, http2-settings", "upgrade: h2c", "http2-settings: AAMAAABkAAQAAP__"],
            ["connection: upgrade", "upgrade: websocket", "sec-websocket-version: 13"],
            ["accept: image/png", "accept: text/html", "host: there", "cookie: \xff\xfe"],
            ["content-type: multipart/form-data; boundary=x", "te: trailers"],
            [f"x-{number}: {number}" for number in range(300)],
        ]
    )
    return request(INFER, generator.choice([b"{}", b"[]", b"null", b'"', b"", call(["a"])[:-1]]), *headers)


def _chunked(generator: random.Random) -> bytes:
    body = generator.choice([b"{}", b"[" * 300, call(["yes\0"]), b"x" * (MAX_REQUEST_BYTES + 5_000)])
    chunks = b""
    while body:
        size = min(len(body), generator.randrange(1, max(2, len(body) // 3 + 2)))
        chunks += b"%x;name=value\r\n" % size + body[:size] + b"\r\n"
        body = body[size:]
    trailer = generator.choice([b"", b"x-checksum: 1\r\n", b"x-sum: 2\r\nx: 3\r\n"])
    return (
        request(INFER, None, "transfer-encoding: chunked", method="POST")
        + chunks
        + b"0\r\n"
        + trailer
        + b"\r\n"
    )


READABLE: dict[str, Draw] = {
    "binary": _binary,
    "chunked": _chunked,
    "control character": _control_character,
    "cut": _cut,
    "data": _one_of(
        *(
            _tensor(data=each)
            for each in (..., None, "yes", 1, {}, [1], [None], [["a"], 1], [[["a"]]], [{}], [])
        )
    ),
    "datatype": _one_of(
        *(_tensor(datatype=each) for each in (..., None, "FP32", "bytes", "", 1, [], "BYTES\0", "x" * 30_000))
    ),
    "dressed": _dressed,
    "encoded": _encoded,
    "half a character": _half_a_character,
    "header length": _header_length,
    "huge number": _huge_number,
    "id": _one_of(*(call(["yes"], id=each) for each in (1, [], {}, True, 1.5))),
    "method": _method,
    "name": _one_of(*(_tensor(name=each) for each in (..., None, 1, "", "Text", "text\0", "x" * 30_000))),
    "noise": _noise,
    "not UTF-8": _not_utf8,
    "NUL": _one_of(call(["a\0b"]), call(["yes"] * 9 + ["\0"]), call(["é\0"])),
    "outputs": _outputs,
    "parameters": _parameters,
    "path": _path,
    "shape": _one_of(
        *(
            _tensor(shape=each)
            for each in (
                ...,
                None,
                1,
                "1",
                [],
                [2],
                [0],
                [-1],
                [1.5],
                ["1"],
                [[1]],
                [1, 2],
                [1, 1, 1],
                [1] * 9,
            )
        )
    ),
    "too deep": _too_deep,
    "too large": _too_large,
    "top": _one_of(b"", b"[]", b"1", b"null", b"{}", b'{"inputs":{}}', b'{"inputs":[]}', b'{"inputs":[1]}'),
}


def _post(*headers: str, body: bytes = b"") -> bytes:
    return request(INFER, None, *headers, method="POST") + body


def _choice(*streams: bytes) -> Draw:
    return lambda generator: generator.choice(streams)


UNREADABLE: dict[str, Draw] = {
    "chunk sizes": _choice(
        *(
            _post("transfer-encoding: chunked", body=each)
            for each in (
                *(
                    b"zz\r\n",
                    b"-1\r\n",
                    b"\r\n",
                    b"fffffffffffffffff\r\n",
                    b"5 5\r\nhello\r\n",
                    b"0x5\r\nhello\r\n",
                ),
                *(b"5\r\nhelloXX", b"5\nhello\n0\n\n", b"5\r\nhello\r\n0\r\nno trailer\r\n\r\n"),
            )
        )
    ),
    "endless": _choice(
        _post("transfer-encoding: chunked", body=b"2\r\n{}\r\n0\r\n" + b"x: y\r\n" * 100_000),
        _post("transfer-encoding: chunked", body=b"2\r\n{}\r\n0\r\nx: " + b"y" * 600_000),
        _post("transfer-encoding: chunked", body=b"2;" + b"y" * 600_000),
        b"GET /v2 HTTP/1.1\r\n" + b"x: y\r\n" * 100_000,
        b"GET /v2 HTTP/1.1\r\nx: " + b"y" * 600_000,
        b"GET /" + b"y" * 600_000,
        b"G" * 600_000,
    ),
    "head": _choice(
        *(
            b"GET /v2 HTTP/1.1\r\n" + each + b"\r\n\r\n"
            for each in (
                *(
                    b"no colon",
                    b": no name",
                    b"a b: c",
                    b"a\0b: c",
                    b"a: b\0c",
                    b"a : b",
                    b" folded: 1",
                    b"a: b\rc",
                ),
                *(b"\xff: 1", b"a(b): c", b"a: b\x01c", b"content-length: 1\r\ncontent-length: 2"),
            )
        )
    ),
    "length": _choice(
        *(
            _post(f"content-length: {each}", body=b"12345")
            for each in (
                "-1",
                "+5",
                "0x5",
                "5,5",
                "5 5",
                "1e1",
                "",
                "18446744073709551616",
                "9" * 400,
                "five",
            )
        ),
        _post("content-length: 5", "transfer-encoding: chunked", body=b"0\r\n\r\n"),
        _post("content-length: 5", "content-length: 5", body=b"12345"),
        _post("transfer-encoding: gzip", body=b"12345"),
        _post("transfer-encoding: chunked, gzip", body=b"12345"),
    ),
    "line": _choice(
        *(
            each + b"\r\nhost: here\r\n\r\n"
            for each in (
                *(
                    b"GET",
                    b"GET /v2 HTTP/9",
                    b"GET /v2 HTTP/1.1 x",
                    b"get /v2 HTTP/1.1",
                    b"GET  HTTP/1.1",
                    b"\0",
                ),
                *(
                    b"GET /v2\xff HTTP/1.1",
                    "GET /日本 HTTP/1.1".encode(),
                    b"GET /v2\0 HTTP/1.1",
                    b"FROB / HTTP/1.1",
                ),
                *(
                    b"CONNECT here:80 HTTP/1.1",
                    b"CONNECT /v2 HTTP/1.1",
                    b"GET http://[::1/ HTTP/1.1",
                    b"GET x HTTP/1.1",
                ),
            )
        )
    ),
    "noise": lambda generator: b"\x00" + generator.randbytes(generator.randrange(1, 3_000)),
    "other protocols": _choice(
        bytes.fromhex("16030100a5010000a10303") + bytes(160),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"EHLO here\r\n",
        b"*1\r\n$4\r\nPING\r\n",
    ),
}
