"""The one line that a run comes to, and what is told to the machinery around it."""

import json
import os
import stat
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from job.environment import Targets, report_targets
from job.telling import prometheus
from job.telling.outcome import Ending, Facts, Result, result_of
from job.telling.report import MAX_BYTES, report
from serving.errors import ExitCode

DONE = Ending(exit_code=ExitCode.DONE)


def result(ending: Ending = DONE, **facts: object) -> Result:
    known = {"run": "night-1", "rows": 1200, "accuracy": 0.91, "tokens_per_second": 5e6, "device": "cpu"}
    known |= {"outcome": "published", "bundle_id": "ab" * 32}
    return result_of(Facts(**(known | facts)), ending, 12.3456)  # type: ignore[arg-type]


def failed(message: str, code: ExitCode = ExitCode.DATA) -> Ending:
    return Ending(exit_code=code, error="DataError", message=message)


def samples(path: Path) -> dict[str, float]:
    """Every figure of a file, read as Prometheus reads it; each must have its HELP and TYPE."""
    found = {}
    for family in text_string_to_metric_families(path.read_text()):
        assert family.type == "gauge"
        assert family.documentation
        (sample,) = family.samples
        assert sample.labels["model"] == path.stem
        found[sample.name] = sample.value
    return found


def test_people_get_one_line() -> None:
    """If it failed, who looks at the end of a log would have to read all of it."""
    line = result().for_people()
    assert line == "night-1: published, test accuracy 0.9100, 1,200 rows, 5,000,000 tokens/s, cpu, 12.3 s\n"
    nothing = {"run": None, "rows": None, "accuracy": None, "tokens_per_second": None, "device": None}
    line = result(failed("no file"), **nothing, outcome=None).for_people()
    assert line == "the run: failed (exit code 3), 12.3 s\n"
    kept = result(failed("worse", ExitCode.QUALITY_GATE), outcome="kept_back").for_people()
    assert kept.startswith("night-1: kept back (exit code 7), test accuracy 0.9100")


@pytest.mark.parametrize(
    ("code", "facts", "outcome"),
    [
        (ExitCode.DONE, "already_published", "already_published"),
        (ExitCode.QUALITY_GATE, "kept_back", "kept_back"),
        (ExitCode.PLATFORM, "published", "failed"),
        (ExitCode.DATA, None, "failed"),
        (ExitCode.BUG, None, "bug"),
        (ExitCode.INTERRUPTED, None, "interrupted"),
    ],
)
def test_every_way_to_end_has_its_word(code: ExitCode, facts: str | None, outcome: str) -> None:
    """If it failed, a failed night would be counted as a good one."""
    assert result(Ending(exit_code=code), outcome=facts).outcome == outcome


def test_only_the_first_line_of_a_message_is_in_the_result() -> None:
    """If it failed, a list of bad rows would fill the message that Kubernetes shows."""
    assert result(failed("first\nsecond")).message == "first"


@pytest.mark.parametrize("character", ["x", "é", "😀", '"', "\x01", "\\"])
@pytest.mark.parametrize("length", [3000, 4000, 4096, 50_000])
def test_a_termination_message_is_whole_json_of_at_most_4096_bytes(character: str, length: int) -> None:
    """If it failed, Kubernetes would cut it off, and nothing could parse the rest."""
    line = result(failed(character * length)).to_json(MAX_BYTES)
    assert len(line) <= MAX_BYTES
    assert line.endswith(b"\n")
    message = json.loads(line)["message"]
    assert message.startswith(character)
    if message != character * length:
        assert message.endswith("…")
        assert len(line) > MAX_BYTES - 64  # no more is cut than must be


def test_a_path_that_is_no_utf_8_stands_in_the_message() -> None:
    """If it failed, such a path would end the job in a traceback, and with the exit code of a bug."""
    message = os.fsdecode(b"nope/\xff.tsv: no such file")
    assert json.loads(result(failed(message)).to_json(MAX_BYTES))["message"] == "nope/?.tsv: no such file"


def test_a_number_that_json_lacks_is_null() -> None:
    """If it failed, the very message of a broken night could not be parsed."""
    assert json.loads(result(accuracy=float("nan")).to_json(MAX_BYTES))["accuracy"] is None


