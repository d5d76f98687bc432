"""The server and its OpenAPI document, compared by schemathesis."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.conftest import REPOSITORY, Environment
from tests.system.server import Server, running

pytestmark = pytest.mark.system

SETTINGS = """
[checks]
negative_data_rejection.expected-statuses = [400, 404, 405, 408, 413, 415]
positive_data_acceptance.expected-statuses = ["2xx"]
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    environment = Environment(tmp_path_factory.mktemp("schemathesis") / "venv")
    environment.install("schemathesis>=4.1,<5")
    return environment


@pytest.fixture(scope="module")
def server(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(bundle, tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_the_server_does_what_its_document_says(
    environment: Environment, server: Server, tmp_path: Path, mode: str
) -> None:
    """If it failed, generated clients would send what is refused, or not understand the answers."""
    (tmp_path / "schemathesis.toml").write_text(SETTINGS)
    environ = dict(os.environ)
    if mode == "positive":
        environ |= {"SCHEMATHESIS_HOOKS": "schema_hooks", "PYTHONPATH": str(REPOSITORY / "tests" / "system")}
        environ["VERSION"] = server.ask("/v2/models/bowsprit").json["versions"][0]
    command = [str(environment.folder / "bin" / "schemathesis"), "run", f"--mode={mode}", "--seed=1"]
    phases = "examples,coverage,fuzzing" if mode == "positive" else "coverage,fuzzing"
    command += [f"--phases={phases}", "--max-examples=100", "--continue-on-failure"]
    command += ["--no-color", f"http://127.0.0.1:{server.port}/openapi.json"]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "11 selected / 11 total" in done.stdout, done.stdout
    print(done.stdout[-600:])
    assert {event["event"] for event in server.events()} == {"listening", "bundle_served"}
