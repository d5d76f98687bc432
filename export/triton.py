"""A model repository for Triton's onnxruntime backend, made from a bundle.

    REPOSITORY/NAME/config.pbtxt
    REPOSITORY/NAME/labels.txt             the labels, for Triton's classification extension
    REPOSITORY/NAME/1/model.onnx           the bundle's file, byte for byte
    REPOSITORY/NAME/2/model.onnx           of the next bundle; Triton serves the highest number

A version is never changed. The configuration is that of the newest one: of what it says, only what follows
from the bundle (the number of labels, the bundle's ID) changes from version to version. Where anything else
would, it is somebody's decision, and an error here.
"""

import contextlib
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from export.publish import alone, storage_errors, sync
from serving.bundle import FILES, Bundle, FileRecord, check_files
from serving.endpoint.client import CONFIGURED_ID
from serving.errors import ArtifactError, SettingsError

CONFIG, LABELS = "config.pbtxt", "labels.txt"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_VERSION = re.compile(r"[1-9][0-9]*")
"""Triton ignores folders with other names, so what is staged in one of them is seen by nobody."""
_STAGING = ".staging-"
_FROM_BUNDLE = re.compile(r"(?<=dims: \[ )[0-9]+|[0-9a-f]{64}| *label_filename: .*\n")


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the user decides."""

    name: str = "bowsprit"
    """The model's, and its folder's."""
    max_batch_size: int = 1024
    """Texts that Triton runs at once, and takes in one request; `python -m serving serve` takes as many."""
    instances: int = 1
    """Copies of the model that run side by side, each with a thread and a lookup of its own."""


@dataclass(frozen=True, kw_only=True)
class Written:
    """What `write` did."""

    version: int
    paths: Sequence[Path]
    """The files that are new or were replaced; none where all of it was there already."""


def write(bundle: Bundle, repository: Path, options: Options) -> Written:
    """Adds a bundle's model to a repository, as the next version of the model with that name.

    Where the newest version is this very model, there is no new one: a command that was ended between its
    steps can be run again. Each file appears whole or not at all, the version first and the configuration
    last.

    Raises ArtifactError where the bundle is damaged, SettingsError where the repository holds something else
    under the name or a configuration with other decisions, PlatformError where it cannot be written.
    """
    if not _NAME.fullmatch(options.name):
        raise SettingsError(
            f"expected a model's name of letters, digits, '.', '_' and '-', found {options.name!r}"
        )
    check_files(bundle, [FILES.labels, FILES.text_model])
    labels = bundle.labels()
    folder = repository / options.name
    for path in (repository, folder):
        if path.exists() and not path.is_dir():
            raise SettingsError(
                f"{path}: expected a folder, or nothing, found a file; name another REPOSITORY"
            )
    files = {CONFIG: config(labels, bundle.bundle_id, options)}
    if _in_lines(labels):
        files = {LABELS: "".join(f"{label}\n" for label in labels), **files}
    advice = "name another REPOSITORY"
    with storage_errors(folder, advice):
        folder.mkdir(parents=True, exist_ok=True)
        with alone(folder, advice), _staging(folder) as staging:
            _check_config(folder / CONFIG, files[CONFIG])
            version, paths = _add_version(bundle, folder, staging)
            paths += [folder / name for name, text in files.items() if _replace(folder / name, text, staging)]
            sync(folder)
    return Written(version=version, paths=paths)


def config(labels: Sequence[str], bundle_id: str, options: Options) -> str:
    """The content of `config.pbtxt`.

    The model takes [N] texts. Triton counts the N of its batches apart and wants a dimension beside it, so
    clients send [N, 1], and `reshape` takes the 1 away.
    """
    label_filename = f'    label_filename: "{LABELS}"\n' if _in_lines(labels) else ""
    return f"""\
