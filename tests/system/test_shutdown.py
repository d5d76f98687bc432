"""The end of a server: by a signal under load, by two, and where one of its processes is killed."""

import asyncio
import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from serving.errors import ExitCode
from tests.system.conftest import REPOSITORY
from tests.system.server import INFER, Client, Server, call, request, running

pytestmark = pytest.mark.system

ROUNDS = 10
CLIENTS = 32
DRAIN_SECONDS, GRACE_SECONDS = 0.3, 5.0
ENDING_SECONDS = 3.0
"""That the end takes beside: to accept who waits, to be sure that nothing more comes, and to leave."""

SMALL = call(["me gusta comer"])
LARGE = call(["lost at sea " * 200] * 100)


class Load:
    """Clients that ask without a pause until they are refused a connection."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.answered = 0
        self.lost: list[str] = []

    async def keep_asking(self, number: int) -> None:
        body = LARGE if number % 4 == 3 else SMALL
        while (client := await self._connected()) is not None:
            async with client:
                if number % 2:
                    await self._ask(client, request(INFER, body, "connection: close"))
                else:
                    while await self._ask(client, request(INFER, body)):
                        pass

    async def _connected(self) -> Client | None:
        try:
            return await Client.connect(self._port)
        except ConnectionRefusedError:
            return None

    async def _ask(self, client: Client, content: bytes) -> bool:
        """Whether the connection may be used again."""
        try:
            answer = await client.ask(content)
        except ConnectionError as error:
            self.lost.append(f"{error!r} after {self.answered} answers, request of {len(content)} bytes")
            return False
        assert answer.status == 200, answer
        self.answered += 1
        return answer.headers.get("connection") != "close"


@pytest.fixture(params=[1, 2], ids=["1 worker", "2 workers"])
def num_workers(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def test_every_request_is_answered_when_the_server_is_told_to_end(
    bundle: Path, tmp_path: Path, num_workers: int
) -> None:
    """If it failed, each deployment and each scaling down would lose requests."""

    async def under_load(server: Server, seconds: float) -> tuple[Load, float]:
        load = Load(server.port)
        clients = [asyncio.create_task(load.keep_asking(number)) for number in range(CLIENTS)]
        await asyncio.sleep(seconds)
        start = time.monotonic()
        # As some supervisors do: to each process, and the parent tells its workers too.
        for pid in {server.process.pid, *server.workers()}:
            os.kill(pid, signal.SIGTERM)
        code = await asyncio.to_thread(server.process.wait, 30)
        lasted = time.monotonic() - start
        assert code == 0, server.log.read_text()
        await asyncio.gather(*clients)
        return load, lasted

    for number in range(ROUNDS):
        settings = {"drain_seconds": DRAIN_SECONDS * (number % 2), "grace_seconds": GRACE_SECONDS}
        with running(bundle, tmp_path, workers=num_workers, **settings) as server:
            load, lasted = asyncio.run(under_load(server, random.Random(number).uniform(0.1, 0.5)))
            print(f"round {number}: {load.answered} answers, ended after {lasted:.2f} s, lost {load.lost}")
            assert load.answered
            assert load.lost == [], number
            assert lasted < settings["drain_seconds"] + GRACE_SECONDS + ENDING_SECONDS
            assert {event["event"] for event in server.events()} == {
                "listening",
                "bundle_served",
                "ending",
                "ended",
            }


@pytest.mark.parametrize("number_of_signals", [1, 2])
def test_a_request_that_does_not_end_is_ended_with_the_server(
    bundle: Path, tmp_path: Path, num_workers: int, number_of_signals: int
) -> None:
    """If it failed, a client could keep a server from ending until it is killed with all its requests."""
    grace = 1.0 if number_of_signals == 1 else 20.0

    async def send_half(server: Server) -> float:
        async with await Client.connect(server.port) as client:
            client.writer.write(request(INFER, SMALL)[:-5])
            await asyncio.sleep(0.2)
            start = time.monotonic()
            server.process.terminate()
            if number_of_signals == 2:
                await asyncio.sleep(0.3)
                server.process.terminate()
            with contextlib.suppress(ConnectionError):
                answer = await client.answer()
                assert answer is None or answer.status == 503, answer
                assert answer or number_of_signals == 2
            assert await asyncio.to_thread(server.process.wait, 30) == 0
            return time.monotonic() - start

    with running(
        bundle, tmp_path, workers=num_workers, grace_seconds=grace, request_seconds=60, drain_seconds=0.1
    ) as server:
        lasted = asyncio.run(send_half(server))
        assert lasted < 0.1 + 1.0 + ENDING_SECONDS
        assert {event["event"] for event in server.events()} <= {
            "listening",
            "bundle_served",
            "http",
            "ending",
            "ended",
        }


def test_idle_connections_do_not_hold_the_end_up(bundle: Path, tmp_path: Path, num_workers: int) -> None:
    """If it failed, every load balancer's open connections would make each deployment take its whole time."""

    async def wait(server: Server) -> float:
        clients = [await Client.connect(server.port) for _ in range(20)]
        for client in clients[:10]:
            assert (await client.ask(request(INFER, SMALL))).status == 200
        start = time.monotonic()
        server.process.terminate()
        for client in clients:
            assert await client.is_closed()
        assert await asyncio.to_thread(server.process.wait, 30) == 0
        for client in clients:
            client.close()
        return time.monotonic() - start

    with running(bundle, tmp_path, workers=num_workers) as server:
        assert asyncio.run(wait(server)) < ENDING_SECONDS


