"""The kinds of setting that the job has, and the names of their environment variables."""

from enum import Enum, auto
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BeforeValidator, Field

from serving.settings.kinds import Form
from serving.storage.store import is_url

PREFIX = "BOW_"
TUTORIAL = "tutorial"
"""What BOW_TRAIN_DATA says for the sentences that are built in."""


def is_local(value: object) -> bool:
    """Whether a value is a path in UTF-8, and not a URL, which would be taken for a folder named `s3:`."""
    return _is_utf8(value) and not is_url(value)


def _is_utf8(value: object) -> bool:
    """Not all paths are: Python keeps their other bytes as lone surrogates."""
    try:
        str(value).encode()
    except UnicodeEncodeError:
        return False
    return True


def _local(value: object) -> object:
    if not is_local(value):
        raise ValueError("not a path in UTF-8")
    return value


def _folder_or_url(value: object) -> object:
    if not _is_utf8(value):
        raise ValueError("not UTF-8")
    return value if is_url(value) else Path(str(value))


class Mark(Enum):
    """What else is known of a setting, beside its type."""

    SHAPES_MODEL = auto()
    """Another value gives another model: it names the run and stands in the manifest."""


T = TypeVar("T")
Shaping = Annotated[T, Mark.SHAPES_MODEL]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Tolerance = Annotated[float, Field(gt=0, le=1e-4)]
DataPath = Annotated[str, Form("a file, a folder or a glob, or a URL of one")]
OnlyLocal = BeforeValidator(_local)
LocalPath = Annotated[Path, OnlyLocal, Form("a path in UTF-8, not a URL")]
FolderOrUrl = Annotated[
    Path | str,
    BeforeValidator(_folder_or_url),
    Form("a folder or a URL, in UTF-8"),
]


def env_name(name: str) -> str:
    """The environment variable of the field `name`."""
    return PREFIX + name.upper()
