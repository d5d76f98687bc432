"""A server's parts, to the tests of how it is asked."""

from pathlib import Path

import pytest

from serving.server.settings import server_settings
from tests.serving.server.server import Server


@pytest.fixture
def server(trained: Path) -> Server:
    made = Server(trained, server_settings({"BOW_SERVE_MAX_TEXTS": "3", "BOW_SERVE_MAX_TEXT_BYTES": "50"}))
    made.load()
    return made