def test_an_answer_is_not_lost_to_a_client_that_sends_more(bundle: Path, tmp_path: Path) -> None:
    """If it failed, clients that do not wait for answers would get half of one, and a reset connection."""
    with running(bundle, tmp_path, drain_seconds=2) as server, socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.settimeout(20)
        client.connect(("127.0.0.1", server.port))
        server.process.terminate()
        server.wait_for("ending")
        client.sendall(request(INFER, call(["lost at sea " * 50] * 1000)) + request(INFER, SMALL))
        for _ in range(100):
            client.sendall(request(INFER, SMALL))
            time.sleep(0.005)
        head, _, body = b"".join(iter(lambda: client.recv(1 << 16), b"")).partition(b"\r\n\r\n")
        assert {b"connection: close", b"content-length: %d" % len(body)} <= set(head.split(b"\r\n"))
        assert server.process.wait(30) == 0


@contextlib.contextmanager
def waiting_for_storage(folder: Path, workers: int) -> Iterator[tuple[Server, socket.socket]]:
    """A server whose storage takes connections and does not answer, and the socket of that."""
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        deaf.settimeout(20)
        environ = {
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b",
            "AWS_DEFAULT_REGION": "eu-central-1",
        }
        environ["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        with running(
            "s3://bucket/latest", folder, environ=environ, until="listening", workers=workers
        ) as server:
            yield server, deaf


def test_storage_that_does_not_answer_does_not_hold_the_end_up(tmp_path: Path, num_workers: int) -> None:
    """If it failed, servers could not be replaced while their storage is down."""
    with waiting_for_storage(tmp_path, num_workers) as (server, deaf):
        connection, _ = deaf.accept()
        with connection:
            assert connection.recv(1)
            assert server.ask("/v2/health/live").status == 200
            assert server.ask("/v2/health/ready").status == 503
            assert server.ask(INFER, SMALL).status == 503
            assert server.end(seconds=ENDING_SECONDS) == 0


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGKILL])
def test_a_replacement_that_waits_for_its_bundle_ends_with_the_server(
    tmp_path: Path, sig: signal.Signals
) -> None:
    """If it failed, a worker that accepts nothing yet would outlive its server, or hold its end up."""
    with waiting_for_storage(tmp_path, 2) as (server, deaf), contextlib.ExitStack() as connections:
        first, second = (connections.enter_context(deaf.accept()[0]) for _ in range(2))
        assert first.recv(1)
        assert second.recv(1)
        os.kill(server.workers()[0], signal.SIGKILL)
        replacement = connections.enter_context(deaf.accept()[0])
        assert replacement.recv(1)
        for _ in range(20):  # by the worker that is left, which the server began with
            assert server.ask("/v2/health/live").status == 200
            assert server.ask(INFER, SMALL).status == 503
        workers = server.workers()
        assert len(workers) == 2
        assert server.end(sig, seconds=ENDING_SECONDS) == (0 if sig == signal.SIGTERM else -sig)
        await_end(workers)
        assert {event["event"] for event in server.events()} - {"ending"} == {
            "listening",
            "worker_died",
            "ended",
        }


def statuses_until(server: Server, name: str, number: int) -> set[int]:
    """How requests are answered that follow each other until so many events of a name are in the log."""
    statuses = set()
    deadline = time.monotonic() + 30
    while len(server.events(name)) < number:
        assert time.monotonic() < deadline, server.log.read_text()
        statuses |= {server.ask(INFER, SMALL).status for _ in range(10)}
    return statuses


