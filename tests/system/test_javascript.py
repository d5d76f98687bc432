"""examples/node and examples/browser: a model gives in JavaScript what it gives in Python."""

import contextlib
import hashlib
import html
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

import numpy as np
import onnxruntime
import pytest

from serving.parity.rungs import Tolerance
from tests.system.conftest import REPOSITORY, has_installed
from tests.system.golden import off_by

pytestmark = pytest.mark.system

SECONDS = 240
TEXT = "Comer en la cafetería 👍🏽 w3!"


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The examples as somebody has them who follows the documentation."""
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed (Debian's package nodejs or npm)")
    folder = tmp_path_factory.mktemp("javascript") / "examples"
    shutil.copytree(REPOSITORY / "examples", folder, ignore=shutil.ignore_patterns("node_modules", "bundle"))
    for example, omitted in (("browser", ""), ("node", "dev")):
        done = run("npm", "install", f"--omit={omitted}", "--no-audit", "--no-fund", cwd=folder / example)
        assert done.returncode == 0, done.stdout + done.stderr
    # The one that both examples use, of 130 MB, is there once.
    web = "node_modules/onnxruntime-web"
    (folder / "node" / web).symlink_to(folder / "browser" / web)
    return folder


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, check=False, timeout=SECONDS, encoding="utf-8"
    )


def in_python(bundle: Path, text: str) -> list[tuple[str, float]]:
    """The labels of a text with their log-probabilities, the most probable first."""
    session = onnxruntime.InferenceSession(bundle / "model.onnx", providers=["CPUExecutionProvider"])
    (log_probs,) = session.run(["log_probs"], {"text": [text]})
    labels = [json.loads(line) for line in (bundle / "labels.jsonl").read_text().split("\n") if line]
    order = np.argsort(-log_probs[0], kind="stable")
    return [(labels[column], float(log_probs[0][column])) for column in order]


def identity(bundle: Path) -> str:
    return hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest()


@pytest.mark.parametrize("runtime", ["onnxruntime-node", "onnxruntime-web"])
def test_the_golden_examples_replay_in_node(
    examples: Path, recipe_bundles: dict[str, Path], runtime: str
) -> None:
    """If it failed, a service in JavaScript would classify by other features than the model learned."""
    bundles = list(recipe_bundles.values())
    done = run("node", "replay.mjs", "--runtime", runtime, *map(str, bundles), cwd=examples / "node")
    assert done.returncode == 0, done.stdout + done.stderr[-4000:]
    for bundle, line in zip(bundles, done.stdout.splitlines(), strict=True):
        assert line.startswith(f"{bundle}: ok, replayed 64 golden examples: largest difference"), line
        assert line.endswith(f"bundle {identity(bundle)}")


@pytest.mark.parametrize(("share", "code", "words"), [(0.9, 0, ": ok, "), (1.1, 1, ": DIFFERS, ")])
def test_a_replay_in_node_fails_beyond_the_tolerance_alone(
    examples: Path, bundle: Path, tmp_path: Path, share: float, code: int, words: str
) -> None:
    """If it failed, a runtime that computes something else would pass, or a good one would not."""
    done = run("node", "replay.mjs", str(off_by(share, bundle, tmp_path)), cwd=examples / "node")
    assert done.returncode == code, done.stdout + done.stderr
    assert words in done.stdout


def test_node_refuses_a_file_that_the_manifest_does_not_name(
    examples: Path, bundle: Path, tmp_path: Path
) -> None:
    """If it failed, half a copy of a bundle, or one that was changed, would go into service."""
    copy = shutil.copytree(bundle, tmp_path / "changed")
    labels = (copy / "labels.jsonl").read_text()
    (copy / "labels.jsonl").write_text(labels.replace("1", "2", 1))
    done = run("node", "classify.mjs", str(copy), TEXT, cwd=examples / "node")
    assert done.returncode == 1
    assert "labels.jsonl is not the file that the manifest names" in done.stderr


def test_node_classifies_a_text_as_python_does(examples: Path, recipe_bundles: dict[str, Path]) -> None:
    """If it failed, the labels would stand beside other labels' probabilities."""
    bundle = recipe_bundles["language-id"]
    done = run("node", "classify.mjs", "--top-k", "2", str(bundle), TEXT, cwd=examples / "node")
    best = [f"  {np.exp(log_prob):.4f}  {label}" for label, log_prob in in_python(bundle, TEXT)[:2]]
    assert done.stdout.splitlines() == [json.dumps(TEXT, ensure_ascii=False), *best], done.stderr


