"""Which run this is: the settings that shape the model and the data it reads; equal runs share a name."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from serving.bundle import DataRecord, open_bundle
from serving.errors import ArtifactError, SettingsError

Shaping = Mapping[str, str | int | float | bool | None]


def default_name(shaping: Shaping, data: Mapping[str, DataRecord]) -> str:
    """The name of a run that was not given one: `run-` and twelve hexadecimal digits."""
    identity = msgspec.json.encode([shaping, data], order="deterministic")
    return f"run-{hashlib.sha256(identity).hexdigest()[:12]}"


def is_published(path: Path, shaping: Shaping, data: Mapping[str, DataRecord]) -> bool:
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
    changed = sorted(
        {
            name
            for name in shaping.keys() | manifest.settings
            if shaping.get(name) != manifest.settings.get(name)
        }
        | {f"{use} data" for use in data.keys() | manifest.data if data.get(use) != manifest.data.get(use)}
    )
    raise SettingsError(
        f"{path}: the bundle there is of another run, with other {', '.join(changed)}; "
        "set another BOW_RUN_NAME, or BOW_OVERWRITE=true to replace it"
    )
