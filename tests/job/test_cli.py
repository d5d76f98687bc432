import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from job.cli import Command, help_text, parse, settings_table, version_text
from job.environment import load_settings
from job.setting_kinds import env_name
from job.settings import Settings
from serving.errors import ExitCode, SettingsError

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("argv", "command"),
    [
        ([], Command.TRAIN),
        (["--help"], Command.HELP),
        (["-h"], Command.HELP),
        (["--print-settings"], Command.PRINT_SETTINGS),
        (["--version"], Command.VERSION),
    ],
)
def test_each_argument_asks_for_its_command(argv: list[str], command: Command) -> None:
    """If it failed, asking for help or the settings could start a training."""
    assert parse(argv) is command


@pytest.mark.parametrize("argv", [["train.tsv"], ["--epochs", "3"], ["--hel"], ["--help", "--version"]])
def test_an_argument_that_does_not_exist_is_refused_with_the_way_to_set_things(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """If it failed, an argument would be ignored, or its refusal would not say where settings come from."""
    with pytest.raises(SettingsError, match=r"settings are environment variables.*--help") as caught:
        parse(argv)
    assert argv[-1] in str(caught.value) or argv[0] in str(caught.value)
    assert caught.value.exit_code is ExitCode.SETTINGS
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("name", Settings.model_fields)
def test_help_explains_every_setting(name: str) -> None:
    """If it failed, a setting would exist that no user can find."""
    field = Settings.model_fields[name]
    # The settings' part alone, each entry from its name to the next one's.
    entry = re.search(
        rf"^  {env_name(name)}\s(.*?)(?=^\S|^  \S|\Z)", help_text(100), re.DOTALL | re.MULTILINE
    )
    assert entry is not None
    text = " ".join(entry[1].split())
    assert " ".join((field.description or "?").split()) in text
    assert text.endswith("; required]" if field.is_required() else "]")
    assert field.is_required() or "; default: " in text


def test_help_explains_every_exit_code() -> None:
    """If it failed, whoever writes a retry policy would have to read the source."""
    page = " ".join(help_text(100).split())
    for code in ExitCode:
        assert f" {code.value} {code.meaning}" in page


@pytest.mark.parametrize("width", [60, 80, 110])
def test_help_keeps_within_its_width(width: int) -> None:
    """If it failed, the columns would fall apart on a narrow terminal."""
    body = help_text(width).split("\n\n", 1)[1]  # the usage line is one command, to be copied whole
    assert max(len(line) for line in body.splitlines()) <= width


def test_the_table_tells_each_value_and_where_it_comes_from() -> None:
    """If it failed, `--print-settings` could not answer why a run behaved as it did."""
    environ = {"BOW_TRAIN_DATA": "tutorial", "BOW_SHUFFLE": "no", "BOW_INIT": " "}
    table = settings_table(load_settings(environ), environ)
    rows = {line.split()[0]: re.split(r"\s{2,}", line)[1:] for line in table.splitlines()}
    assert rows.keys() == {env_name(name) for name in Settings.model_fields}
    assert rows["BOW_TRAIN_DATA"] == ["tutorial", "environment"]
    assert rows["BOW_SHUFFLE"] == ["false", "environment"]
    assert rows["BOW_INIT"] == ["zeros", "default"]
    assert rows["BOW_TEST_DATA"] == ["not set", "default"]


def test_the_version_names_the_distribution() -> None:
    """If it failed, a bug report could not say what it is about."""
    assert re.fullmatch(r"bowsprit \d+\.\d+\.\d+", version_text())


@pytest.mark.parametrize(
    ("arguments", "epochs"),
    [(["--help"], 1), (["--version"], 1), (["--print-settings"], 1), (["--hlep"], 1), ([], 0)],
)
def test_what_does_not_train_does_not_wait_for_torch(arguments: list[str], epochs: int) -> None:
    """If it failed, `--help` and every settings error would take seconds."""
    code = f"""
import sys
from job.main import main
from job.stopping import Stop
main({arguments}, {{"BOW_TRAIN_DATA": "tutorial", "BOW_EPOCHS": "{epochs}"}}, Stop())
print({{"torch", "pyarrow", "onnxruntime"}} & sys.modules.keys())
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines()[-1] == "set()"


@pytest.mark.parametrize("arguments", [[], ["--help"]])
def test_what_to_install_is_said_where_the_server_alone_is_installed(
    tmp_path: Path, arguments: list[str]
) -> None:
    """If it failed, a traceback would be the answer, and a scheduler would take it for a bug of ours."""
    (tmp_path / "structlog.py").write_text("raise ModuleNotFoundError('No module', name='structlog')\n")
    environ = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(REPOSITORY)])}
    found = subprocess.run(
        [sys.executable, "-m", "job", *arguments], env=environ, capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stdout) == (ExitCode.SETTINGS, "")
    assert "needs structlog; install" in found.stderr
    assert "'.[train]'" in found.stderr
    assert found.stderr.count("\n") == 1
