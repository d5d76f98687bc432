"""The benchmark's own parts; the peers are compared by `make benchmark` alone."""

import json
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as benchmark
from benchmarks import convert, corpus, process, profile, report
from benchmarks.task import Task
from job.run_record import EpochRecord, RunRecord
from job.stages import StageRecord

ROOT = Path(__file__).parents[2]


@pytest.fixture
def word_frequencies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten words a language instead of wordfreq's, which only the benchmark's environment has."""
    module = types.ModuleType("wordfreq")

    def frequencies(language: str, **_: Any) -> dict[str, float]:
        return {f"{language}{rank}": 1 / (1 + rank) for rank in range(10)} | {"two words": 1.0}

    module.get_frequency_dict = frequencies  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wordfreq", module)


@pytest.fixture
def small_task(tmp_path: Path) -> Task:
    parts = {}
    for part, repeats in (("train", 20), ("test", 5)):
        path = tmp_path / f"{part}.csv"
        path.write_text(
            "text,label\n" + "at : the | bank,finance\nby   the river,water\n" * repeats, encoding="utf-8"
        )
        parts[part] = str(path)
    return convert.write(tmp_path / "small", parts)


@pytest.mark.usefixtures("word_frequencies")
def test_the_generator_draws_the_same_texts_from_the_same_seed(tmp_path: Path) -> None:
    """If it failed, nobody could repeat a benchmark."""
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        corpus.generate(tmp_path / name, num_tokens=20_000, num_labels=3, seed=seed)
    one, again, other = ((tmp_path / name / "train.tsv").read_bytes() for name in ("one", "again", "other"))
    assert one == again != other
    assert (tmp_path / "one" / "test.tsv").read_bytes() not in one
    lines = one.decode().splitlines()
    texts = [line.split("\t")[1].split(" ") for line in lines[1:]]
    assert lines[0] == "label\ttext"
    assert sum(map(len, texts)) == pytest.approx(20_000, rel=0.1)
    assert {line.split("\t")[0] for line in lines[1:]} == {"label0", "label1", "label2"}
    assert all(text[0] for text in texts)


def test_every_contender_is_given_the_same_tokens(small_task: Task) -> None:
    """If it failed, contenders would learn from different texts, and their figures would say nothing."""
    assert small_task.num_labels == 2
    assert small_task.rows("test") == (["at : the | bank", "by the river"] * 5, [0, 1] * 5)
    lines = {
        suffix: small_task.path("test", suffix).read_text(encoding="utf-8").splitlines()[:2]
        for suffix in ("ft", "vw")
    }
    assert lines["ft"] == ["__label__0 at : the | bank", "__label__1 by the river"]
    assert lines["vw"] == ["1 | at \u2236 the \u2223 bank", "2 | by the river"]


def test_a_contender_reports_its_figures(small_task: Task) -> None:
    """If it failed, the benchmark would show nothing of Bowsprit itself."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.child", "bowsprit", str(small_task.folder), "1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["accuracy"] == 1
    assert 0 < figures["stages"]["train"] < figures["file_to_model"] < figures["whole"]
    # 40 rows of 10 tokens in all, 7 words and 2 labels.
    assert 4 * 160 + 8 * 41 + 2 * 4 * 2 * 8 <= figures["stages"]["least_memory"] < figures["memory_before"]


def figures(seconds: float, accuracy: float, **stages: float) -> dict[str, Any]:
    return {
        "whole": seconds,
        "file_to_model": seconds,
        "accuracy": accuracy,
        "stages": stages,
        "memory_before": 2e8,
        "peak_memory": 9e8,
        "single_text": 1e-5,
        "texts_per_second": 1000.0,
    }


def test_the_table_compares_round_by_round() -> None:
    """If it failed, a moment in which the machine was slow would decide who is faster."""
    contenders = {
        "bowsprit": [figures(1, 0.9, train=0.5, verify=0.1), figures(10, 0.9, train=5, verify=1)],
        "slow": [figures(3, 0.8), figures(30, 0.8)],
    }
    results = {
        "command": "python -m benchmarks",
        "machine": {"cpu": "a CPU", "num_threads": 2, "python": "3.12"},
        "limits": {"copied_bytes_per_second": 5e9, "nanoseconds_per_row_by_table_bytes": {"32768": 1.5}},
        "tasks": {"small": contenders},
        "scale": [
            {
                "tokens": 1000,
                "contenders": {
                    "bowsprit": [figures(1, 0.9, tokens_per_second=1e8, least_memory=4e8)] * 3,
                },
            },
            {
                "tokens": 2000,
                "contenders": {
                    "bowsprit": [
                        figures(seconds, 0.9, tokens_per_second=1e8 / growth, least_memory=4e8)
                        for seconds, growth in ((1, 2), (2, 1), (9, 4))
                    ],
                },
            },
        ],
        "gpu": {"not_measured": "there is none"},
    }
    lines = report.markdown(results).splitlines()
    slow = next(line for line in lines if line.startswith("| slow"))
    assert [cell.strip() for cell in slow.strip("|").split("|")][:3] == [
        "slow",
        "16.50 (3.00 to 30.00)",
        "3.0",
    ]
    assert (
        "| 1e+03 | 1.00 s | 10.0 (10.0 to 10.0) | 1.00 (1.00 to 1.00) | 900 | 1.50 (1.50 to 1.50) of 600 |"
        in lines
    )
    assert (
        "| 2e+03 | 2.00 s | 20.0 (10.0 to 40.0) | 2.00 (1.00 to 4.00) | 900 | 1.50 (1.50 to 1.50) of 600 |"
        in lines
    )
    assert "On a GPU: not measured (there is none)." in lines
    assert not any("failed" in line for line in lines)
    short = report.summary(results, ("slow", "bowsprit")).splitlines()
    assert short[-1] == "| small | 16.50 s, 0.8000 | 5.50 s, 0.9000 |"


