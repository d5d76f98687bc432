"""Puts load on a server without wrk: `python -m benchmarks.serving.client URL BODIES CONNECTIONS SECONDS`.

Slower than wrk, so fast servers look slower than they are, all of them alike. Ends with the line that
wrk.lua ends with.
"""

import asyncio
import json
import math
import sys
import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks.serving.load import MARK, OPENING, SLOWEST_ANSWER


class _Figures:
    def __init__(self) -> None:
        self.latencies: list[float] = []
        self.received = 0
        self.failed = 0


async def _measure(url: str, bodies: Path, connections: int, seconds: float) -> str:
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or 80
    requests = cycle(
        f"POST {parts.path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n".encode()
        + body
        for body in bodies.read_bytes().splitlines()
    )
    figures = _Figures()
    begin = time.perf_counter() + OPENING
    async with asyncio.TaskGroup() as tasks:
        for _ in range(connections):
            tasks.create_task(_connection(host, port, requests, (begin, begin + seconds), figures))
    return _line(figures, time.perf_counter() - begin)


async def _connection(
    host: str, port: int, requests: Iterator[bytes], times: tuple[float, float], figures: _Figures
) -> None:
    try:
        reader, writer = await asyncio.open_connection(host, port, limit=1 << 24)
        begin, end = times
        await asyncio.sleep(begin - time.perf_counter())
        while (sent := time.perf_counter()) < end:
            writer.write(next(requests))
            async with asyncio.timeout(SLOWEST_ANSWER):
                head = await reader.readuntil(b"\r\n\r\n")
                body = await reader.readexactly(_content_length(head))
            figures.latencies.append(time.perf_counter() - sent)
            figures.received += len(head) + len(body)
            figures.failed += not head.startswith(b"HTTP/1.1 2")
        writer.close()
    except (OSError, EOFError):  # TimeoutError is an OSError
        figures.failed += 1


def _content_length(head: bytes) -> int:
    _, _, rest = head.lower().partition(b"\r\ncontent-length:")
    return int(rest.split(b"\r\n", 1)[0])


def _line(figures: _Figures, seconds: float) -> str:
    ordered = sorted(figures.latencies) or [0.0]

    def microseconds(share: float) -> int:
        """Of the fastest answer that so large a share of the answers was not slower than."""
        return round(1e6 * ordered[max(0, math.ceil(share * len(ordered)) - 1)])

    return MARK + json.dumps(
        {
            "requests": len(figures.latencies),
            "microseconds": round(1e6 * seconds),
            "received": figures.received,
            "failed": figures.failed,
            "p50": microseconds(0.5),
            "p99": microseconds(0.99),
            "p99.9": microseconds(0.999),
            "slowest": microseconds(1),
        }
    )


if __name__ == "__main__":
    _url, _bodies, _connections, _seconds = sys.argv[1:]
    sys.stdout.write(asyncio.run(_measure(_url, Path(_bodies), int(_connections), float(_seconds))) + "\n")
