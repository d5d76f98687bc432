"""The server's settings: read from `BOW_SERVE_*` alone, and refused in words."""

from pathlib import Path

import pytest

from serving.errors import SettingsError
from serving.server.run import serve
from serving.server.settings import ServerSettings, server_settings
from serving.server.variables import NAMES
from serving.settings.kinds import env_name


def test_the_jobs_variables_are_left_alone() -> None:
    """If it failed, one ConfigMap could not hold the variables of both."""
    found = server_settings({"BOW_EPOCHS": "many", "BOW_SERVE_PORT": "9000", "BOW_SERVE_HOST": " "})
    assert found == ServerSettings(port=9000)


def test_every_problem_is_named_at_once_with_what_to_do() -> None:
    """If it failed, a user would find mistakes one run at a time."""
    wrong = {
        name.upper(): "\N{SNOWMAN}"
        for name in ServerSettings.model_fields
        if name not in ("host", "providers")
    }
    with pytest.raises(SettingsError) as caught:
        server_settings({f"BOW_SERVE_{name}": value for name, value in {**wrong, "PROT": "1"}.items()})
    lines = str(caught.value).splitlines()
    assert sorted(line.partition(":")[0].removeprefix("BOW_SERVE_") for line in lines) == sorted(
        [*wrong, "PROT"]
    )
    assert any("did you mean BOW_SERVE_PORT?" in line for line in lines)
    for line in lines:
        assert "expected" in line or "did you mean" in line


def test_the_names_for_those_without_pydantic_are_the_settings() -> None:
    """If it failed, `health` would refuse a variable that the server takes, or take one that it refuses."""
    assert list(NAMES) == [env_name(ServerSettings, name) for name in ServerSettings.model_fields]


@pytest.mark.parametrize(
    ("providers", "names"),
    [
        ("CPUExecutionProvider", ["CPUExecutionProvider"]),
        ("CUDAExecutionProvider, CPUExecutionProvider,", ["CUDAExecutionProvider", "CPUExecutionProvider"]),
    ],
)
def test_providers_are_named_in_order(providers: str, names: list[str]) -> None:
    """If it failed, a GPU would not be preferred where it was asked for."""
    assert server_settings({"BOW_SERVE_PROVIDERS": providers}).provider_names() == names


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("PORT", value) for value in ("-1", "65536", "http")),
        *(("WORKERS", value) for value in ("0", "1.5")),
        *(("MODEL_NAME", value) for value in ("a/b", "a b", "é")),
        ("MAX_TEXTS", "0"),
        ("REQUEST_SECONDS", "0"),
        ("RELOAD_SECONDS", "-1"),
        *(("GRACE_SECONDS", value) for value in ("inf", "nan", "soon")),
        ("ACCESS_LOG", "maybe"),
        ("LOG_FORMAT", "xml"),
    ],
)
def test_a_value_out_of_range_is_refused(name: str, value: str) -> None:
    """If it failed, the server would start and fail later, or do what nobody meant."""
    with pytest.raises(
        SettingsError, match=f"^BOW_SERVE_{name}: expected .*; found '{value}'; set for example"
    ):
        server_settings({f"BOW_SERVE_{name}": value})


@pytest.mark.parametrize("host", ["a..b", "a" * 70, "\udcff"])
def test_a_host_that_no_machine_can_have_is_refused(host: str) -> None:
    """If it failed, a slip in the name would end in a traceback, and count as a bug of ours."""
    with pytest.raises(SettingsError, match=r"^BOW_SERVE_HOST: expected an address of this machine, found"):
        serve(Path("bundle"), {"BOW_SERVE_HOST": host})