def test_the_termination_log_is_written_in_its_place(tmp_path: Path) -> None:
    """If it failed, Kubernetes would look at the file it mounted, and find nothing or an older message."""
    path = tmp_path / "termination-log"
    path.write_text("older and longer" * 1000)
    inode = path.stat().st_ino
    report(result(failed("broken")), Targets(termination_log=path, metrics_file=None))
    assert path.stat().st_ino == inode
    assert json.loads(path.read_text()) == {
        "run": "night-1",
        "outcome": "failed",
        "exit_code": 3,
        "bundle_id": "ab" * 32,
        "accuracy": 0.91,
        "rows": 1200,
        "tokens_per_second": 5_000_000,
        "device": "cpu",
        "seconds": 12.346,
        "error": "DataError",
        "message": "broken",
    }


def test_no_termination_log_is_made_where_there_is_none(tmp_path: Path) -> None:
    """If it failed, every run outside Kubernetes would leave a file, or complain that it cannot."""
    report(result(), Targets(termination_log=tmp_path / "none", metrics_file=None))
    assert list(tmp_path.iterdir()) == []


def test_the_metrics_file_has_what_an_alert_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it failed, nobody would be woken when the nightly model stops coming."""
    monkeypatch.setattr(prometheus.time, "time", lambda: 1000.0)
    path = tmp_path / "intents.prom"
    prometheus.write(path, result())
    assert samples(path) == {
        "bowsprit_last_success_timestamp_seconds": 1000,
        "bowsprit_last_run_timestamp_seconds": 1000,
        "bowsprit_last_run_exit_code": 0,
        "bowsprit_last_run_duration_seconds": 12.346,
        "bowsprit_last_run_rows": 1200,
        "bowsprit_last_run_tokens_per_second": 5e6,
        "bowsprit_last_run_accuracy": 0.91,
        "bowsprit_last_run_device_info": 1,
    }
    assert 'device="cpu"' in path.read_text()
    assert "night-1" not in path.read_text()
    assert [each.name for each in tmp_path.iterdir()] == ["intents.prom"]
    assert stat.S_IMODE(path.stat().st_mode) & 0o044  # another user's collector reads it


def test_a_failure_keeps_the_time_of_the_last_success(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it failed, an alert on a model that is too old would never come, or come with every failure."""
    path = tmp_path / "intents.prom"
    times = iter([1000.0, 2000.0, 3000.0, 1795626224.8505917, 5000.0])
    monkeypatch.setattr(prometheus.time, "time", lambda: next(times))
    success = "bowsprit_last_success_timestamp_seconds"
    prometheus.write(path, result(failed("at first"), rows=None, device=None))
    assert success not in samples(path)
    assert "bowsprit_last_run_rows" not in samples(path)
    prometheus.write(path, result())
    prometheus.write(path, result(failed("worse", ExitCode.QUALITY_GATE)))
    found = samples(path)
    assert (found[success], found["bowsprit_last_run_timestamp_seconds"]) == (2000, 3000)
    assert found["bowsprit_last_run_exit_code"] == 7
    prometheus.write(path, result())
    prometheus.write(path, result(failed("again")))
    assert samples(path)[success] == 1795626224.8505917


def test_a_damaged_metrics_file_is_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If it failed, one bad byte would end every later run in a traceback."""
    for content in (b"\xff", b"bowsprit_last_success_timestamp_seconds{model= 1\n", b""):
        path = tmp_path / "x.prom"
        path.write_bytes(content)
        prometheus.write(path, result(failed("broken")))
        assert samples(path)["bowsprit_last_run_exit_code"] == 3


def test_what_cannot_be_written_is_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If it failed, a wrong mount would turn a published model into a failed job."""
    targets = Targets(termination_log=tmp_path, metrics_file=tmp_path / "missing" / "x.prom")
    report(result(), targets)
    captured = capsys.readouterr()
    assert "result_not_written" in captured.out + captured.err
    assert "metrics_not_written" in captured.out + captured.err
    assert os.listdir(tmp_path) == []  # noqa: PTH208


def test_where_to_report_is_known_even_if_other_settings_are_wrong(tmp_path: Path) -> None:
    """If it failed, a misspelt setting would leave last night's good figures standing."""
    environ = {"BOW_EPOCHS": "many", "BOW_METRICS_FILE": " m/x.prom ", "BOW_TERMINATION_LOG": "/t"}
    assert report_targets(environ) == Targets(termination_log=Path("/t"), metrics_file=Path("m/x.prom"))
    nowhere = Targets(termination_log=Path("/dev/termination-log"), metrics_file=None)
    assert report_targets({"BOW_METRICS_FILE": "x.txt"}) == nowhere
    urls = {"BOW_METRICS_FILE": "s3://bucket/x.prom", "BOW_TERMINATION_LOG": "s3://bucket/t"}
    assert report_targets(urls) == nowhere
    assert report_targets({"BOW_METRICS_FILE": "\udcff.prom"}) == nowhere
