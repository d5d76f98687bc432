"""What a bundle says of the quality gate: nothing where it passed, and a file of its own where it did not.

The file is not in the manifest, since the verdict is not the model's alone: it hangs on the settings and on
the bundle that was in service then, and the same model keeps its bundle ID.
"""

from pathlib import Path

import msgspec

from serving.bundle import FILES
from serving.errors import ArtifactError


class FailedGate(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why a bundle did not pass the quality gate: what its file holds."""

    accuracy: float | None
    """On the test data; None where it is not a number."""
    rows: int
    """Of the test data."""
    min_accuracy: float | None
    """BOW_MIN_ACCURACY; None where it was not set."""
    max_drop: float | None
    """BOW_MAX_DROP; None where it was not set."""
    latest: str | None
    """The bundle in service that it was compared with; None where it was compared with none."""
    latest_accuracy: float | None
    """That one's accuracy on the same rows."""
    reasons: list[str]
    """In words, one for each limit that it is beyond."""

    def to_json(self) -> bytes:
        """The bytes of the file."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"


def read_failed_gate(bundle: Path) -> FailedGate | None:
    """Why the bundle did not pass; None where it passed, or was not judged.

    Raises ArtifactError where the file is not what a bundle holds there.
    """
    path = bundle / FILES.failed_gate
    try:
        return msgspec.json.decode(path.read_bytes(), type=FailedGate)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read ({error.strerror}); get the bundle again") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ArtifactError(
            f"{path}: is not what a bundle holds there ({error}); get the bundle again"
        ) from error
