"""The recipes' models give their golden examples' log-probabilities in JavaScript, in Node and a browser."""

import contextlib
import html
import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.system.conftest import has_installed

pytestmark = pytest.mark.system

SCRIPTS = Path(__file__).parent / "javascript"
SECONDS = 240


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, recipe_bundles: dict[str, Path]) -> Path:
    """The scripts, the packages that they use, and a bundle of each recipe."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed (Debian's package nodejs or npm)")
    folder = tmp_path_factory.mktemp("javascript")
    shutil.copytree(SCRIPTS, folder, dirs_exist_ok=True)
    done = subprocess.run(
        ["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--no-package-lock"],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for name, bundle in recipe_bundles.items():
        shutil.copytree(bundle, folder / name)
    return folder


def assert_replayed(found: list[dict[str, Any]], recipe_bundles: dict[str, Path]) -> None:
    assert [each["name"] for each in found] == list(recipe_bundles)
    for each in found:
        assert each["examples"] == 64
        assert each["share_of_bound"] <= 1, each


@pytest.mark.parametrize("runtime", ["onnxruntime-node", "onnxruntime-web"])
def test_the_golden_examples_replay_in_node(
    folder: Path, recipe_bundles: dict[str, Path], runtime: str
) -> None:
    """If it failed, a service in JavaScript would classify by other features than the model learned."""
    done = subprocess.run(
        ["node", "node.mjs", runtime, *recipe_bundles],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert_replayed(json.loads(done.stdout.splitlines()[-1]), recipe_bundles)


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder, and says nothing."""

    def log_message(self, *_: object) -> None:
        """Not in the tests' output."""


@contextlib.contextmanager
def served(folder: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_golden_examples_replay_in_a_browser(
    folder: Path, recipe_bundles: dict[str, Path], tmp_path: Path
) -> None:
    """If it failed, a page would classify by other features than the model learned."""
    if not has_installed("chromium", package="chromium"):
        pytest.skip("chromium is not installed (Debian's package chromium)")
    query = "&".join(f"bundle={name}" for name in recipe_bundles)
    with served(folder) as address:
        done = subprocess.run(
            [
                *("chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run"),
                *(f"--user-data-dir={tmp_path}", f"--virtual-time-budget={SECONDS * 1000}", "--dump-dom"),
                f"{address}/index.html?{query}",
            ],
            capture_output=True,
            text=True,
            check=False,
            timeout=SECONDS,
            env={**os.environ, "HOME": str(tmp_path)},
        )
    shown = re.search(r'<pre id="found">(\w+) ?(.*?)</pre>', done.stdout, re.DOTALL)
    assert shown is not None, done.stdout[-2000:] + done.stderr[-2000:]
    assert shown[1] == "found", shown[0]
    assert_replayed(json.loads(html.unescape(shown[2])), recipe_bundles)
