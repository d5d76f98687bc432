"""A real S3 endpoint, and a proxy before it that loses requests or answers, or is busy."""

import http.client
import os
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Literal, Self

import pytest
from s3fs import S3FileSystem

from serving.storage.store import Store
from tests.system.conftest import Environment

REGION = "eu-central-1"
SECRET = "not-to-be-shown"
DENIED = b"<?xml version='1.0'?><Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
BUSY = b"<?xml version='1.0'?><Error><Code>ServiceUnavailable</Code><Message>busy</Message></Error>"

Fate = Literal["pass", "lose the request", "lose the answer", "busy"]


@contextmanager
def moto_server(folder: Path) -> Iterator[int]:
    """The port of a server without buckets, which is installed in the folder; gone at the end."""
    environment = Environment(folder / "venv")
    environment.install("moto[s3]", "flask", "flask-cors")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = int(free.getsockname()[1])
    command = [str(environment.folder / "bin" / "moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    with (folder / "moto.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        _wait_for(port, server, folder / "moto.log")
        yield port
    finally:
        server.terminate()
        server.wait()


def _wait_for(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    for _ in range(300):
        assert server.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/moto-api/", timeout=5).close()
        except OSError:
            time.sleep(0.1)
        else:
            return
    raise AssertionError(log.read_text())


def name_storage(url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names an endpoint to this process and those it starts, by the platform's own variables alone."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    variables = {
        "ACCESS_KEY_ID": "testing",
        "SECRET_ACCESS_KEY": SECRET,
        "DEFAULT_REGION": REGION,
        "ENDPOINT_URL": url,
        "CONFIG_FILE": str(folder / "none"),
        "SHARED_CREDENTIALS_FILE": str(folder / "none"),
        "EC2_METADATA_DISABLED": "true",
    }
    for name, value in variables.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    S3FileSystem.clear_instance_cache()


def make_bucket(url: str) -> None:
    """Makes the bucket that a URL names; raises FileExistsError where there is one."""
    place = {"LocationConstraint": REGION}
    bucket = url.removeprefix("s3://")
    Store(url)._fs.call_s3("create_bucket", Bucket=bucket, CreateBucketConfiguration=place)


def control(port: int, path: str, data: bytes) -> None:
    """Asks the server itself for something, such as to check credentials from now on."""
    headers = {"Content-Type": "application/octet-stream"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/moto-api/{path}", data, headers)
    urllib.request.urlopen(request, timeout=5).close()


class Proxy(ThreadingHTTPServer):
    """Passes requests on, as `fate` says of each by its number, from 1."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.server_port_behind = port
        self.lines: list[str] = []
        self.fate: Callable[[int], Fate] = lambda _number: "pass"
        self.denied: str | None = None
        """What the requests begin with that a policy of the bucket refuses."""
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def next_fate(self, line: str) -> Fate:
        with self._lock:
            self.lines.append(line)
            return self.fate(len(self.lines))

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fate = self.server.next_fate(self.requestline)
        if self.server.denied is not None and self.requestline.startswith(self.server.denied):
            self._answer(403, [("Content-Type", "application/xml")], DENIED)
            return
        if fate == "busy":
            self._answer(503, [("Content-Type", "application/xml")], BUSY)
            return
        if fate != "lose the request":
            connection = http.client.HTTPConnection("127.0.0.1", self.server.server_port_behind, timeout=30)
            connection.request(self.command, self.path, body, dict(self.headers))
            answer = connection.getresponse()
            content = answer.read()
            connection.close()
            if fate == "pass":
                kept = [pair for pair in answer.getheaders() if pair[0].lower() not in _HOP_BY_HOP]
                self._answer(answer.status, kept, content, answer.getheader("Content-Length"))
                return
        # A reset, and no orderly end.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.connection.close()
        self.close_connection = True

    do_GET = do_PUT = do_HEAD = do_POST = do_DELETE = _pass_on  # noqa: N815 - as the library calls them

    def _answer(
        self, status: int, headers: list[tuple[str, str]], content: bytes, length: str | None = None
    ) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        is_head = self.command == "HEAD"
        self.send_header("Content-Length", (length or "0") if is_head else str(len(content)))
        self.end_headers()
        if not is_head:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass

    def finish(self) -> None:
        try:
            super().finish()
        except OSError:
            self.close_connection = True  # it was reset above


_HOP_BY_HOP = {"content-length", "transfer-encoding", "connection", "keep-alive", "server", "date"}
