"""The file for Prometheus' textfile collector: the last run's figures, replaced whole when a run ends.

Its one label, `model`, is the file's own name: several scheduled jobs may have their files in one folder. The
run's name is not in it, since every new data set would begin new time series; the log and the termination
message have it.
"""

import time
from pathlib import Path

import structlog
from prometheus_client import CollectorRegistry, Gauge, write_to_textfile
from prometheus_client.parser import text_string_to_metric_families

from job.telling.outcome import Result
from serving.errors import ExitCode

LAST_SUCCESS = "bowsprit_last_success_timestamp_seconds"


def write(path: Path, result: Result) -> None:
    """Replaces the file by this run's; one that failed keeps the time of the last success.

    Raises OSError where it cannot be written; the old file stays then.
    """
    now = time.time()
    last_success = now if result.exit_code == ExitCode.DONE else _last_success(path)
    figures = [
        (LAST_SUCCESS, "When a run last ended with exit code 0, in Unix time.", last_success),
        ("bowsprit_last_run_timestamp_seconds", "When the last run ended, in Unix time.", now),
        (
            "bowsprit_last_run_exit_code",
            "The exit code of the last run.",
            result.exit_code,
        ),
        ("bowsprit_last_run_duration_seconds", "How long the last run took.", result.seconds),
        ("bowsprit_last_run_rows", "Rows of training data that the last run read.", result.rows),
        (
            "bowsprit_last_run_tokens_per_second",
            "Tokens per second of the last run's training loop.",
            result.tokens_per_second,
        ),
        (
            "bowsprit_last_run_accuracy",
            "The share of test rows that the last run's model labels right.",
            result.accuracy,
        ),
    ]
    registry = CollectorRegistry()
    for name, meaning, value in figures:
        if value is not None:
            Gauge(name, meaning, ["model"], registry=registry).labels(path.stem).set(value)
    if result.device is not None:
        device = Gauge(
            "bowsprit_last_run_device_info",
            "The device that the last run trained on; the value is always 1.",
            ["model", "device"],
            registry=registry,
        )
        device.labels(path.stem, result.device).set(1)
    write_to_textfile(str(path), registry)


def _last_success(path: Path) -> float | None:
    """What the last run's file says; None where there is none, or no success yet."""
    try:
        families = list(text_string_to_metric_families(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except ValueError as error:  # UnicodeDecodeError is one
        structlog.get_logger().warning("metrics_file_damaged", path=str(path), reason=str(error))
        return None
    values = [
        family.samples[0].value for family in families if family.name == LAST_SUCCESS and family.samples
    ]
    return values[0] if values else None