def test_a_peer_that_fails_is_left_out_and_named(small_task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it failed, a peer that runs out of memory in the last task would cost the figures of all others."""
    asked = []

    def run(name: str, task: Task, num_threads: int) -> dict[str, Any]:
        asked.append(name)
        if name == "frail" and asked.count("frail") == 2:
            raise process.FailedError("frail", "Traceback:\n  line 1\nMemoryError: none left\n")
        return figures(1, 0.9, tokens_per_second=1e8, least_memory=4e8)

    monkeypatch.setattr(benchmark, "_run", run)
    failed: dict[str, str] = {}
    found = benchmark._compete(small_task, ["frail", "bowsprit"], 1, 3, failed)
    assert {name: len(rounds) for name, rounds in found.items()} == {"bowsprit": 3}
    assert asked.count("frail") == 2
    assert failed == {f"frail on {small_task.name}": "MemoryError: none left"}
    results = {
        "command": "python -m benchmarks",
        "machine": {"cpu": "a CPU", "num_threads": 2, "python": "3.12"},
        "limits": {"copied_bytes_per_second": 5e9, "nanoseconds_per_row_by_table_bytes": {}},
        "tasks": {small_task.name: found},
        "failed": failed,
        "scale": [{"tokens": 1000, "contenders": found | {"frail": found["bowsprit"]}}],
        "gpu": {"not_measured": "there is none"},
    }
    results["scale"].append({"tokens": 2000, "contenders": found})  # type: ignore[attr-defined]
    lines = report.markdown(results).splitlines()
    assert f"- frail on {small_task.name} failed: MemoryError: none left" in lines
    assert [line.split(" | ")[:3] for line in lines if line.startswith(("| 1e+03", "| 2e+03"))] == [
        ["| 1e+03", "1.00 s", "1.00 s"],
        ["| 2e+03", "1.00 s", "failed"],
    ]


def test_our_own_failure_ends_the_benchmark(small_task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it failed, a job that no longer trains would look like one that was not asked for."""

    def run(name: str, task: Task, num_threads: int) -> dict[str, Any]:
        raise process.FailedError(name, "")

    monkeypatch.setattr(benchmark, "_run", run)
    with pytest.raises(process.FailedError, match=r"bowsprit, topics failed"):
        benchmark._compete(small_task, ["bowsprit, topics"], 1, 1, {})


def test_the_table_of_a_gpu_says_how_near_it_is_to_its_memory() -> None:
    """If it failed, nobody could tell whether the GPU is used."""
    contenders = {
        "bowsprit": [figures(3, 0.9, tokens_per_second=4e9, least_memory=4e8)],
        "bowsprit, GPU": [figures(1, 0.9, tokens_per_second=1e10)],
    }
    results = {
        "command": "python -m benchmarks",
        "machine": {"cpu": "a CPU", "num_threads": 2, "python": "3.12"},
        "limits": {"copied_bytes_per_second": 5e9, "nanoseconds_per_row_by_table_bytes": {"32768": 1.5}},
        "tasks": {"small": contenders},
        "labels": {"small": 2},
        "scale": [{"tokens": 2000, "contenders": contenders}],
        "gpu": {"name": "a GPU", "copied_bytes_per_second": 2e12},
    }
    lines = report.markdown(results).splitlines()
    assert "On a GPU, which copies 2,000 GB/s:" in lines
    assert "| small | 10,000,000,000 | 2.5 | 240.0 | 12.0% |" in lines
    assert "| 2e+03 tokens | 10,000,000,000 | 2.5 | 240.0 | 12.0% |" in lines


def test_the_profile_shows_every_stage() -> None:
    """If it failed, a slow stage could hide."""
    record = RunRecord(
        started="2026-01-01T00:00:00+00:00",
        seconds=4,
        host="host",
        machine="machine",
        python="3.12",
        device="cpu",
        device_name="a CPU",
        device_requested="cpu",
        device_reason=None,
        num_threads=2,
        settings={},
        num_rows=10,
        num_tokens=1000,
        tokens_per_second=2000,
        epochs=[EpochRecord(loss=1, validation_accuracy=None)] * 2,
        best_epoch=None,
        stages={
            "read": StageRecord(seconds=3, peak_memory=10**7),
            "train": StageRecord(seconds=1, peak_memory=10**7),
        },
        peak_memory=10**7,
        peak_device_memory=None,
    )
    read, train = profile.table(record).splitlines()[1:3]
    assert read.split() == ["read", "3.000", "75.0%", "333", "10"]
    assert train.split() == ["train", "1.000", "25.0%", "2,000", "10"]
