"""Settings as `--help` shows them: a name on the left, and what it means on the right."""

import shutil
import textwrap
from collections.abc import Sequence
from itertools import zip_longest

from serving.settings.kinds import Settings, env_name, kind, shown

INDENT = 30
"""The column at which the right-hand side of the help begins."""


def page_width() -> int:
    """As wide as the terminal, in characters, within reason."""
    return min(max(shutil.get_terminal_size().columns, 60), 110)


def settings_section(settings: Settings, width: int) -> str:
    """Every setting with its meaning, and beneath it what it accepts and its default."""
    rows = [(env_name(settings, name), *_meaning(settings, name)) for name in settings.model_fields]
    return section("Settings", rows, width)


def section(title: str, rows: Sequence[tuple[str, ...]], width: int) -> str:
    """A heading and two columns: a name, and the paragraphs that explain it."""
    lines = [f"{title}:"]
    for name, *paragraphs in rows:
        explained = [line for text in paragraphs for line in textwrap.wrap(text, width - INDENT)]
        lines += [
            f"{left:{INDENT}}{line}" for left, line in zip_longest([f"  {name}"], explained, fillvalue="")
        ]
    return "\n".join(lines)


def _meaning(settings: Settings, name: str) -> tuple[str, str]:
    field = settings.model_fields[name]
    default = (
        "required" if field.is_required() else f"default: {shown(env_name(settings, name), field.default)}"
    )
    return field.description or "", f"[{kind(field)}; {default}]"
