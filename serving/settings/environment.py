"""The one place that turns an environment into settings, and says all that is wrong with it at once."""

import re
from collections.abc import Mapping, Sequence
from typing import TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings

from serving.errors import SettingsError
from serving.settings.kinds import Settings, env_name, kind, prefix_of, shown
from serving.settings.names import unknown_names

SETTINGS = TypeVar("SETTINGS", bound=BaseSettings)


def read_settings(
    settings: type[SETTINGS], environ: Mapping[str, str], *, command: str, others: Sequence[str] = ()
) -> SETTINGS:
    """Reads the variables of some settings; an empty or blank value counts as unset.

    command: what lists the settings with --help, for messages.
    others: longer prefixes, whose variables are not these settings' to judge.

    Raises `SettingsError` with one line for each problem found, so that one run shows them all. The rules
    that tie settings together are checked once every setting is right on its own.
    """
    fields = {env_name(settings, name): name for name in settings.model_fields}
    known = {name: value.strip() for name, value in environ.items() if name in fields}
    problems = unknown_names(environ, fields, prefix_of(settings), command=command, others=others)
    found = None
    try:
        found = settings(**{fields[name]: value for name, value in known.items() if value})  # type: ignore[arg-type]
    except ValidationError as error:
        for details in error.errors():
            problems += _problems(settings, details)
    if problems or found is None:
        raise SettingsError("\n".join(problems))
    return found


def _problems(settings: Settings, details: ErrorDetails) -> list[str]:
    """The lines for one error of pydantic's, in this project's words."""
    if not details["loc"]:  # from a rule that ties settings together, which words its own
        return str(details["ctx"]["error"]).splitlines()
    field = settings.model_fields[str(details["loc"][0])]
    name = env_name(settings, str(details["loc"][0]))
    examples = [shown(name, example) for example in field.examples or []]
    if details["type"] == "missing":
        first, second = examples
        return [
            f"{name}: expected {kind(field)}; found nothing; set for example {name}={first}, "
            f"or {name}={second} to try the job out"
        ]
    advice = (
        f"set for example {name}={examples[0]}, or unset it"
        if examples
        else f"set for example {name}={shown(name, field.default)}, the default"
    )
    # What a URL goes on with may be a secret: `user:password@`, or a signature.
    found = re.sub(r"://.*", "://...", shown(name, details["input"]), flags=re.DOTALL)
    return [f"{name}: expected {kind(field)}; found {found!r}; {advice}"]
