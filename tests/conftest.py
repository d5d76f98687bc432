"""What every test relies on."""

import os

import hypothesis
import pytest

# The same examples in every run: a test that fails must fail again, and on every machine.
hypothesis.settings.register_profile("same", derandomize=True, deadline=None)
hypothesis.settings.load_profile("same")


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it a `BOW_*` variable of the developer's shell would change what the tests do."""
    for name in [name for name in os.environ if name.upper().startswith("BOW_")]:
        monkeypatch.delenv(name)
