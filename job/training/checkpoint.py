"""A checkpoint: what training has come to, in one file, from which the next run of the same name goes on.

The file is in safetensors' format, so that nothing in it is code. On the CPU a run that went on from one ends
with the same bytes as one that was never interrupted.
"""

import contextlib
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from job.identity import SettingValues, differences
from job.training.patience import Best
from job.training.train_state import EpochResult, TrainState
from serving.bundle import DataRecord
from serving.errors import PlatformError, SettingsError
from serving.storage.store import Store

FORMAT = 1
"""Goes up whenever older checkpoints cannot be read any more; they are refused then."""
_FACTS = "bowsprit"
"""The one key of the file's metadata: several are written in random order."""
_UNUSABLE = "check the path and the permissions, or name another folder in BOW_CHECKPOINT_DIR"
_UNREAD = "check the disk and the permissions, and run again; to begin anew, remove it"
_UNWRITTEN = (
    "free some space, or name another folder in BOW_CHECKPOINT_DIR. The last checkpoint, where there is one, "
    "is whole"
)


class _Best(msgspec.Struct, frozen=True, kw_only=True):
    """The best epoch so far, but for its weights."""

    patience: int
    epoch: int
    accuracy: float


class _Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What a checkpoint says beside its tensors."""

    format: int
    settings: dict[str, str | int | float | bool | None]
    """Those that shape the model."""
    data: dict[str, DataRecord]
    step: int
    epochs: list[EpochResult]
    num_batches: int
    num_rows: int
    loss_sum: float
    best: _Best | None
    crc32: int
    """Of all tensors, in the order of their names."""


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Which run a checkpoint is of."""

    settings: SettingValues
    data: Mapping[str, DataRecord]


def prepare(place: Path | str) -> None:
    """Tries whether checkpoints can be written to a folder, which is made, or to a URL, and removed again.

    A signal, or the end of the run, would be too late to find out. Raises PlatformError where they cannot.
    """
    if isinstance(place, Path):
        with _storage_errors(f"{place}: no checkpoint can be written there", _UNUSABLE):
            place.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=place):
                pass
        return
    store = Store(place)
    try:
        store.check_writable()
    except PlatformError as error:
        error.add_note(f"{place}: no checkpoint can be kept there; {_UNUSABLE}")
        raise


def save(path: Path, state: TrainState, identity: Identity) -> None:
    """Writes a checkpoint in place of the last one, in one step. Raises PlatformError."""
    tensors = {name: tensor.detach().cpu().numpy() for name, tensor in _tensors(state).items()}
    best = state.best
    facts = _Facts(
        format=FORMAT,
        settings=dict(identity.settings),
        data=dict(identity.data),
        step=state.step,
        epochs=state.epochs,
        num_batches=state.num_batches,
        num_rows=state.num_rows,
        loss_sum=state.loss_sum,
        best=None
        if best is None
        else _Best(patience=best.patience, epoch=best.epoch, accuracy=best.accuracy),
        crc32=_crc32(tensors),
    )
    with unfinished(path) as file:
        save_file(tensors, file, {_FACTS: msgspec.json.encode(facts).decode()})
        with file.open("rb") as written:
            os.fsync(written.fileno())
        file.replace(path)


@contextlib.contextmanager
def unfinished(path: Path) -> Iterator[Path]:
    """Where to write what is then to get the name `path`: in a folder of its own beside it, gone at the end.

    safetensors writes to a name of its own choice there first. Raises PlatformError.
    """
    with _storage_errors(f"{path}: the checkpoint cannot be written", _UNWRITTEN):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=_unfinished(path), dir=path.parent) as folder:
            yield Path(folder) / path.name


def remove_unfinished(path: Path) -> None:
    """Removes what killed jobs left; call it where no other job writes `path`."""
    for each in path.parent.glob(f"{_unfinished(path)}*"):
        with contextlib.suppress(OSError):  # another user's
            shutil.rmtree(each) if each.is_dir() else each.unlink()


def _unfinished(path: Path) -> str:
    return f".{path.name}-"


def load(path: Path, state: TrainState, identity: Identity) -> bool:
    """Puts what a checkpoint holds into a state that was just begun; returns whether there is one.

    Raises SettingsError where it is of another run, with what differs, or is not whole; PlatformError where
    it cannot be read, which says nothing of what is in it.
    """
    advice = f"remove it to begin anew ({path}), set another BOW_RUN_NAME, or BOW_OVERWRITE=true"
    with _storage_errors(f"{path}: the checkpoint cannot be read", _UNREAD):
        try:
            path.open("rb").close()  # safetensors says of all that it cannot open that it is not there
        except FileNotFoundError:
            return False
        try:
            with safe_open(str(path), "numpy") as file:
                facts = msgspec.json.decode((file.metadata() or {}).get(_FACTS, ""), type=_Facts)
                tensors = {name: file.get_tensor(name) for name in sorted(file.keys())}
        except (SafetensorError, msgspec.DecodeError) as error:
            raise SettingsError(f"{path}: is not a whole checkpoint ({error}); {advice}") from error
    changed = differences(identity.settings, identity.data, facts.settings, facts.data)
    if changed:
        raise SettingsError(
            f"{path}: the checkpoint there is of another run, with other {', '.join(changed)}; {advice}"
        )
    if facts.format != FORMAT:
        raise SettingsError(f"{path}: is of format {facts.format}, and this release reads {FORMAT}; {advice}")
    if facts.best is not None:
        best = facts.best
        weights = (torch.empty_like(state.table), torch.empty_like(state.bias)) if best.epoch else ()
        state.best = Best(patience=best.patience, epoch=best.epoch, accuracy=best.accuracy, weights=weights)
    into = _tensors(state)
    shapes = {name: tuple(tensor.shape) for name, tensor in into.items()}
    if facts.crc32 != _crc32(tensors) or shapes != {name: each.shape for name, each in tensors.items()}:
        state.best = None
        raise SettingsError(f"{path}: is not what was written there; {advice}")
    for name, tensor in into.items():
        tensor.copy_(torch.from_numpy(tensors[name]))
    state.step, state.epochs = facts.step, facts.epochs
    state.num_batches, state.num_rows, state.loss_sum = facts.num_batches, facts.num_rows, facts.loss_sum
    return True


def num_bytes(state: TrainState) -> int:
    """What a checkpoint takes, but for a few hundred bytes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in _tensors(state).values())


def _tensors(state: TrainState) -> dict[str, torch.Tensor]:
    """The tensors of a state, by name."""
    tensors = {"table": state.table, "bias": state.bias}
    for name, slots in (("table_slot", state.table_slots), ("bias_slot", state.bias_slots)):
        tensors |= {f"{name}_{place}": slot for place, slot in enumerate(slots)}
    if state.best is not None:
        tensors |= dict(zip(("best_table", "best_bias"), state.best.weights, strict=False))
    return tensors


def _crc32(tensors: Mapping[str, npt.NDArray[np.float32]]) -> int:
    found = 0
    for name in sorted(tensors):
        found = zlib.crc32(np.ascontiguousarray(tensors[name]).data.cast("B"), found)
    return found


@contextlib.contextmanager
def _storage_errors(what: str, advice: str) -> Iterator[None]:
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise PlatformError(f"{what} ({getattr(error, 'strerror', None) or error}); {advice}") from error
