"""The one place that turns an environment into `Settings`, and says all that is wrong with it at once."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from job.setting_kinds import PREFIX, env_name, kind, shown
from job.settings import Settings
from serving.errors import SettingsError

SERVING_PREFIX = "BOW_SERVE_"
"""One ConfigMap may hold the job's and the server's variables: these are not the job's to judge."""


@dataclass(frozen=True, kw_only=True)
class Targets:
    """Where a run's end is told."""

    termination_log: Path
    metrics_file: Path | None


def load_settings(environ: Mapping[str, str]) -> Settings:
    """Read the `BOW_*` variables of `environ`; an empty or blank value counts as unset.

    Raises `SettingsError` with one line for each problem found, so that one run shows them all. The rules
    that tie settings together are checked once every setting is right on its own.
    """
    fields = {env_name(name): name for name in Settings.model_fields}
    known = {name: value.strip() for name, value in environ.items() if name in fields}
    problems = [_unknown(name, fields) for name in environ if _is_ours(name) and name not in fields]
    try:
        settings = Settings(**{fields[name]: value for name, value in known.items() if value})  # type: ignore[arg-type]
    except ValidationError as error:
        for details in error.errors():
            problems += _problems(details)
    if problems:
        raise SettingsError("\n".join(problems))
    return settings


def report_targets(environ: Mapping[str, str]) -> Targets:
    """Where a run's end is told, read apart from the other settings: that one of them is wrong is told too.

    What is wrong in these is left out, for `load_settings` to refuse.
    """
    found = {name: environ.get(env_name(name), "").strip() for name in ("termination_log", "metrics_file")}
    metrics_file = found["metrics_file"]
    return Targets(
        termination_log=Path(found["termination_log"] or Settings.model_fields["termination_log"].default),
        metrics_file=Path(metrics_file) if metrics_file.endswith(".prom") else None,
    )


def _is_ours(name: str) -> bool:
    return name.upper().startswith(PREFIX) and not name.upper().startswith(SERVING_PREFIX)


def _unknown(name: str, known: Mapping[str, str]) -> str:
    # The prefix is left out: with it, every name would look much like every other.
    nearest = difflib.get_close_matches(
        name.upper().removeprefix(PREFIX), [other.removeprefix(PREFIX) for other in known], n=1, cutoff=0.5
    )
    advice = f"did you mean {PREFIX}{nearest[0]}?" if nearest else "unset it"
    return f"{name}: there is no such setting; {advice} (python -m job --help lists all settings)"


def _problems(details: ErrorDetails) -> list[str]:
    """The lines for one error of pydantic's, in this project's words."""
    if not details["loc"]:  # from `_settings_agree`, which words its own
        return str(details["ctx"]["error"]).splitlines()
    field = Settings.model_fields[str(details["loc"][0])]
    name = env_name(str(details["loc"][0]))
    examples = [shown(name, example) for example in field.examples or []]
    if details["type"] == "missing":
        return [
            f"{name}: expected {kind(field)}; found nothing; set for example {name}={examples[0]}, "
            f"or {name}=tutorial to try the job out"
        ]
    advice = (
        f"set for example {name}={examples[0]}, or unset it"
        if field.default is None
        else f"set for example {name}={shown(name, field.default)}, the default"
    )
    return [f"{name}: expected {kind(field)}; found {shown(name, details['input'])!r}; {advice}"]
