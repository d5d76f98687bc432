"""The parts of the serving benchmark; the peers are compared by `make benchmark-serving` alone."""

import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from benchmarks.serving import __main__ as command
from benchmarks.serving import environments, report
from benchmarks.serving.check import what_is_wrong
from benchmarks.serving.load import SCRIPT, Load, LoadError, Measured, read
from benchmarks.serving.prepare import bodies, chunks
from benchmarks.serving.servers import BARE, KSERVE, OWN

ROOT = Path(__file__).parents[2]
SAID = """Running 3s test @ http://127.0.0.1:8080/v2/models/bowsprit/infer
  1 threads and 8 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.80ms    1.71ms  23.90ms   96.67%
    Req/Sec     4.52k   431.03     5.15k    73.33%
  13492 requests in 3.00s, 14.18MB read
Requests/sec:   4492.21
Transfer/sec:      4.72MB
measured {"requests": 13500, "microseconds": 3000000, "received": 14864002, "failed": 0, "p50": 1654, \
"p99": 9229, "p99.9": 19525, "slowest": 23895}
"""


def test_what_wrk_says_is_read() -> None:
    """If it failed, the benchmark would report no figures, or wrong ones."""
    found = read(SAID)
    assert found == Measured(
        requests=13500,
        seconds=3.0,
        received=14864002,
        p50=0.001654,
        p99=0.009229,
        p999=0.019525,
        slowest=0.023895,
    )
    assert found.rate == 4500
    assert read(SAID, opening=0.3).rate == pytest.approx(5000)


def test_what_is_read_is_what_wrk_is_told_to_say() -> None:
    """If it failed, the example above would be of another script."""
    keys = set(re.findall(r'"([a-z0-9.]+)": %d', SCRIPT.read_text()))
    assert keys == set(re.findall(r'"([a-z0-9.]+)": \d', SAID))


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (SAID.replace('"failed": 0', '"failed": 3'), "3 of 13,500 requests failed"),
        (SAID.replace('"requests": 13500', '"requests": 0'), "0 of 0 requests failed"),
        ("unable to connect to 127.0.0.1:8080 Connection refused\n", "expected one line"),
    ],
)
def test_a_server_that_fails_under_load_has_no_figures(said: str, message: str) -> None:
    """If it failed, a server that refuses requests would look like the fastest of all."""
    with pytest.raises(LoadError, match=message):
        read(said)


def test_answers_that_are_too_short_end_the_benchmark() -> None:
    """If it failed, a server that answers with next to nothing, at status 200, would win."""
    found = read(SAID)
    command.check_size(found, 1000, "a server")
    with pytest.raises(SystemExit, match="a server: answers of 1,101 bytes on average"):
        command.check_size(found, 2000, "a server")


