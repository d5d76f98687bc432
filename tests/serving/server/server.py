"""A server's parts, without a network, and requests to it."""

import asyncio
import io
import json
from pathlib import Path
from typing import Any

from serving.server.app import application
from serving.server.log import Log
from serving.server.metrics import Metrics
from serving.server.service import Service
from serving.server.settings import ServerSettings

INFER = "/v2/models/bowsprit/infer"


class Server:
    """A server's parts, and what they logged."""

    def __init__(self, trained: Path, settings: ServerSettings) -> None:
        self.written = io.StringIO()
        self.log = Log(self.written, for_people=False)
        self.metrics = Metrics()
        self.service = Service(trained, settings.provider_names(), self.log, self.metrics)
        self.app, self.direct = application(self.service, settings, self.log, self.metrics)

    def load(self) -> None:
        asyncio.run(self.service.run(0, is_idle=lambda: True))

    def lines(self) -> list[dict[str, Any]]:
        self.log.start()
        self.log.close()
        return [json.loads(line) for line in self.written.getvalue().splitlines()]


def request(*texts: str, **fields: Any) -> bytes:
    tensor = {"name": "text", "shape": [len(texts)], "datatype": "BYTES", "data": texts}
    return json.dumps({"inputs": [tensor], **fields}).encode()
