"""Real clients against both servers: every reply is the original model's.

`tritonclient` over HTTP against our own server, over gRPC and HTTP against the KServe adapter, and the
commands and programs of docs/serving/README.md as they are printed there.
"""

import contextlib
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from job.environment import load_settings
from job.run import run
from job.telling.output import Output
from serving.answer import answer, selection_of
from serving.bundle import FILES, open_bundle
from serving.errors import ExitCode
from serving.parity.adversarial import adversarial_texts, in_batches
from serving.parity.golden import read_golden
from serving.parity.rungs import Tolerance, check, compare, merge
from serving.parity.verify import read_parameters, reference_of
from serving.predictor import Predictor
from tests.system.conftest import REPOSITORY, Environment

pytestmark = pytest.mark.system

GUIDE = REPOSITORY / "docs" / "serving" / "README.md"
TRITONCLIENT = "tritonclient[http,grpc]==2.73.0"
SECONDS_TO_START = 60

CLIENT = r"""
import importlib, json, sys
import numpy as np
from tritonclient.utils import InferenceServerException

way, url = sys.argv[1:]
client = importlib.import_module("tritonclient.grpc" if way == "grpc" else "tritonclient.http")
server = client.InferenceServerClient(url)
kind = {} if way == "grpc" else {"binary_data": way == "http-binary"}
# KServe takes JSON for such only if it is told so.
headers = {"Content-Type": "application/json"} if way == "http-json" else {}

def plain(response):
    if way != "grpc":
        return response
    parameters = {name: each.string_param for name, each in response.parameters.items()}
    return {"id": response.id, "model_name": response.model_name, "parameters": parameters,
            "model_version": response.model_version}

def asked(request):
    texts = np.empty(len(request["texts"]), dtype=object)
    texts[:] = [text.encode() for text in request["texts"]]
    tensor = client.InferInput("text", request["shape"], "BYTES")
    tensor.set_data_from_numpy(texts.reshape(request["shape"]), **kind)
    names = request.get("outputs", ["log_probs", "label"])
    # Without outputs a client over HTTP asks for all of them, in binary.
    outputs = [client.InferRequestedOutput(name, **kind) for name in names] or None
    try:
        result = server.infer("bowsprit", [tensor], outputs=outputs, request_id=request.get("id", ""),
                              parameters=request.get("parameters"), headers=headers)
    except InferenceServerException as error:
        return {"status": error.status(), "message": error.message()}
    log_probs, label = result.as_numpy("log_probs"), result.as_numpy("label")
    return plain(result.get_response()) | {
        "log_probs": None if log_probs is None else [str(log_probs.dtype), log_probs.tolist()],
        "log_probs_shape": None if log_probs is None else log_probs.shape,
        "label": [each.decode() if isinstance(each, bytes) else each for each in label.ravel().tolist()],
        "label_shape": label.shape,
    }

metadata = {} if way != "grpc" else {"as_json": True}
described = server.get_model_metadata("bowsprit", **metadata)
ready = [server.is_server_live(), server.is_server_ready(), server.is_model_ready("bowsprit")]
answers = [asked(request) for request in json.load(sys.stdin)]
json.dump({"metadata": described, "ready": ready, "answers": answers}, sys.stdout)
"""


