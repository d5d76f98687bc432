"""What came back for a request to the server, over a network or without one."""

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer of HTTP."""

    status: int
    headers: dict[str, str]
    """By their names in lower case."""
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """What it says is wrong, and nothing else."""
        assert list(self.json) == ["error"]
        text = self.json["error"]
        assert isinstance(text, str)
        return text
