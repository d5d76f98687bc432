"""The server's paths, called without a network."""

import json
import re
import struct
from pathlib import Path

import numpy as np
import pytest

from serving.errors import ArtifactError
from serving.predictor import Predictor
from serving.server.infer import INLINE_CHARACTERS
from serving.server.settings import server_settings
from tests.answer import Answer
from tests.serving.server.asgi import call
from tests.serving.server.server import INFER, Server, request

TEXTS = ["w1 w2 café", "", "w3 東京 unknown"]


@pytest.fixture
def server(trained: Path) -> Server:
    made = Server(trained, server_settings({}))
    made.load()
    return made


@pytest.fixture(scope="module")
def predictor(trained: Path) -> Predictor:
    return Predictor.load(trained)


def infer(server: Server, body: bytes, path: str = INFER, **headers: str) -> Answer:
    return call(server.app, "POST", path, [body], headers)


def test_texts_are_answered_with_the_models_numbers(server: Server, predictor: Predictor) -> None:
    """If it failed, what is served would not be what was trained."""
    reply = infer(server, request(*TEXTS, id="7"))
    assert reply.status == 200
    assert reply.headers["bowsprit-bundle"] == predictor.bundle_id
    found = reply.json
    assert (found["model_name"], found["model_version"]) == ("bowsprit", predictor.version)
    assert (found["id"], found["parameters"]) == ("7", {"bundle_id": predictor.bundle_id})
    log_probs, label = found["outputs"]
    assert (log_probs["name"], log_probs["datatype"], log_probs["shape"]) == ("log_probs", "FP32", [3, 5])
    expected = predictor.log_probs(TEXTS)
    assert (np.array(log_probs["data"], dtype=np.float32).reshape(3, 5) == expected).all()
    assert (label["name"], label["datatype"], label["shape"]) == ("label", "BYTES", [3])
    assert label["data"] == [each.label for (each,) in predictor.predict(TEXTS)]


@pytest.mark.parametrize("number", [0, 1, 1024])
def test_any_number_of_texts_up_to_the_limit_is_answered(
    server: Server, predictor: Predictor, number: int
) -> None:
    """If it failed, an empty or a full request would be refused, or answered short."""
    texts = [f"w{row % 290} w{row % 7}" for row in range(number)]
    log_probs, label = infer(server, request(*texts)).json["outputs"]
    assert log_probs["shape"] == [number, 5]
    assert label["shape"] == [number]
    found = np.array(log_probs["data"], dtype=np.float32).reshape(number, 5)
    assert (found == predictor.log_probs(texts)).all()


def test_large_requests_are_answered_as_small_ones_are(server: Server, predictor: Predictor) -> None:
    """If it failed, what is classified by a thread would be lost or mixed up."""
    texts = ["w1 " * INLINE_CHARACTERS, "w2"]
    log_probs, _ = infer(server, request(*texts)).json["outputs"]
    found = np.array(log_probs["data"], dtype=np.float32).reshape(2, 5)
    assert (found == predictor.log_probs(texts)).all()


def test_a_column_of_texts_is_as_good_as_a_list(server: Server) -> None:
    """If it failed, clients of a Triton with batching could not be pointed here."""
    body = {"inputs": [{"name": "text", "shape": [2, 1], "datatype": "BYTES", "data": [["w1"], ["w2"]]}]}
    assert infer(server, json.dumps(body).encode()).json == infer(server, request("w1", "w2")).json


def test_null_is_as_good_as_nothing(server: Server) -> None:
    """If it failed, clients in languages that write null for a field that is not set would be refused."""
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["w1"], "parameters": None}
    for outputs in (None, [{"name": name, "parameters": None} for name in ("log_probs", "label")]):
        body = {"id": None, "inputs": [tensor], "parameters": None, "outputs": outputs}
        assert infer(server, json.dumps(body).encode()).json == infer(server, request("w1")).json