@dataclass(frozen=True)
class Way:
    """A server, and how tritonclient speaks with it."""

    server: str
    protocol: str
    address: str


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The extras `serving` and `kserve` by constraints.txt as it says, and tritonclient."""
    folder = tmp_path_factory.mktemp("clients")
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    # tritonclient in its turn refuses the newest ml-dtypes.
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    kept = [line for line in lines if not line.startswith(("protobuf==", "ml-dtypes=="))]
    (folder / "constraints.txt").write_text("\n".join(kept))
    environment = Environment(folder / "venv")
    required = [*project["dependencies"], *extras["serving"], *extras["kserve"], TRITONCLIENT]
    environment.install("--no-compile", "-c", str(folder / "constraints.txt"), *required)
    return environment


@contextlib.contextmanager
def started(command: list[str], ready: str, log: Path, **settings: str) -> Iterator[subprocess.Popen[bytes]]:
    """A server, once it answers on `ready`; ended by SIGTERM, upon which it must end as if all was done."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("BOW_", "PYTHON"))}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=REPOSITORY, env=environ | settings, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        deadline = time.monotonic() + SECONDS_TO_START
        while not answers(ready):
            assert process.poll() is None, log.read_text()[-4000:]
            assert time.monotonic() < deadline, log.read_text()[-4000:]
            time.sleep(0.05)
        yield process
    except BaseException:
        process.kill()
        raise
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=SECONDS_TO_START)
    assert code == ExitCode.DONE, log.read_text()[-4000:]


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return bool(response.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def serve(bundle: Path, port: int, log: Path) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    """Our own server."""
    return started(
        [sys.executable, "-m", "serving", "serve", str(bundle)],
        f"http://127.0.0.1:{port}/v2/health/ready",
        log,
        BOW_SERVE_PORT=str(port),
        # The longest of the adversarial texts has 100,000 words.
        BOW_SERVE_MAX_TEXT_BYTES=str(4 << 20),
        BOW_SERVE_MAX_REQUEST_BYTES=str(16 << 20),
    )


def serve_by_kserve(
    environment: Environment, bundle: Path, port: int, grpc_port: int, log: Path, *flags: str
) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    """KServe's server with our adapter."""
    ports = ["--http_port", str(port), "--grpc_port", str(grpc_port)]
    return started(
        [
            str(environment.folder / "bin" / "python"),
            "-m",
            "serving.kserve_model",
            str(bundle),
            *ports,
            *flags,
        ],
        f"http://127.0.0.1:{port}/v2/models/bowsprit/ready",
        log,
    )


@pytest.fixture(scope="module")
def ours(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, int]]:
    """The port of our own server."""
    port = free_port()
    with serve(bundle, port, tmp_path_factory.mktemp("ours") / "log"):
        yield {"http": port}


@pytest.fixture(scope="module")
def kserve(
    environment: Environment, bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, int]]:
    """The ports of KServe's server: one process for gRPC, and two more for REST."""
    http, grpc = free_port(), free_port()
    log = tmp_path_factory.mktemp("kserve") / "log"
    with serve_by_kserve(environment, bundle, http, grpc, log, "--workers", "2"):
        yield {"http": http, "grpc": grpc}


@pytest.fixture(
    params=["ours http-binary", "ours http-json", "kserve grpc", "kserve http-binary", "kserve http-json"]
)
def way(request: pytest.FixtureRequest) -> Way:
    server, protocol = request.param.split()
    ports = request.getfixturevalue(server)
    return Way(server, protocol, f"127.0.0.1:{ports[protocol.split('-')[0]]}")


