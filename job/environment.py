"""What the job reads from its environment: `Settings`, and where a run's end is told."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from job.setting_kinds import env_name, is_local
from job.settings import Settings
from serving.settings.environment import read_settings

SERVING_PREFIX = "BOW_SERVE_"
"""One ConfigMap may hold the job's and the server's variables: these are not the job's to judge."""


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Where a run's end is told."""

    termination_log: Path
    metrics_file: Path | None


def load_settings(environ: Mapping[str, str]) -> Settings:
    """Reads the `BOW_*` variables of `environ`; an empty or blank value counts as unset.

    Raises `SettingsError` with one line for each problem found.
    """
    return read_settings(Settings, environ, command="python -m job", others=[SERVING_PREFIX])


def report_targets(environ: Mapping[str, str]) -> Targets:
    """Where a run's end is told, read apart from the other settings: that one of them is wrong is told too.

    What is wrong in these is left out, for `load_settings` to refuse.
    """
    given = {name: environ.get(env_name(name), "").strip() for name in ("termination_log", "metrics_file")}
    found = {name: text if is_local(text) else "" for name, text in given.items()}
    metrics_file = found["metrics_file"]
    return Targets(
        termination_log=Path(found["termination_log"] or Settings.model_fields["termination_log"].default),
        metrics_file=Path(metrics_file) if metrics_file.endswith(".prom") else None,
    )