def test_binary_tensors_are_taken_and_given(server: Server, predictor: Predictor) -> None:
    """If it failed, Triton's clients, which send them, could not talk to this server."""
    content = b"".join(struct.pack("<I", len(each.encode())) + each.encode() for each in TEXTS)
    tensor = {
        "name": "text",
        "shape": [3],
        "datatype": "BYTES",
        "parameters": {"binary_data_size": len(content)},
    }
    outputs = [{"name": "log_probs", "parameters": {"binary_data": True}}]
    head = json.dumps({"inputs": [tensor], "outputs": outputs}).encode()
    reply = infer(server, head + content, **{"Inference-Header-Content-Length": str(len(head))})
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/octet-stream"
    length = int(reply.headers["inference-header-content-length"])
    (described,) = json.loads(reply.body[:length])["outputs"]
    assert described["parameters"] == {"binary_data_size": 60}
    found = np.frombuffer(reply.body[length:], dtype="<f4").reshape(3, 5)
    assert (found == predictor.log_probs(TEXTS)).all()


def test_the_parameters_choose_labels(server: Server, predictor: Predictor) -> None:
    """If it failed, clients would sort and cut all labels themselves."""
    reply = infer(server, request(*TEXTS, parameters={"top_k": 2}))
    log_probs, label = reply.json["outputs"]
    expected = predictor.predict(TEXTS, top_k=2)
    assert log_probs["shape"] == label["shape"] == [3, 2]
    assert label["data"] == [each.label for row in expected for each in row]
    sure = infer(server, request(*TEXTS, parameters={"threshold": 1.0})).json["outputs"][1]
    assert sure["data"] == ["", "", ""]


@pytest.mark.parametrize("names", [["label"], ["log_probs"], ["label", "log_probs"]])
def test_only_the_outputs_asked_for_are_given_in_their_order(server: Server, names: list[str]) -> None:
    """If it failed, a client would get what it did not ask for, or take one output for another."""
    found = infer(server, request("w1", outputs=[{"name": name} for name in names])).json["outputs"]
    assert [each["name"] for each in found] == names


@pytest.mark.parametrize(
    ("body", "what"),
    [
        (b"{}", "inputs"),
        (json.dumps({"inputs": []}).encode(), "expected one input, 'text', found none"),
        (request("a").replace(b'"text"', b'"bow"'), "expected one input, 'text', found 'bow'"),
        (request("a\0b"), "NUL"),
        (request("a").replace(b"[1]", b"[1, 1, 1]"), "expected a shape"),
        (request("a").replace(b"[1]", b"[1, 2]"), "shape"),
        (request("a", parameters={"top_k": 0}), "top_k"),
        (request("a", parameters={"threshold": "x"}), "threshold"),
        (request("a", outputs=[{"name": "probs"}]), "log_probs, label"),
        (request("a", outputs=[{"name": "label"}, {"name": "label"}]), "log_probs, label"),
        (request("a", outputs=[{"name": "label", "parameters": {"classification": 3}}]), "use .* top_k"),
    ],
)
def test_a_mistake_is_the_clients_and_is_named(server: Server, body: bytes, what: str) -> None:
    """If it failed, a client's mistake would look like a failure of the server, or go unnoticed."""
    reply = infer(server, body)
    assert reply.status == 400
    assert re.search(what, reply.error)


def test_limits_end_in_413_and_name_the_limit(trained: Path) -> None:
    """If it failed, one client could take the memory and the time of all."""
    environ = {"MAX_TEXTS": "3", "MAX_TEXT_BYTES": "10", "MAX_REQUEST_BYTES": "300"}
    settings = server_settings({f"BOW_SERVE_{name}": value for name, value in environ.items()})
    server = Server(trained, settings)
    server.load()
    assert infer(server, request("é" * 5, "a", "b")).status == 200
    for body, limit in (
        (request("a", "b", "c", "d"), "at most 3 elements, found 4"),
        (request("a", "é" * 5 + "x"), "text 1: expected at most 10 bytes, found 11"),
        (request("a", id="x" * 300), "at most 300 bytes"),
    ):
        reply = infer(server, body)
        assert (reply.status, limit in reply.error) == (413, True), reply.error
    told = call(server.app, "POST", INFER, [b"x" * 200, b"x" * 200])
    assert told.status == 413
    declared = call(server.app, "POST", INFER, [b"{}"], {"Content-Length": "301"})
    assert declared.status == 413
    assert "found 301" in declared.error


def test_a_body_in_parts_is_one_request(server: Server) -> None:
    """If it failed, requests that come over a slow network would be cut."""
    body = request(*TEXTS)
    reply = call(server.app, "POST", INFER, [body[:9], body[9:10], b"", body[10:]])
    assert reply.json == infer(server, body).json