def ask(environment: Environment, way: Way, requests: list[dict[str, Any]]) -> dict[str, Any]:
    """What tritonclient gets for some requests, and for the model's metadata."""
    done = environment.python("-c", CLIENT, way.protocol, way.address, stdin=json.dumps(requests))
    assert done.returncode == 0, done.stderr[-4000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_every_reply_is_the_original_models(environment: Environment, way: Way, bundle: Path) -> None:
    """If it failed, a client would get other predictions than those of the model that was trained."""
    opened = open_bundle(bundle)
    parameters = read_parameters(opened)
    reference = reference_of(parameters)
    golden, _ = read_golden(bundle, parameters.labels)
    batches = [golden, *in_batches(adversarial_texts(parameters.vocabulary))]
    requests = [
        {"texts": texts, "shape": shape, "id": str(number)}
        for number, texts in enumerate(batches)
        for shape in ([len(texts)], [len(texts), 1])
    ]
    found = ask(environment, way, requests)["answers"]
    rungs = []
    for request, reply in zip(requests, found, strict=True):
        scores = reference.score(request["texts"])
        assert "log_probs" in reply, reply
        dtype, values = reply["log_probs"]
        assert dtype == "float32"
        log_probs = np.array(values, dtype=np.float32).reshape(reply["log_probs_shape"])
        rungs.append(compare(way.server, "texts", log_probs, scores, Tolerance(), float32_sums=False))
        assert reply["label"] == [parameters.labels[number] for number in log_probs.argmax(axis=1)]
        assert reply["label_shape"] == [len(request["texts"])]
        assert reply["id"] == request["id"]
        assert reply["model_name"] == "bowsprit"
        assert reply["model_version"] == opened.bundle_id[:12]
        assert reply["parameters"] == {"bundle_id": opened.bundle_id}
    check(rungs, way.address)
    whole = merge(rungs)
    assert whole.count == 2 * sum(map(len, batches)) > 200
    print(f"{way.server} {way.protocol}: {whole.count} texts, up to {whole.largest_difference:.2g}")


def test_top_k_threshold_and_outputs_are_as_the_library_has_them(
    environment: Environment, way: Way, bundle: Path
) -> None:
    """If it failed, the same request would mean something else to one of the servers."""
    predictor = Predictor.load(bundle)
    texts = ["me gusta comer en la cafetería", "", "Give it w5"]
    chosen: list[dict[str, object]] = [
        {"top_k": 2},
        {"top_k": 99},
        {"threshold": 0.5},
        {"top_k": 3, "threshold": 0.2},
    ]
    requests: list[dict[str, Any]] = [{"texts": texts, "shape": [3], "parameters": each} for each in chosen]
    if way.protocol == "grpc":
        # KServe's messages know no fractions.
        for request in requests:
            if "threshold" in request["parameters"]:
                request["parameters"] = request["parameters"] | {
                    "threshold": str(request["parameters"]["threshold"])
                }
    requests.append({"texts": texts, "shape": [3], "outputs": ["label"]})
    *found, last = ask(environment, way, requests)["answers"]
    for parameters, reply in zip(chosen, found, strict=True):
        expected = answer(predictor, texts, selection_of(parameters))
        assert reply["label"] == expected.label
        assert reply["label_shape"] == expected.label_shape
        assert reply["log_probs"] == ["float32", expected.log_probs.tolist()]
    assert last["label"] == answer(predictor, texts, None).label
    assert last["log_probs"] is None


def test_the_metadata_has_the_real_names_types_and_shapes(
    environment: Environment, way: Way, bundle: Path
) -> None:
    """If it failed, a client that makes its tensors by the metadata would be refused."""
    found = ask(environment, way, [])
    assert found["ready"] == [True, True, True]
    tensors = {
        tensor["name"]: (tensor["datatype"], [int(size) for size in tensor["shape"]])
        for kind in ("inputs", "outputs")
        for tensor in found["metadata"][kind]
    }
    num_labels = len(open_bundle(bundle).manifest.labels)
    assert tensors.pop("text") in [("BYTES", [-1]), ("BYTES", [-1, 1])]
    assert tensors == {"log_probs": ("FP32", [-1, num_labels]), "label": ("BYTES", [-1])}


def test_a_clients_mistake_is_told_as_one(environment: Environment, way: Way) -> None:
    """If it failed, a client would try a request again that can never be answered, or get a wrong answer."""
    one: dict[str, Any] = {"texts": ["w1"], "shape": [1]}
    mistakes = [
        ("NUL", one | {"texts": ["w1\0w2"]}),
        ("shape", one | {"texts": ["w1", "w2"], "shape": [1, 2]}),
        ("shape", one | {"shape": [1, 1, 1]}),
        ("top_k", one | {"parameters": {"top_k": 0}}),
        ("top_k", one | {"parameters": {"top_k": "two"}}),
        ("threshold", one | {"parameters": {"threshold": "high"}}),
        ("scores", one | {"outputs": ["label", "scores"]}),
    ]
    if way.protocol == "grpc":
        # KServe's messages drop a fraction, which must not be taken for none.
        mistakes.append(("threshold", one | {"parameters": {"threshold": 0.5}}))
    *found, last = ask(environment, way, [*(request for _, request in mistakes), one])["answers"]
    for (hint, _), reply in zip(mistakes, found, strict=True):
        assert reply["status"] == ("StatusCode.INVALID_ARGUMENT" if way.protocol == "grpc" else "400")
        assert hint in reply["message"]
    assert len(last["label"]) == 1


RAW = r"""
import json, struct, sys
import grpc
from tritonclient.grpc import service_pb2 as messages, service_pb2_grpc as services

def text(content):
    return struct.pack("<I", len(content)) + content

requests = [
    {"contents": ["w1"]}, {"contents": []}, {"raw": text(b"w1")}, {"raw": b"", "shape": [0]},
    {"contents": ["w1"], "shape": [2]}, {"raw": text(b"w1")[:-1]}, {"raw": b"\x02"}, {"raw": text(b"\xff")},
    {"contents": ["w1"], "shape": [-1]}, {"contents": ["w1"], "name": "texts"},
    {"contents": ["w1"], "version": "1"},
]
service = services.GRPCInferenceServiceStub(grpc.insecure_channel(sys.argv[1]))
found = []
for request in requests:
    message = messages.ModelInferRequest(model_name="bowsprit", model_version=request.get("version", ""))
    tensor = message.inputs.add(name=request.get("name", "text"), datatype="BYTES")
    tensor.shape.extend(request.get("shape", [len(request.get("contents", ["one"]))]))
    tensor.contents.bytes_contents.extend(each.encode() for each in request.get("contents", []))
    if "raw" in request:
        tensor.ClearField("contents")
        message.raw_input_contents.append(request["raw"])
    try:
        reply = service.ModelInfer(message)
        typed = [len(reply.outputs[0].contents.fp32_contents), len(reply.outputs[1].contents.bytes_contents)]
        found.append([typed, [len(each) for each in reply.raw_output_contents]])
    except grpc.RpcError as error:
        found.append(error.code().name)
json.dump(found, sys.stdout)
"""


def test_grpc_is_answered_in_kind_and_malformed_tensors_are_refused(
    environment: Environment, kserve: dict[str, int], bundle: Path
) -> None:
    """If it failed, a client without raw tensors could not read the answer, or a lie be our error."""
    labels = open_bundle(bundle).manifest.labels
    done = environment.python("-c", RAW, f"127.0.0.1:{kserve['grpc']}")
    assert done.returncode == 0, done.stderr[-4000:]
    typed, none_typed, raw, none_raw, *refused = json.loads(done.stdout)
    assert typed == [[len(labels), 1], []]
    assert none_typed == [[0, 0], []]
    assert raw[0] == [0, 0]
    assert raw[1][0] == 4 * len(labels)
    assert none_raw == [[0, 0], [0, 0]]
    assert refused == ["INVALID_ARGUMENT"] * 6 + ["NOT_FOUND"]


BINARY = b'{"inputs":[{"name":"text","datatype":"BYTES","shape":[1],"parameters":{"binary_data_size":5}}]}'
MALFORMED = {
    "lying length": BINARY + b"\x09\0\0\0a",
    "not UTF-8": BINARY + b"\1\0\0\0\xff",
    "cut off": BINARY + b"\1\0\0",
    "no tensor": BINARY,
    "half an input": b'{"inputs":[{"name":"text"}]}',
    "no list": b'{"inputs":7}',
    "no inputs": b'{"inputs":["text"]}',
    "no object": b"[]",
    "half of JSON": b"{",
    "no JSON": b"\xff\xff",
}


@pytest.mark.parametrize("server", ["ours", "kserve"])
@pytest.mark.parametrize("body", MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_binary_request_is_the_clients_mistake(
    request: pytest.FixtureRequest, server: str, body: bytes
) -> None:
    """If it failed, a client's mistake would look like an outage, and be sent again."""
    url = f"http://127.0.0.1:{request.getfixturevalue(server)['http']}/v2/models/bowsprit/infer"
    headers = {"Content-Type": "application/octet-stream"}
    headers["Inference-Header-Content-Length"] = str(body.rfind(b"}") + 1 or len(body))
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(urllib.request.Request(url, body, headers))
    with caught.value:
        assert caught.value.code == 400
        assert json.load(caught.value)["error"]


def test_kserve_serves_nothing_that_was_not_verified(
    environment: Environment, bundle: Path, tmp_path: Path
) -> None:
    """If it failed, the adapter would serve what our own server refuses."""
    damaged = shutil.copytree(bundle, tmp_path / "damaged")
    path = damaged / FILES.text_model
    path.write_bytes(path.read_bytes()[:-1])
    done = environment.python("-m", "serving.kserve_model", str(damaged), cwd=REPOSITORY)
    assert done.returncode == ExitCode.BUNDLE_DAMAGED
    assert done.stderr.startswith(f"error: {damaged}: ")
    assert path.name in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture(scope="module")
def tutorial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of `make train`, which the guide's commands are shown with."""
    lines = (REPOSITORY / "recipes" / "tutorial.env").read_text().splitlines()
    environ = dict(line.split("=", 1) for line in lines if line.startswith("BOW_"))
    environ |= {"BOW_OUTPUT_DIR": str(tmp_path_factory.mktemp("tutorial")), "BOW_DEVICE": "cpu"}
    return run(load_settings(environ), Output(for_people=False))


@pytest.fixture(scope="module")
def guide(
    environment: Environment, tutorial: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The guide's text, its addresses and IDs those of running servers."""
    logs = tmp_path_factory.mktemp("logs")
    ours, kserve, grpc = free_port(), free_port(), free_port()
    bundle_id = open_bundle(tutorial).bundle_id
    text = GUIDE.read_text()
    text = text.replace("localhost:8080", f"127.0.0.1:{ours}").replace("localhost:8081", f"127.0.0.1:{grpc}")
    predict = "-m serving predict"
    text = text.replace(f"python {predict} artifacts/latest", f"{sys.executable} {predict} {tutorial}")
    text = re.sub(r"\b[0-9a-f]{64}\b", bundle_id, text)
    text = re.sub(r"\b[0-9a-f]{12}\b", bundle_id[:12], text)
    with (
        serve(tutorial, ours, logs / "ours"),
        serve_by_kserve(environment, tutorial, kserve, grpc, logs / "kserve"),
    ):
        yield text


def shown(guide: str) -> list[tuple[str, str]]:
    """The guide's commands that ask a server, each with the output that it is shown with."""
    blocks = re.findall(r"^```console\n\$ (.*?)^```", guide, re.MULTILINE | re.DOTALL)
    pairs = []
    for lines in (block.splitlines() for block in blocks):
        length = next(number for number in range(1, len(lines)) if is_whole("\n".join(lines[:number])))
        pairs.append(("\n".join(lines[:length]), "\n".join(lines[length:])))
    return pairs


def is_whole(command: str) -> bool:
    """Whether all quotes of a command are closed."""
    try:
        shlex.split(command)
    except ValueError:
        return False
    return True


def alike(found: Any, expected: Any) -> bool:
    """Equal, log-probabilities to the sixth digit."""
    if isinstance(expected, float):
        return isinstance(found, float) and found == pytest.approx(expected, rel=1e-5, abs=1e-5)
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(alike, found, expected))
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(
            alike(found[name], expected[name]) for name in expected
        )
    return bool(found == expected)


def test_the_guides_commands_give_what_it_shows(guide: str) -> None:
    """If it failed, a reader who types what the guide says would see something else."""
    if shutil.which("curl") is None:
        pytest.skip("needs curl (the package curl)")
    commands = shown(guide)
    assert len(commands) >= 5
    for command, output in commands:
        done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        if output.startswith("{"):
            found, expected = (list(map(json.loads, each.splitlines())) for each in (done.stdout, output))
            assert alike(found, expected), (command, done.stdout)
        else:
            assert done.stdout.replace("\r", "").strip() == output, (command, done.stdout)


def test_the_guides_programs_print_what_it_shows(environment: Environment, guide: str) -> None:
    """If it failed, the first program that a reader copies would not run."""
    programs = re.findall(r"^```python\n(.*?)^```\n+```\n(.*?)^```", guide, re.MULTILINE | re.DOTALL)
    asking = [(code, output) for code, output in programs if "tritonclient" in code]
    assert len(asking) >= 3
    for code, output in asking:
        done = environment.python("-c", code)
        assert (done.returncode, done.stdout) == (0, output), done.stderr
