"""Which run this is: the settings that shape the model and the data it reads; equal runs share a name."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from serving.bundle import DataRecord, open_bundle
from serving.errors import ArtifactError, SettingsError

SettingValues = Mapping[str, str | int | float | bool | None]
"""Values of settings by their names."""


def default_name(shaping: SettingValues, data: Mapping[str, DataRecord]) -> str:
    """The name of a run that was not given one: `run-` and twelve hexadecimal digits."""
    identity = msgspec.json.encode([shaping, data], order="deterministic")
    return f"run-{hashlib.sha256(identity).hexdigest()[:12]}"


def is_published(path: Path, shaping: SettingValues, data: Mapping[str, DataRecord]) -> bool:
    """Whether the bundle of this very run is at `path` already.

    Raises SettingsError where something else is there.
    """
    if not path.exists() and not path.is_symlink():
        return False
    try:
        manifest = open_bundle(path).manifest
    except ArtifactError as error:
        raise SettingsError(
            f"{path}: the run would publish here, and what is there is not a whole bundle ({error}); "
            "set another BOW_RUN_NAME, or BOW_OVERWRITE=true to replace it"
        ) from error
    if manifest.settings == shaping and manifest.data == data:
        return True
    changed = differences(shaping, data, manifest.settings, manifest.data)
    raise SettingsError(
        f"{path}: the bundle there is of another run, with other {', '.join(changed)}; "
        "set another BOW_RUN_NAME, or BOW_OVERWRITE=true to replace it"
    )


def differences(
    settings: SettingValues,
    data: Mapping[str, DataRecord],
    other_settings: SettingValues,
    other_data: Mapping[str, DataRecord],
) -> list[str]:
    """The names of what differs between two runs: settings that shape the model, and data sets."""
    names = {
        name for name in settings.keys() | other_settings if settings.get(name) != other_settings.get(name)
    }
    uses = {use for use in data.keys() | other_data if data.get(use) != other_data.get(use)}
    return sorted(names | {f"{use} data" for use in uses})