def test_an_encoded_body_is_refused(server: Server) -> None:
    """If it failed, a few bytes could unpack into gigabytes."""
    assert infer(server, b"x", **{"Content-Encoding": "gzip"}).status == 415


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/v2/models/other/infer", 404, "'bowsprit'"),
        ("/v2/models/bowsprit/versions/000000000000/infer", 404, "'000000000000'; this is "),
        ("/v2/models/bowsprit/infer/", 404, "no path '/v2/models/bowsprit/infer/'; there are "),
        ("/v1/models/bowsprit:predict", 404, " /v2/models/bowsprit/infer, "),
        ("/" + "é" * 5000, 404, " /openapi.json"),
        ("/v2/models/bowsprit", 405, "'/v2/models/bowsprit': expected GET or HEAD, found POST"),
        ("/v2/health/ready", 405, "'/v2/health/ready': expected GET or HEAD, found POST"),
    ],
)
def test_what_is_not_there_is_said_in_json(server: Server, path: str, status: int, said: str) -> None:
    """If it failed, a client would get a page for people, another model's answer, or no advice."""
    reply = infer(server, request("a"), path)
    assert reply.status == status
    assert said in reply.error


def test_the_paths_that_are_told_are_those_that_there_are(server: Server, predictor: Predictor) -> None:
    """If it failed, who asks for a wrong path would be sent to another wrong one."""
    told = call(server.app, "GET", "/").error.partition("; there are ")[2].split(", ")
    assert set(told) == set(call(server.app, "GET", "/openapi.json").json["paths"])
    for path in told:
        found = path.replace("{version}", predictor.version)
        assert call(server.app, "GET", found).status == (405 if path.endswith("/infer") else 200)


def test_a_wrong_method_is_told_the_right_one_in_the_header_too(server: Server) -> None:
    """If it failed, clients that read `Allow`, as HTTP has it, would have nothing to go by."""
    reply = call(server.app, "GET", INFER)
    assert (reply.status, reply.headers["allow"]) == (405, "POST")
    assert reply.error == f"'{INFER}': expected POST, found GET"
    assert call(server.app, "DELETE", "/v2").headers["allow"] == "GET, HEAD"


def test_a_version_is_the_beginning_of_the_bundles_id(server: Server, predictor: Predictor) -> None:
    """If it failed, a client could not pin the model that it was tested with."""
    path = f"/v2/models/bowsprit/versions/{predictor.version}"
    assert infer(server, request("a"), f"{path}/infer").status == 200
    assert call(server.app, "GET", f"{path}/ready").json == {"name": "bowsprit", "ready": True}
    assert call(server.app, "GET", path).json == call(server.app, "GET", "/v2/models/bowsprit").json
    assert call(server.app, "GET", "/v2/models/bowsprit/versions/0/ready").status == 404