@pytest.mark.parametrize("text", ["a\\0b", "\\ud83d"])
def test_node_refuses_what_a_runtime_would_cut_or_replace(examples: Path, bundle: Path, text: str) -> None:
    """If it failed, onnxruntime-web would classify the half of a text before NUL, and say nothing."""
    script = f"""
        import {{ open }} from "./bundle.mjs";
        await (await open({json.dumps(str(bundle))}, "onnxruntime-web")).classify(["fine", "{text}"]);
    """
    done = run("node", "--input-type=module", "--eval", script, cwd=examples / "node")
    assert done.returncode == 1
    assert "text 2 of 2 holds" in done.stderr


@contextlib.contextmanager
def served(command: Sequence[str], cwd: Path) -> Iterator[str]:
    """What a server that says its address in its first line serves."""
    # In a session of its own: npm leaves its server running where it alone is ended.
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=cwd, stdout=pipe, text=True, start_new_session=True) as server:
        try:
            assert server.stdout is not None
            address = re.search(r"http://[\w.]+:\d+/", server.stdout.readline())
            assert address is not None
            yield address[0]
        finally:
            os.killpg(server.pid, signal.SIGTERM)


def shown(page: str, folder: Path) -> str:
    """The page as Chromium has it in the end, as HTML."""
    if not has_installed("chromium", package="chromium"):
        pytest.skip("chromium is not installed (Debian's package chromium)")
    done = run(
        *("env", f"HOME={folder}", "chromium", "--headless=new", "--no-sandbox", "--disable-gpu"),
        *("--no-first-run", f"--user-data-dir={folder}", f"--virtual-time-budget={SECONDS * 1000}"),
        *("--dump-dom", page),
        cwd=folder,
    )
    assert 'id="replay"' in done.stdout, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def replayed(page: str) -> tuple[str, str]:
    """How the replay on a page ended, and what is said of it."""
    found = re.search(r'<p id="replay"[^>]* data-state="(\w+)">(.*?)</p>', page)
    assert found is not None, page
    return found[1], html.unescape(found[2])


@pytest.mark.parametrize("recipe", ["intents", "language-id", "topics"])
def test_the_page_replays_and_classifies_in_a_browser(
    examples: Path, recipe_bundles: dict[str, Path], tmp_path: Path, recipe: str
) -> None:
    """If it failed, a page would classify by other features than the model learned."""
    bundle, page = recipe_bundles[recipe], examples / "browser"
    (page / recipe).symlink_to(bundle)
    command = ("python3", "-u", "-m", "http.server", "--bind", "127.0.0.1", "0")
    with served(command, cwd=page) as address:
        dom = shown(f"{address}?bundle={recipe}&text={quote(TEXT)}", tmp_path)
    state, words = replayed(dom)
    assert state == "ok", words
    assert words.startswith("Replayed 64 golden examples: largest difference")
    assert f'<code id="bundle-id">{identity(bundle)}</code>' in dom
    rows = re.findall(r'<li[^>]* data-log-prob="([^"]+)"[^>]*><span>([^<]*)</span>', dom)
    expected = in_python(bundle, TEXT)[:5]
    assert [html.unescape(label) for _, label in rows] == [label for label, _ in expected]
    tolerance = Tolerance()
    for (log_prob, _), (_, reference) in zip(rows, expected, strict=True):
        assert abs(float(log_prob) - reference) <= tolerance.atol + tolerance.rtol * abs(reference)


def test_the_page_says_that_a_replay_differs_and_refuses_nul(
    examples: Path, bundle: Path, tmp_path: Path
) -> None:
    """If it failed, a page would look as if all were well, or classify the half of a text before NUL."""
    command = ("env", "PORT=0", "npm", "start", "--silent", "--", str(off_by(1.1, bundle, tmp_path)))
    (tmp_path / "beside").write_text("not of the bundle")
    with served(command, cwd=examples / "browser") as address:
        dom = shown(f"{address}?text=a%00b", tmp_path)
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{address}bundle/..%2fbeside", timeout=10)
    state, words = replayed(dom)
    assert state == "failed"
    assert words.startswith("Replayed 64 golden examples: largest difference")
    assert "text 1 of 1 holds a NUL character" in dom
    assert "data-log-prob" not in dom


def test_a_port_that_is_taken_is_told_in_one_line(examples: Path, bundle: Path) -> None:
    """If it failed, Node's stack would be the answer, and nobody would know of PORT."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("env", f"PORT={port}", "node", "server.mjs", str(bundle), cwd=examples / "browser")
    assert (done.returncode, done.stdout) == (74, "")
    told = f"error: cannot listen on 127.0.0.1, port {port} (EADDRINUSE); set another: PORT=8001 npm start"
    assert done.stderr == f"{told} -- {bundle}\n"
