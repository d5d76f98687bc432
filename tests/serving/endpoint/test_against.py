"""`verify --against`: a deployment gate that opens for the bundle's model, and for no other."""

import shutil
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.bundle import FILES, open_bundle
from serving.endpoint.http import Address, Response, exchange, said_by
from serving.errors import ExitCode, PlatformError
from serving.main import main
from tests.serving.damage import added, in_initializer, whole
from tests.serving.endpoint.v2_server import Behaviour, of_bundle, served

pytestmark = pytest.mark.usefixtures("shorter_texts")
ID = "b" * 64
Change = Callable[[Behaviour], None]


@pytest.fixture
def good(trained: Path) -> Behaviour:
    """A server of the bundle's model."""
    return of_bundle(trained)


@pytest.fixture
def gate(trained: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[str], tuple[int, str, str]]:
    """Runs the command against a URL: its exit code, and what it printed."""

    def run(url: str, *more: str) -> tuple[int, str, str]:
        code = main(["verify", str(trained), "--against", url, *more])
        shown = capsys.readouterr()
        return int(code), shown.out, shown.err

    return run


Gate = Callable[..., tuple[int, str, str]]


def lines(output: str, first: str) -> list[str]:
    return [" ".join(line.split()) for line in output.splitlines() if line.startswith(first)]


def test_the_model_of_the_bundle_passes_in_both_encodings(good: Behaviour, gate: Gate, trained: Path) -> None:
    """If it failed, no deployment could be let through."""
    bundle_id = open_bundle(trained).bundle_id
    good.parameters, good.headers = {"bundle_id": bundle_id}, {"Bowsprit-Bundle": bundle_id}
    with served(good) as url:
        code, out, err = gate(url)
    assert (code, err) == (0, "")
    assert lines(out, "endpoint, JSON")[0].endswith("ok")
    assert lines(out, "endpoint, binary")[0].endswith("ok")
    assert lines(out, "endpoint, bundle ID")[0].endswith("ok")
    assert lines(out, "endpoint, JSON")[0].split()[2] == lines(out, "endpoint, binary")[0].split()[2]
    assert f"{url} serves {trained}: all 5 checks\n" in out
    assert sum(line.endswith("ok") for line in out.splitlines()) == 5
    assert f"bundle {bundle_id}\n" in out
    assert {0, 1, 7} < set(good.sizes)


@pytest.mark.parametrize("name", ["bowsprit", "bowsprit/versions/1"])
def test_a_model_can_be_named(good: Behaviour, gate: Gate, name: str) -> None:
    """If it failed, one of many models could not be checked."""
    good.models = ("bowsprit", "another")
    with served(good) as url:
        code, out, _ = gate(f"{url}/v2/models/{name}")
    assert code == ExitCode.DONE
    assert f"{url}/v2/models/{name}" in out


def test_a_server_that_batches_is_sent_a_column_and_no_empty_batch(good: Behaviour, gate: Gate) -> None:
    """If it failed, Triton would refuse every text, or crash."""
    good.in_column, good.models, good.name = True, None, "triton"
    with served(good) as url:
        code, out, _ = gate(url)
    assert code == ExitCode.DONE
    assert "sent as [N, 1]" in out
    assert "no empty batch was sent" in out
    assert 0 not in good.sizes


def test_a_server_that_speaks_json_alone_is_asked_in_json_alone(good: Behaviour, gate: Gate) -> None:
    """If it failed, a server would be told to fail by what it never offered."""
    good.extensions = ()
    with served(good) as url:
        code, out, _ = gate(url)
    assert code == ExitCode.DONE
    assert lines(out, "endpoint, binary") == []
    assert "does not say that it takes tensors in binary" in out


def test_a_server_that_describes_nothing_is_replayed_all_the_same(good: Behaviour, gate: Gate) -> None:
    """If it failed, a server that leaves out its model's tensors could not be checked."""
    good.metadata = {"name": "bowsprit"}
    with served(good) as url:
        code, out, _ = gate(url)
    assert code == ExitCode.DONE
    assert "says nothing of the model's inputs" in out
    assert lines(out, "endpoint, metadata") == []


def test_limits_of_a_server_are_kept_and_told(good: Behaviour, gate: Gate) -> None:
    """If it failed, a server with other limits than ours would be taken for a wrong model."""
    good.max_texts, good.max_text_bytes, good.takes_empty = 5, 9_000, False
    with served(good) as url:
        code, out, _ = gate(url)
    assert code == ExitCode.DONE
    # What is longer than 9,000 bytes: the long word, the repeated word, the longest, and the pairs.
    assert "of the adversarial texts were refused by the endpoint's limits (413)" in out
    assert "batches were refused and sent in parts (400: takes 1 to 5 texts" in out
    assert "an empty batch was refused (400: takes 1 to 5 texts)" in out