def test_the_version_is_not_read_for_each_request(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it failed, each of these requests would keep all others waiting for a disk."""
    monkeypatch.delattr("importlib.metadata.distribution")
    for path in ("/v2", "/openapi.json"):
        assert call(server.app, "GET", path).status == 200


def test_the_metadata_have_real_shapes_and_labels(server: Server, predictor: Predictor) -> None:
    """If it failed, clients that prepare themselves by the metadata would prepare for another model."""
    found = call(server.app, "GET", "/v2/models/bowsprit").json
    assert found["versions"] == [predictor.version]
    assert found["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
    assert found["outputs"] == [
        {"name": "log_probs", "datatype": "FP32", "shape": [-1, 5]},
        {"name": "label", "datatype": "BYTES", "shape": [-1]},
    ]
    assert found["labels"] == predictor.labels
    assert found["parameters"] == {"bundle_id": predictor.bundle_id, "provider": "CPUExecutionProvider"}
    described = call(server.app, "GET", "/v2").json
    assert described["name"] == "bowsprit"
    assert described["extensions"] == ["binary_tensor_data"]
    assert call(server.app, "GET", "/v2/models").json == {"models": ["bowsprit"]}


def test_it_is_alive_at_once_and_ready_once_the_bundle_is_proven(trained: Path) -> None:
    """If it failed, a cluster would kill a server that loads, or send requests to it."""
    server = Server(trained, server_settings({}))
    assert call(server.app, "GET", "/v2/health/live").status == 200
    for path in ("/v2/health/ready", "/v2/models/bowsprit/ready", "/v2/models/bowsprit"):
        assert call(server.app, "GET", path).status == 503
    assert infer(server, request("a")).status == 503
    server.load()
    for path in ("/v2/health/ready", "/v2/models/bowsprit/ready", "/v2/models/bowsprit"):
        assert call(server.app, "GET", path).status == 200


def test_a_bundle_that_cannot_be_proven_is_never_served(copy: Path) -> None:
    """If it failed, the server would start with a damaged model."""
    (copy / "model.onnx").write_bytes(b"")
    server = Server(copy, server_settings({}))
    with pytest.raises(ArtifactError):
        server.load()
    assert infer(server, request("a")).status == 503


def test_while_it_drains_it_answers_and_sends_clients_elsewhere(server: Server) -> None:
    """If it failed, requests would be lost whenever a server is replaced."""
    server.service.draining = True
    assert call(server.app, "GET", "/v2/health/ready").status == 503
    assert call(server.app, "GET", "/v2/health/live").status == 200
    reply = infer(server, request("a"))
    assert (reply.status, reply.headers["connection"]) == (200, "close")


def test_prometheus_is_told_what_was_answered(server: Server, predictor: Predictor) -> None:
    """If it failed, nobody would be warned of errors, or know which bundle is served."""
    infer(server, request(*TEXTS))
    infer(server, b"{}")
    found = call(server.app, "GET", "/metrics").body.decode().splitlines()
    for line in (
        'bowsprit_requests_total{status="200"} 1.0',
        'bowsprit_requests_total{status="400"} 1.0',
        "bowsprit_texts_total 3.0",
        "bowsprit_request_seconds_count 2.0",
        f'bowsprit_model_info{{bundle_id="{predictor.bundle_id}",provider="CPUExecutionProvider"}} 1.0',
    ):
        assert line in found


def test_predictions_by_version_are_timed_too(server: Server, predictor: Predictor) -> None:
    """If it failed, clients that pin a version would be missing from the latencies."""
    infer(server, request("a"), f"/v2/models/bowsprit/versions/{predictor.version}/infer")
    found = call(server.app, "GET", "/metrics").body.decode().splitlines()
    assert "bowsprit_request_seconds_count 1.0" in found


def test_a_client_that_leaves_is_counted_as_one(server: Server) -> None:
    """If it failed, clients' time limits would look like clients' mistakes."""
    assert call(server.app, "POST", INFER, []).status == 499
    assert b'bowsprit_requests_total{status="499"} 1.0' in call(server.app, "GET", "/metrics").body


def test_each_request_is_a_line_of_the_log_without_its_texts(server: Server) -> None:
    """If it failed, nobody could tell what was asked, or a log would hold what people wrote."""
    infer(server, request(*TEXTS))
    infer(server, request("secret\0"))
    first, second = (line for line in server.lines() if line["event"] == "request")
    assert (first["method"], first["path"], first["status"], first["texts"]) == ("POST", INFER, 200, 3)
    assert first["received"] == len(request(*TEXTS))
    assert first["client"] == "192.0.2.1"
    assert (second["status"], second["received"]) == (400, len(request("secret\0")))
    assert "café" not in server.written.getvalue()
    assert "secret" not in server.written.getvalue()


def test_a_bug_is_told_as_one_and_logged(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it failed, a mistake of ours would be the client's, or leave no trace."""
    monkeypatch.setattr("serving.server.infer_path.answer_of", lambda *_: 1 / 0)
    reply = infer(server, request("a"))
    assert reply.status == 500
    assert "report" in reply.error
    (line,) = (line for line in server.lines() if line["event"] == "bug")
    assert "ZeroDivisionError" in line["traceback"]


def test_the_interface_is_described_for_tools(server: Server) -> None:
    """If it failed, generated clients and checkers would have nothing to go by."""
    found = call(server.app, "GET", "/openapi.json").json
    assert found["openapi"].startswith("3.1")
    for path, methods in found["paths"].items():
        for method in methods.keys() & {"get", "post"}:
            status = call(server.app, method.upper(), path, [request("a")]).status
            assert str(status) in methods[method]["responses"], path
