"""Puts load on a server, from a process of its own: wrk where it is installed, else a client in Python."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TEXTS = (1, 32)
CONNECTIONS = (1, 8, 64)
OPENING = 0.2
"""Seconds in which the server accepts all connections, before the first request and the clock."""
SLOWEST_ANSWER = 30
"""Seconds: an answer that takes longer counts as failed."""
SCRIPT = Path(__file__).with_name("wrk.lua")
MARK = "measured "


@dataclass(frozen=True, kw_only=True)
class Load:
    """How much a server is asked at once."""

    texts: int
    """A request."""
    connections: int
    """Each sends its next request once it has the answer to the last."""

    def __str__(self) -> str:
        return f"{self.texts} texts a request, {self.connections} connections"


LOADS = [Load(texts=texts, connections=connections) for texts in TEXTS for connections in CONNECTIONS]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What came of a load; latencies in seconds."""

    requests: int
    """Answered."""
    seconds: float
    received: int
    """Bytes, headers among them."""
    p50: float
    p99: float
    p999: float
    slowest: float

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.requests / self.seconds


class LoadError(Exception):
    """A server failed under load, so that its figures would say nothing."""


def install() -> None:
    """Gets wrk from Debian's packages where it is missing and that can be done."""
    if shutil.which("wrk") or not shutil.which("apt-get") or os.geteuid():
        return
    for arguments in (["update"], ["install", "--yes", "--no-install-recommends", "wrk"]):
        subprocess.run(["apt-get", "-qq", *arguments], stdout=subprocess.DEVNULL, check=False)  # noqa: S607


def generator() -> str:
    """What puts the load on, with its version."""
    wrk = shutil.which("wrk")
    if wrk is None:
        return "benchmarks/serving/client.py"
    said = subprocess.run([wrk, "--version"], capture_output=True, text=True, check=False)
    return " ".join(said.stdout.split()[:2])


def put(url: str, bodies: Path, *, connections: int, seconds: int) -> Measured:
    """Sends the bodies of a file, one a line, in turn over so many connections, for so many seconds.

    Raises LoadError where a request failed: no connection, no answer, or a status of 400 or more.
    """
    wrk = shutil.which("wrk")
    command = (
        [
            *(wrk, "--threads", "1", "--connections", str(connections), "--duration", f"{seconds}s"),
            *("--timeout", f"{SLOWEST_ANSWER}s", "--script", str(SCRIPT), url, "--", str(bodies)),
            *(str(connections), f"{1000 * OPENING:.0f}"),
        ]
        if wrk
        else [
            sys.executable,
            "-m",
            "benchmarks.serving.client",
            url,
            str(bodies),
            str(connections),
            str(seconds),
        ]
    )
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise LoadError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return read(done.stdout, opening=OPENING if wrk else 0.0)


def read(output: str, *, opening: float = 0.0) -> Measured:
    """What wrk.lua and client.py say at the end.

    opening: the seconds of it that passed before the first request.

    Raises LoadError where a request failed, or none was answered.
    """
    lines = [line for line in output.splitlines() if line.startswith(MARK)]
    if len(lines) != 1:
        raise LoadError(f"expected one line that begins with {MARK!r}, found {len(lines)}:\n{output}")
    found: dict[str, Any] = json.loads(lines[0].removeprefix(MARK))
    if found["failed"] or not found["requests"]:
        raise LoadError(f"{found['failed']:,} of {found['requests']:,} requests failed:\n{output}")
    return Measured(
        requests=found["requests"],
        seconds=found["microseconds"] / 1e6 - opening,
        received=found["received"],
        p50=found["p50"] / 1e6,
        p99=found["p99"] / 1e6,
        p999=found["p99.9"] / 1e6,
        slowest=found["slowest"] / 1e6,
    )