def test_a_short_text_or_a_golden_one_may_not_be_refused(good: Behaviour, gate: Gate) -> None:
    """If it failed, a server that refuses everything would pass."""
    good.max_text_bytes = 10
    with served(good) as url:
        code, _, err = gate(url)
    assert code == ExitCode.PARITY_FAILED
    assert "golden texts: the endpoint refuses 1 texts of " in err
    assert "(413: takes texts of up to 10 bytes)" in err


def one_word_off(it: Behaviour) -> None:
    inner = it.predict

    def predict(texts: Any) -> Any:
        log_probs, labels = inner(texts)
        off = [1e-3 * ("w6" in text.split()) for text in texts]
        return (log_probs + np.array([off]).T).astype(np.float32), labels

    it.predict = predict


def answers(change: Callable[[Any, list[str]], tuple[Any, list[str]]]) -> Change:
    def alter(it: Behaviour) -> None:
        inner = it.predict
        it.predict = lambda texts: change(*inner(texts))

    return alter


def shown(texts: Callable[[str], str]) -> Change:
    """The model sees other texts than it was sent."""

    def alter(it: Behaviour) -> None:
        inner = it.predict
        it.predict = lambda given: inner([texts(text) for text in given])

    return alter


def set_to(**values: Any) -> Change:
    def alter(it: Behaviour) -> None:
        for name, value in values.items():
            setattr(it, name, value)

    return alter


def in_output(output_name: str, **values: Any) -> Change:
    def alter(it: Behaviour) -> None:
        it.output = lambda output: output.update(values) if output["name"] == output_name else None

    return alter


def described(tensor_name: str, **values: Any) -> Change:
    """The metadata say something else of a tensor."""

    def alter(it: Behaviour) -> None:
        it.metadata = it.described()
        for tensor in (*it.metadata["inputs"], *it.metadata["outputs"]):
            if tensor["name"] == tensor_name:
                tensor.update(values)

    return alter


def with_nan(log_probs: Any, labels: list[str]) -> tuple[Any, list[str]]:
    log_probs = log_probs.copy()
    log_probs[:1, 0] = np.nan
    return log_probs, labels


WRONG: dict[str, tuple[Change, str]] = {
    "one word's weights": (one_word_off, "times what is allowed"),
    "cut texts": (shown(lambda text: text[:20]), "times what is allowed"),
    "other whitespace": (shown(lambda text: text.replace("\u3000", "")), "times what is allowed"),
    "fewer answers than texts": (
        answers(lambda log_probs, labels: (log_probs[:3], labels[:3])),
        "label: expected the shape [7] or [7, 1], found [3]",
    ),
    "fewer labels": (
        answers(lambda log_probs, labels: (log_probs[:, :4], labels)),
        "expected log-probabilities of shape [0, 5], found [0, 4]",
    ),
    "swapped labels": (
        answers(lambda log_probs, labels: (log_probs, labels[::-1])),
        "`label` is not the most probable label in",
    ),
    "unknown labels": (
        answers(lambda log_probs, labels: (log_probs, ["x"] * len(labels))),
        "`label` is not the most probable label in",
    ),
    "NaN in binary": (answers(with_nan), "a log-probability is infinite or not a number"),
    "another bundle's ID as a parameter": (
        set_to(parameters={"bundle_id": ID}),
        f"are of the bundle {ID}; expected ",
    ),
    "another bundle's ID in a header": (
        set_to(headers={"Bowsprit-Bundle": ID}),
        f"are of the bundle {ID}; expected ",
    ),
    "another bundle's ID in the configuration": (
        set_to(
            extensions=("model_configuration",),
            configuration={"parameters": {"bowsprit_bundle_id": {"string_value": ID}}},
        ),
        f"1 are of the bundle {ID}; expected ",
    ),
    "no JSON": (set_to(body=lambda body: b"<html>"), "malformed: expected an answer in JSON"),
    "null for a number": (in_output("log_probs", data=[None] * 5), "log_probs: expected numbers in its data"),
    "a string for a number": (in_output("log_probs", data=["1"] * 5), "log_probs: expected numbers in"),
    "numbers for labels": (in_output("label", data=[1]), "label: expected strings in its data"),
    "too few numbers": (
        in_output("log_probs", data=[0.5]),
        "expected 0 values for the shape [0, 5], found 1",
    ),
    "a negative shape": (in_output("log_probs", shape=[-1, 5]), "log_probs: expected a shape, found [-1, 5]"),
    "a shape of too many dimensions": (
        in_output("log_probs", shape=[1] * 70),
        "log_probs: expected a shape, found [1, 1, 1,",
    ),
    "a shape beyond all memory": (
        in_output("log_probs", shape=[0, 2**62, 4, 2**62]),
        "log_probs: expected a shape, found [0, 4611",
    ),
    "sizes of too many digits": (
        in_output("log_probs", shape=[10**4000, 10**4000]),
        "log_probs: expected a shape, found [1000",
    ),
    "a header's length of too many digits": (
        set_to(headers={"Inference-Header-Content-Length": "9" * 5000}),
        "Inference-Header-Content-Length: expected a number of up to",
    ),
    "doubles": (in_output("log_probs", datatype="FP64"), "log_probs: expected the datatype FP32, found FP64"),
    "no labels": (in_output("label", name="other"), "expected an output label, found log_probs, other"),
    "binary values cut off": (
        set_to(raw=lambda raw: raw[:-1]),
        "log_probs: expected 20 bytes for the shape [1, 5], found 19",
    ),
    "a binary answer cut off": (
        set_to(body=lambda body: body[: len(body) - 3 * (b"_size" in body)]),
        "bytes, found",
    ),
    "a binary answer with more": (
        set_to(body=lambda body: body + b"x" * (b"_size" in body)),
        "no output names",
    ),
    "inference refused": (set_to(status={"infer": 404}), "the endpoint refuses 1 texts of"),
    "other classes": (described("log_probs", shape=[-1, 9]), "found FP32 of shape [-1, 9]"),
    "other type of label": (described("label", datatype="INT64"), "label: expected BYTES of shape"),
    "other input": (described("text", name="prompt"), "inputs: expected text"),
}


