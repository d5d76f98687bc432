"""The command line of `python -m job`: what it accepts, its help, and the table of the settings in force."""

import argparse
import textwrap
from collections.abc import Mapping, Sequence
from enum import Enum
from importlib.metadata import version
from typing import NoReturn

from job.setting_kinds import env_name
from job.settings import Settings
from serving.errors import ExitCode, SettingsError
from serving.settings.help import page_width, section, settings_section
from serving.settings.kinds import shown


class Command(Enum):
    """What `python -m job` is asked to do."""

    TRAIN = "train"
    HELP = "help"
    PRINT_SETTINGS = "print-settings"
    VERSION = "version"


def parse(argv: Sequence[str]) -> Command:
    """The command that the arguments (without the program's name) ask for; none means train.

    Raises `SettingsError` for an argument that does not exist.
    """
    parser = _Parser(prog="python -m job", add_help=False, allow_abbrev=False)
    parser.set_defaults(command=Command.TRAIN)
    choice = parser.add_mutually_exclusive_group()
    for flags, command in (
        (("-h", "--help"), Command.HELP),
        (("--print-settings",), Command.PRINT_SETTINGS),
        (("--version",), Command.VERSION),
    ):
        choice.add_argument(*flags, dest="command", action="store_const", const=command)
    command = parser.parse_args(argv).command
    assert isinstance(command, Command)
    return command


def help_text(width: int | None = None) -> str:
    """The page that `--help` prints, `width` characters wide; unset, as wide as the terminal (60 to 110)."""
    width = width or page_width()
    intro = textwrap.fill(
        "Trains a bag-of-words text classifier and writes a bundle whose ONNX model was checked against it. "
        "Settings are environment variables; an empty one counts as unset.",
        width,
    )
    options = [
        ("--help", "Print this page."),
        ("--print-settings", "Print each setting's value and where it comes from, and stop."),
        ("--version", "Print the version, and stop."),
    ]
    codes = [(str(code.value), code.meaning) for code in ExitCode]
    return "\n\n".join(
        [
            "usage: BOW_TRAIN_DATA=data/train.tsv python -m job [--help | --print-settings | --version]",
            intro,
            section("Options", options, width),
            settings_section(Settings, width),
            section("Exit codes", codes, width),
        ]
    )


def settings_table(settings: Settings, environ: Mapping[str, str]) -> str:
    """Each setting with its value and its source, one a line: what `--print-settings` prints."""
    rows = []
    for name in Settings.model_fields:
        variable = env_name(name)
        source = "environment" if environ.get(variable, "").strip() else "default"
        rows.append((variable, shown(variable, getattr(settings, name)), source))
    name_width, value_width = (max(len(row[column]) for row in rows) for column in (0, 1))
    return "\n".join(f"{name:{name_width}}  {value:{value_width}}  {source}" for name, value, source in rows)


def version_text() -> str:
    """The line that `--version` prints."""
    return f"bowsprit {version('bowsprit')}"


class _Parser(argparse.ArgumentParser):
    """Raises where argparse would print its usage and leave."""

    def error(self, message: str) -> NoReturn:
        raise SettingsError(
            f"python -m job: {message}; settings are environment variables, for example "
            "BOW_TRAIN_DATA=data/train.tsv python -m job (--help lists them all)"
        )