# Written by python -m export triton. Clients send texts as [N, 1] and get labels as [N, 1].
backend: "onnxruntime"
max_batch_size: {options.max_batch_size}
input [
  {{
    name: "text"
    data_type: TYPE_STRING
    dims: [ 1 ]
    reshape: {{ shape: [ ] }}
  }}
]
output [
  {{
    name: "log_probs"
    data_type: TYPE_FP32
    dims: [ {len(labels)} ]
{label_filename}  }},
  {{
    name: "label"
    data_type: TYPE_STRING
    dims: [ 1 ]
    reshape: {{ shape: [ ] }}
  }}
]
version_policy: {{ latest: {{ num_versions: 1 }} }}
instance_group [ {{ kind: KIND_CPU count: {options.instances} }} ]
dynamic_batching {{ }}
# A short text has no work for two threads: more texts a second come from more instances.
parameters {{ key: "intra_op_thread_count" value: {{ string_value: "1" }} }}
parameters {{ key: "inter_op_thread_count" value: {{ string_value: "1" }} }}
parameters {{ key: "{CONFIGURED_ID}" value: {{ string_value: "{bundle_id}" }} }}
model_warmup [
  {{
    name: "one empty text"
    batch_size: 1
    inputs {{ key: "text" value: {{ data_type: TYPE_STRING dims: [ 1 ] zero_data: true }} }}
  }}
]
"""


def _in_lines(labels: Sequence[str]) -> bool:
    """Whether a file with a label a line can hold them; Triton knows no other."""
    return not any("\n" in label for label in labels)


def _check_config(path: Path, new: str) -> None:
    try:
        old = path.read_bytes().decode(errors="replace")
    except FileNotFoundError:
        return
    if _FROM_BUNDLE.sub("", old) == _FROM_BUNDLE.sub("", new):
        return
    theirs, ours = (set(_FROM_BUNDLE.sub("", text).splitlines()) for text in (old, new))
    found = next((line.strip() for line in old.splitlines() if line in theirs - ours), "nothing")
    expected = next((line.strip() for line in new.splitlines() if line in ours - theirs), "nothing")
    raise SettingsError(
        f"{path}: expected {expected!r}, found {found!r}: the model that is there is configured otherwise. "
        "Give the options that it was written with, choose another --name, or move the file away to have it "
        "written anew"
    )


def _add_version(bundle: Bundle, folder: Path, staging: Path) -> tuple[int, list[Path]]:
    versions = [int(path.name) for path in folder.iterdir() if _VERSION.fullmatch(path.name)]
    newest = max(versions, default=0)
    expected = bundle.manifest.files[FILES.text_model]
    model = folder / str(newest) / FILES.text_model
    if model.is_file() and FileRecord.of(model) == expected:
        return newest, []
    made = staging / "version"
    made.mkdir()
    shutil.copyfile(bundle.path / FILES.text_model, made / FILES.text_model)
    if FileRecord.of(made / FILES.text_model) != expected:
        raise ArtifactError(f"{bundle.path / FILES.text_model}: changed while it was copied; try again")
    for path in (made / FILES.text_model, made):
        sync(path)
    target = folder / str(newest + 1)
    made.rename(target)
    return newest + 1, [target / FILES.text_model]


def _replace(path: Path, text: str, staging: Path) -> bool:
    """Gives a file its content in one step; False where it has it already."""
    content = text.encode()
    if path.is_file() and path.read_bytes() == content:
        return False
    made = staging / path.name
    made.write_bytes(content)
    sync(made)
    made.replace(path)
    return True


@contextlib.contextmanager
def _staging(folder: Path) -> Iterator[Path]:
    """A folder for what is not whole yet; what a killed command left behind is removed first.

    Nobody else has one in the same folder: see `alone`. It is beneath the model's folder since Triton takes
    each folder of the repository for a model, hidden or not.
    """
    for leftover in folder.glob(f"{_STAGING}*"):
        shutil.rmtree(leftover)
    with tempfile.TemporaryDirectory(prefix=_STAGING, dir=folder) as temporary:
        yield Path(temporary)
