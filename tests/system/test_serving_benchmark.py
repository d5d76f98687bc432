"""`make benchmark-serving` with our server and the bare app, which it installs, on a small model."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks.serving import __main__ as command
from benchmarks.serving import environments
from benchmarks.serving.load import Load
from benchmarks.serving.servers import BARE, OWN

pytestmark = pytest.mark.system


def test_servers_are_checked_and_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it failed, nobody could repeat what is said about the server's speed."""
    rows = [f"{'hot' if row % 2 else 'cold'} tea{row % 7} où\tlabel {row % 2}\n" for row in range(80)]
    for part in ("train", "test"):
        (tmp_path / f"{part}.tsv").write_text("text\tlabel\n" + "".join(rows), encoding="utf-8")
    monkeypatch.setattr(environments, "FOLDER", tmp_path / "peers")
    monkeypatch.setattr(command, "LOADS", [Load(texts=1, connections=1), Load(texts=32, connections=8)])
    arguments = ["--data", *(str(tmp_path / f"{part}.tsv") for part in ("train", "test"))]
    arguments += ["--contenders", "bowsprit", "bare", "--rounds", "1", "--seconds", "1"]
    monkeypatch.setattr(sys, "argv", ["benchmark", *arguments, "--folder", str(tmp_path / "found")])
    command.main()

    results = json.loads((tmp_path / "found" / "serving.json").read_text())
    for load in results["loads"]:
        assert set(load["contenders"]) == {OWN, BARE}
        for (measured,) in load["contenders"].values():
            assert measured["requests"] > 10
            assert 0 < measured["p50"] <= measured["p99"] <= measured["slowest"]
            assert 0 < measured["cpu"] < 1
    assert results["versions"][BARE]["onnxruntime"]
    assert results["in_process"][0]["Predictor.predict"]["one"] > 0
    assert f"| 32 | 8 | {OWN} |" in (tmp_path / "found" / "serving.md").read_text()