@pytest.mark.parametrize("name", WRONG)
def test_an_endpoint_that_differs_ends_in_5(good: Behaviour, gate: Gate, name: str) -> None:
    """If it failed, a wrong model would be deployed, or nobody could tell from the message what is wrong."""
    change, message = WRONG[name]
    change(good)
    with served(good) as url:
        code, out, err = gate(url)
    assert code == ExitCode.PARITY_FAILED == 5
    assert "FAILS" in out
    assert ": all " not in out
    assert f"{url} does not give the trained model's log-probabilities" in err
    assert message in err


def test_one_altered_weight_of_the_served_model_ends_in_5(trained: Path, copy: Path, gate: Gate) -> None:
    """If it failed, a model that was trained on other data by a hair would pass."""
    in_initializer(FILES.text_model, "weight", added((5, 3), 1e-3))(copy)
    with served(of_bundle(copy)) as url:
        assert gate(url)[0] == ExitCode.PARITY_FAILED


UNUSABLE: dict[str, tuple[Change, int, str]] = {
    "500 to inference": (set_to(status={"infer": 500}), 74, "/infer was answered with 500 (told to)"),
    "503 to everything": (set_to(status={"v2": 503}), 74, "GET /v2 was answered with 503 (told to)"),
    "no model": (set_to(models=()), 74, "has no model that is ready"),
    "two models": (set_to(models=("a", "b")), 2, "has 2 models, a, b; name one: http://127.0.0.1:"),
    "no such model": (set_to(models=("a",)), 2, "/v2/models/a: the endpoint has no such model"),
    "neither list": (set_to(models=None, status={"index": 404}), 2, "name its model"),
    "no protocol": (set_to(metadata=[1]), 2, "expected what an Open Inference Protocol endpoint answers"),
    "locked": (set_to(status={"v2": 401}), 2, "GET /v2 was refused (401: told to)"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_an_endpoint_that_cannot_be_asked_is_no_difference(good: Behaviour, gate: Gate, name: str) -> None:
    """If it failed, a server that is still starting would be taken for a wrong model."""
    change, expected, message = UNUSABLE[name]
    change(good)
    with served(good) as url:
        code, out, err = gate(url)
    assert (code, out) == (expected, "")
    assert message in err
    assert err.count("\n") == 1


def test_a_silent_endpoint_is_given_up(good: Behaviour, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it failed, a gate would wait for ever."""
    monkeypatch.setattr("serving.endpoint.http.TIMEOUT_SECONDS", 0.05)
    good.delay = 0.2
    with served(good) as url:
        code, _, err = gate(url)
    assert code == ExitCode.PLATFORM == 74
    assert "no answer to GET /v2 within 0.05 seconds" in err


def test_a_closed_port_ends_in_74(gate: Gate) -> None:
    """If it failed, a pipeline would not try again once the server is up."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    code, _, err = gate(f"http://127.0.0.1:{port}")
    assert code == ExitCode.PLATFORM
    assert "(Connection refused)" in err


def test_https_is_spoken(good: Behaviour, gate: Gate) -> None:
    """If it failed, an endpoint behind TLS would be asked in the clear."""
    with served(good) as url:
        code, _, err = gate(url.replace("http:", "https:"))
    assert code == ExitCode.PLATFORM
    assert "SSL" in err


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:8080",
        "ftp://localhost",
        "http://",
        "http://user:secret@localhost",
        "http://localhost:port",
        "http://localhost/?model=a",
        "http://localhost/#a",
        "http://a..b",
        f"http://{'a' * 70}",
    ],
)
def test_a_malformed_url_ends_in_2_and_shows_no_secret(gate: Gate, url: str) -> None:
    """If it failed, a typing mistake would look like a server that is down."""
    code, out, err = gate(url)
    assert (code, out) == (ExitCode.SETTINGS, "")
    assert "argument --against: expected the URL of an endpoint" in err
    assert "secret" not in err


def test_a_path_of_any_characters_is_asked_for(gate: Gate) -> None:
    """If it failed, a path that a browser takes would end in a traceback."""
    code, _, err = gate("http://127.0.0.1:1/ü")
    assert code == ExitCode.PLATFORM
    assert "http://127.0.0.1:1/%C3%BC: cannot be reached" in err


TO_THE_TERMINAL = "\x1b]0;owned\x07\n\u202e"
AS_TOLD = r"\x1b]0;owned\x07\n\u202e"

QUOTED: dict[str, Change] = {
    "an error": set_to(status={"v2": 401}, said=f"a{TO_THE_TERMINAL}"),
    "a failure": set_to(status={"v2": 503}, said=f"a{TO_THE_TERMINAL}"),
    "an error to texts": set_to(status={"infer": 404}, said=f"a{TO_THE_TERMINAL}"),
    "models": set_to(models=("a", f"b{TO_THE_TERMINAL}")),
    "a datatype": described("label", datatype=TO_THE_TERMINAL),
    "a tensor": in_output("label", name=TO_THE_TERMINAL),
    "a bundle's ID": set_to(parameters={"bundle_id": TO_THE_TERMINAL}),
}


@pytest.mark.parametrize("name", QUOTED)
def test_what_an_endpoint_says_tells_the_terminal_nothing(good: Behaviour, gate: Gate, name: str) -> None:
    """If it failed, an endpoint could hide that it failed, or do what the terminal lets programs do."""
    QUOTED[name](good)
    with served(good) as url:
        code, out, err = gate(url)
    assert code != ExitCode.DONE
    assert AS_TOLD in err
    assert all(line.isprintable() for line in (out + err).split("\n"))


def test_what_stands_in_http_itself_tells_the_terminal_nothing() -> None:
    """If it failed, a server that speaks another protocol could do the same."""
    body = b"not JSON"
    for headers in ({}, {"location": f"http://x/{TO_THE_TERMINAL}"}):
        response = Response(status=302, reason=f"Found{TO_THE_TERMINAL}", headers=headers, body=body)
        assert said_by(response).isprintable()
        assert said_by(response).startswith(f"Found{AS_TOLD}")
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = Address.parse(f"http://127.0.0.1:{server.getsockname()[1]}")

        def answer() -> None:
            with server.accept()[0] as connection:
                connection.recv(1000)
                connection.sendall(b"\x1b[2J\r\n")

        threading.Thread(target=answer).start()
        with pytest.raises(PlatformError, match=r"cannot be reached by GET /v2 \(\\x1b\[2J"):
            exchange(address, "GET", "/v2", None, {})


def test_a_damaged_bundle_ends_in_6_before_anyone_is_asked(
    good: Behaviour, trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """If it failed, a server would be held against something that is not the bundle."""
    damaged = shutil.copytree(trained, tmp_path / "damaged")
    whole(FILES.weights, lambda content: content[:-1] + b"x")(damaged)
    with served(good) as url:
        assert main(["verify", str(damaged), "--against", url]) == ExitCode.BUNDLE_DAMAGED
    assert good.sizes == []
    assert FILES.weights in capsys.readouterr().err


def test_against_and_torch_exclude_each_other(gate: Gate) -> None:
    """If it failed, `--torch` would be ignored."""
    code, _, err = gate("http://localhost", "--torch")
    assert code == ExitCode.SETTINGS
    assert "not allowed with argument" in err