@contextmanager
def serving(status: int) -> Iterator[tuple[str, list[bytes]]]:
    """The URL of a server that answers everything with that status, and the bodies that it was sent."""
    sent: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            sent.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(status)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/infer", sent
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def client(url: str, requests: Path) -> str:
    arguments = [url, str(requests), "2", "0.2"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.serving.client", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_where_there_is_no_wrk_a_client_measures(tmp_path: Path) -> None:
    """If it failed, the benchmark would need wrk."""
    requests = tmp_path / "requests"
    requests.write_bytes(b"one\ntwo\nthree\n")
    with serving(200) as (url, sent):
        found = read(client(url, requests))
    assert found.requests == len(sent) >= 3
    assert set(sent) == {b"one", b"two", b"three"}
    assert 0.2 <= found.seconds < 30
    assert 0 < found.p50 <= found.p99 <= found.p999 <= found.slowest
    assert found.received > 2 * found.requests


def test_the_client_counts_what_fails(tmp_path: Path) -> None:
    """If it failed, errors would be measured as answers."""
    requests = tmp_path / "requests"
    requests.write_bytes(b"one\n")
    with serving(503) as (url, sent):
        said = client(url, requests)
    with pytest.raises(LoadError, match=f"{len(sent):,} of {len(sent):,} requests failed"):
        read(said)
    with pytest.raises(LoadError, match="2 of 0 requests failed"):
        read(client(url, requests))  # nobody listens there any more


def test_requests_are_those_of_the_protocol() -> None:
    """If it failed, servers would be asked something else than the benchmark says."""
    texts = ["où", 'a "b"', "c"]
    assert chunks(texts, 2) == [["où", 'a "b"']]
    (body,) = bodies(texts, 2)
    assert json.loads(body) == {
        "inputs": [{"name": "text", "shape": [2], "datatype": "BYTES", "data": ["où", 'a "b"']}]
    }
    assert b"\n" not in body
    assert json.loads(bodies(texts, 3, outputs=["predict_proba"])[0])["outputs"] == [
        {"name": "predict_proba"}
    ]


LOG_PROBS = np.log(np.array([[0.25, 0.75], [0.5, 0.5]], np.float32))


def answer(log_probs: Any = LOG_PROBS, labels: Any = ("y", "x")) -> dict[str, Any]:
    scores = {"name": "log_probs", "shape": list(log_probs.shape), "data": log_probs.ravel().tolist()}
    return {"outputs": [scores, {"name": "label", "shape": [len(labels)], "data": list(labels)}]}


def test_a_server_with_wrong_answers_is_found() -> None:
    """If it failed, the speed of wrong answers would be compared."""
    expected = (LOG_PROBS, ["y", "x"])
    assert what_is_wrong(answer(), expected) is None
    assert "differ by up to 1.0e-03" in str(what_is_wrong(answer(LOG_PROBS + np.float32(1e-3)), expected))
    assert "shape [1, 2] instead of [2, 2]" in str(what_is_wrong(answer(LOG_PROBS[:1]), expected))
    assert "labels ['x', 'x']" in str(what_is_wrong(answer(labels=("x", "x")), expected))
    without = {"outputs": answer()["outputs"][1:]}
    assert "outputs ['label']" in str(what_is_wrong(without, expected))


def test_a_model_of_another_kind_must_give_probabilities() -> None:
    """If it failed, mlserver could answer with anything."""
    expected = (LOG_PROBS, ["y", "x"])
    probs = {"name": "predict_proba", "shape": [2, 2], "data": [0.25, 0.75, 0.5, 0.5]}
    assert what_is_wrong({"outputs": [probs]}, expected, log_probs=False) is None
    probs["data"] = [0.25, 0.7, 0.5, 0.5]
    assert "sum to" in str(what_is_wrong({"outputs": [probs]}, expected, log_probs=False))


def turn(rate: float, p99: float, requests: int = 5000) -> dict[str, float]:
    return {
        "rate": rate,
        "requests": requests,
        "p50": p99 / 2,
        "p99": p99,
        "p999": p99 * 2,
        "slowest": p99 * 3,
        "received": 1,
        "seconds": 1,
        "cpu": 1 / rate,
    }


RESULTS: dict[str, Any] = {
    "command": "python -m benchmarks.serving",
    "machine": {"cpu": "a CPU", "num_threads": 2, "python": "3.12"},
    "generator": "wrk 4.1.0",
    "rounds": 2,
    "seconds": 5,
    "data": {"name": "mine", "labels": 77, "features": 4321, "recipe": "intents.env", "characters": 54.2},
    "versions": {OWN: {"onnxruntime": "1.31.1"}},
    "loads": [
        {
            "texts": 32,
            "connections": 8,
            "contenders": {
                OWN: [turn(8000, 0.004), turn(2000, 0.016)],
                BARE: [turn(10000, 0.002), turn(2000, 0.010)],
                KSERVE: [turn(400, 0.1, requests=900), turn(50, 0.8)],
            },
        }
    ],
    "in_process": [
        {
            "Predictor.predict": {"one": 30e-6, "list": 1e-3},
            "Predictor.log_probs": {"one": 20e-6, "list": 0.5e-3},
            "fastText predict": {"one": 6e-6, "list": 2e-3},
        }
    ],
}


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_the_table_compares_servers_round_by_round() -> None:
    """If it failed, a moment in which the machine was slow would decide who is faster."""
    lines = report.markdown(RESULTS).splitlines()
    own, kserve = (
        cells(next(line for line in lines if line.startswith(f"| 32 | 8 | {name}"))) for name in (OWN, KSERVE)
    )
    assert own[3:] == [
        *("5,000 (2,000 to 8,000)", "160,000", "5.00", "10.00", "20.00", "312"),
        *("30.00", "0.90"),  # not 22.22 and 0.83, the ratios of the medians
    ]
    # Of 900 answers, the slowest in a thousand is none.
    assert kserve[7] == ""
    assert kserve[-2:] == ["1.00", "0.03"]
    assert any("4,321 features by intents.env" in line for line in lines)
    assert f"- {OWN}: onnxruntime 1.31.1" in lines


def test_the_library_is_compared_with_fasttext() -> None:
    """If it failed, nobody would see that lists have become slower than fastText's."""
    lines = report.markdown(RESULTS).splitlines()
    assert "| Predictor.predict | 30.0 | 256,000 | 2.00 |" in lines
    assert "| fastText predict | 6.0 | 128,000 | 1.00 |" in lines
    assert "fastText" not in report.markdown(RESULTS | {"in_process": []})


def test_a_server_that_was_left_out_leaves_its_ratio_empty() -> None:
    """If it failed, the benchmark of some servers alone would end in an error."""
    load = RESULTS["loads"][0]
    alone = {**load, "contenders": {OWN: load["contenders"][OWN]}}
    (line,) = report.rows([alone])
    assert line[-2:] == ["", ""]


def test_the_terminal_shows_the_same_figures() -> None:
    """If it failed, what scrolls by would be another result than what is kept."""
    out = StringIO()
    report.show(RESULTS, Console(file=out, width=report.WIDTH))
    (own,) = (line for line in out.getvalue().splitlines() if f" {OWN} " in line)
    assert own.split() == [
        "32",
        "8",
        OWN,
        "5,000",
        "160,000",
        "5.00",
        "10.00",
        "20.00",
        "312",
        "30.00",
        "0.90",
    ]


def test_loads_are_told_by_their_size() -> None:
    """If it failed, the log would not say which load a figure is of."""
    assert str(Load(texts=32, connections=8)) == "32 texts a request, 8 connections"


def test_the_command_is_told_without_this_machines_folders(tmp_path: Path) -> None:
    """If it failed, results that are kept would name folders that nobody else has."""
    assert command.of_any_machine(["--data", str(tmp_path / "a.csv"), "recipes/intents.env", "5"]) == [
        *("--data", "a.csv", "recipes/intents.env", "5")
    ]


def test_peers_with_our_model_run_our_onnxruntime() -> None:
    """If it failed, versions of onnxruntime would be compared, and not servers."""
    import onnxruntime

    for name in ("bare", "kserve"):
        assert f"onnxruntime=={onnxruntime.__version__}" in environments.REQUIREMENTS[name]
