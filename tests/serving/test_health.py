"""`python -m serving health`: what it says and ends with, against servers of every state."""

import contextlib
import http.server
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from serving.errors import BowspritError, ExitCode, PlatformError, SettingsError
from serving.health import PATH, health
from serving.main import main
from serving.server.settings import server_settings
from serving.server.variables import NAMES
from tests.serving.test_main import environ


@contextlib.contextmanager
def answering(status: int, host: str = "127.0.0.1") -> Iterator[dict[str, str]]:
    """The variables of a server that answers its readiness with a status, and other paths with 404."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == PATH else 404)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            pass

    class Server(http.server.ThreadingHTTPServer):
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

    with Server((host, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield {"BOW_SERVE_PORT": str(server.server_address[1])}
        finally:
            server.shutdown()
            thread.join()


def unused_port() -> str:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return str(unused.getsockname()[1])


def test_a_server_that_is_ready_is_said_to_be() -> None:
    """If it failed, an engine would restart a server that does its work."""
    with answering(200) as variables:
        assert health(variables) == f"127.0.0.1:{variables['BOW_SERVE_PORT']} is ready"


@pytest.mark.parametrize(
    ("host", "asked"),
    [("0.0.0.0", "127.0.0.1"), ("::", "[::1]"), ("localhost", "localhost"), ("127.0.0.2", "127.0.0.2")],
)
def test_it_is_asked_where_it_listens(host: str, asked: str) -> None:
    """If it failed, a server that listens to the network, or to one address of several, would seem dead."""
    if host == "::" and not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    with answering(200, host) as variables:
        said = health(variables | {"BOW_SERVE_HOST": host})
        assert said == f"{asked}:{variables['BOW_SERVE_PORT']} is ready"


@pytest.mark.parametrize("status", [503, 404, 500, 204, 302])
def test_any_other_status_is_not_ready(status: int) -> None:
    """If it failed, texts would be sent to a server that is loading or ending, or to another program."""
    with answering(status) as variables, pytest.raises(PlatformError, match=rf"{PATH}, found {status};"):
        health(variables)


def test_nobody_there_is_not_ready() -> None:
    """If it failed, a dead server would count as well."""
    with pytest.raises(PlatformError, match=r"found none that answers \(Connection refused\); start one"):
        health({"BOW_SERVE_PORT": unused_port()})


def test_who_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it failed, probes would pile up beside a server that hangs."""
    monkeypatch.setattr("serving.health.TIMEOUT", 0.05)
    started = time.monotonic()
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(PlatformError, match=r"\(timed out\)"),
    ):
        health({"BOW_SERVE_PORT": str(silent.getsockname()[1])})
    assert time.monotonic() - started < 1


def test_who_does_not_speak_http_is_not_ready() -> None:
    """If it failed, a traceback would be what an engine keeps of its check."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def greet() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(b"220 mail.example ESMTP\r\n")

        thread = threading.Thread(target=greet)
        thread.start()
        with pytest.raises(PlatformError, match="found none that answers"):
            health({"BOW_SERVE_PORT": str(server.getsockname()[1])})
        thread.join()


@pytest.mark.parametrize("host", ["a..b", "two words"])
def test_a_host_that_is_none_is_named(host: str) -> None:
    """If it failed, a traceback would be what an engine keeps of its check."""
    with pytest.raises(PlatformError, match=rf"^{host}:8080: "):
        health({"BOW_SERVE_HOST": host})


@pytest.mark.parametrize("port", ["http", "0", "65536", "-1", "8080.0", "٨٠٨٠"])
def test_a_port_that_is_none_is_a_wrong_setting(port: str) -> None:
    """If it failed, another port than the server's would be asked, or a traceback be the answer."""
    with pytest.raises(SettingsError, match=f"found '{port}'"):
        health({"BOW_SERVE_PORT": port})


def test_a_misspelt_variable_is_refused_as_the_server_refuses_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If it failed, the server at the default port would be taken for the one that was meant."""
    wrong = {"BOW_SERVE_PROT": "8081", "bow_serve_host": "::", "BOW_SERVE_X": ""}
    with pytest.raises(SettingsError) as refused:
        server_settings(wrong)
    with answering(200) as variables:
        for name, value in (variables | wrong).items():
            monkeypatch.setenv(name, value)
        assert main(["health"]) == ExitCode.SETTINGS == 2
    assert capsys.readouterr() == ("", f"error: {refused.value}\n")
    assert "BOW_SERVE_PROT: there is no such setting; did you mean BOW_SERVE_PORT?" in str(refused.value)


def test_variables_of_the_server_and_of_the_job_are_none_of_its_business() -> None:
    """If it failed, a container's health check would fail by the settings that its server runs with."""
    with answering(200) as variables:
        variables |= dict.fromkeys(NAMES[2:], "1") | {"BOW_EPOCHS": "5", "BOW_EPOHCS": "5"}
        assert health(variables).endswith("is ready")


def test_empty_variables_count_as_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it failed, a line `BOW_SERVE_PORT=` of an --env-file would make every check fail."""
    with pytest.raises(BowspritError, match=r"^127\.0\.0\.1:8080: |8080 is ready"):
        raise BowspritError(health({"BOW_SERVE_HOST": " ", "BOW_SERVE_PORT": ""}))


def test_the_command_says_it_in_one_line_and_by_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If it failed, an engine would learn nothing from the command that its health check runs."""
    with answering(200) as variables:
        monkeypatch.setenv("BOW_SERVE_PORT", variables["BOW_SERVE_PORT"])
        assert main(["health"]) == ExitCode.DONE
    assert capsys.readouterr() == (f"127.0.0.1:{variables['BOW_SERVE_PORT']} is ready\n", "")
    with answering(503) as variables:
        monkeypatch.setenv("BOW_SERVE_PORT", variables["BOW_SERVE_PORT"])
        assert main(["health"]) == ExitCode.PLATFORM
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n"), "found 503" in said.err) == ("", 1, True)


def test_it_starts_without_what_takes_long_to_import() -> None:
    """If it failed, each check, every few seconds, would cost as much as a start of the server."""
    program = "import sys, serving.main as m; m.main(['health']); print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=environ() | {"BOW_SERVE_PORT": unused_port()},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "found none that answers" in done.stderr
    assert not {"numpy", "onnx", "onnxruntime", "rich", "pydantic", "starlette", "fsspec"} & set(
        done.stdout.split()
    )