def test_a_worker_that_is_killed_is_replaced(bundle: Path, tmp_path: Path) -> None:
    """If it failed, a server would lose its workers one by one, to the first lack of memory for instance."""
    with running(bundle, tmp_path, workers=2) as server:
        for number in (1, 2, 3):
            before = server.workers()
            os.kill(before[0], signal.SIGKILL)
            died = server.wait_for("worker_died", number)[-1]
            assert (died["worker"], died["exit_code"]) == (before[0], -signal.SIGKILL)
            for _ in range(20):
                assert server.ask(INFER, SMALL).status == 200
            assert statuses_until(server, "bundle_served", 2 + number) == {200}
            after = server.workers()
            assert len(after) == 2
            assert set(after) & set(before) == {before[1]}
        # The parent ends them, and they alone make no end of it.
        os.kill(server.workers()[0], signal.SIGTERM)
        time.sleep(0.5)
        assert server.ask(INFER, SMALL).status == 200
        assert server.workers() == after
        assert server.end() == 0


def test_workers_that_serve_go_on_while_another_cannot_begin(bundle: Path, tmp_path: Path) -> None:
    """If it failed, one process that dies while the bundle is away would take the whole server with it."""
    place = shutil.copytree(bundle, tmp_path / "bundle")
    with running(place, tmp_path, workers=2) as server:
        away = place.rename(tmp_path / "away")
        first, second = server.workers()
        os.kill(first, signal.SIGKILL)
        # The first death is by the signal, the next ones since there is no bundle.
        server.wait_for("worker_died")
        assert statuses_until(server, "worker_died", 4) == {200}
        assert server.events("worker_died")[-1]["exit_code"] == ExitCode.BUNDLE_DAMAGED
        away.rename(place)
        assert statuses_until(server, "bundle_served", 3) == {200}
        assert [server.ask(INFER, SMALL).status for _ in range(20)] == [200] * 20
        assert second in server.workers()
        assert server.end() == 0


def await_end(workers: Iterable[int]) -> None:
    """Waits until these processes are gone."""
    deadline = time.monotonic() + 5
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_workers_do_not_outlive_their_parent(bundle: Path, tmp_path: Path) -> None:
    """If it failed, orphans would hold the port, and serve an old bundle for ever."""
    with running(bundle, tmp_path, workers=2) as server:
        workers = server.workers()
        server.end(signal.SIGKILL)
        await_end(workers)
        with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", server.port)):
            pass


def test_a_server_outlives_the_shell_that_started_it(bundle: Path, tmp_path: Path) -> None:
    """If it failed, `serve BUNDLE &` would end with the terminal, and under every supervisor that forks."""
    log = tmp_path / "server.log"
    environ = {name: value for name, value in os.environ.items() if not name.startswith("BOW_")}
    with log.open("wb") as stderr:
        shell = subprocess.run(
            ["sh", "-c", '"$@" >/dev/null & echo $!', "sh", sys.executable, "-m", "serving", "serve", bundle],
            cwd=REPOSITORY,
            env=environ | {"BOW_SERVE_PORT": "0", "BOW_SERVE_LOG_FORMAT": "json"},
            stdout=subprocess.PIPE,
            stderr=stderr,
            check=True,
        )
    pid = int(shell.stdout)
    try:
        deadline = time.monotonic() + 30
        while b"bundle_served" not in log.read_bytes():
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        time.sleep(1)
        assert Path(f"/proc/{pid}").exists()
        assert b'"ended"' not in log.read_bytes()
    finally:
        os.kill(pid, signal.SIGKILL)


def test_all_workers_are_in_the_metrics_of_each(bundle: Path, tmp_path: Path) -> None:
    """If it failed, Prometheus would see one worker or another, and counters that fall."""
    with running(bundle, tmp_path, workers=2) as server:
        for number in range(1, 41):
            assert server.ask(INFER, call(["yes"] * 3)).status == 200
            assert server.ask(INFER, b"{}").status == 400
            expected = {
                f'bowsprit_requests_total{{status="400"}} {number}.0',
                f"bowsprit_texts_total {number * 3}.0",
                f"bowsprit_request_seconds_count {number * 2}.0",
            }
            # A request is counted when it has been answered.
            deadline = time.monotonic() + 2
            while not expected <= (told := set(server.ask("/metrics").body.decode().splitlines())):
                assert time.monotonic() < deadline, told
            (model,) = [line for line in told if line.startswith("bowsprit_model_info{")]
            assert model.endswith(" 1.0")
        # What a worker has counted stays when it has died.
        os.kill(server.workers()[0], signal.SIGKILL)
        server.wait_for("bundle_served", 3)
        assert f"bowsprit_texts_total {number * 3}.0" in server.ask("/metrics").body.decode().splitlines()
