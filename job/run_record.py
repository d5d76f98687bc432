"""`run.json`: what differs from run to run, from what the stages returned."""

import platform
import socket

import msgspec

from job.corpus.memory import peak_memory
from job.corpus.prepare import Prepared
from job.device import peak_device_memory
from job.identity import SettingValues
from job.stages import StageClock, StageRecord
from job.training.learn import Learned, Means


class EpochRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One epoch of training."""

    loss: float
    """Mean NLL over the training rows, each times its weight, in nats."""
    validation_accuracy: float | None


class RunRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What `run.json` holds."""

    started: str
    """ISO 8601, UTC."""
    seconds: float
    host: str
    machine: str
    python: str
    device: str
    """The device that training ran on."""
    device_name: str
    device_requested: str
    device_reason: str | None
    """Why the requested device was not used; None when it was."""
    num_threads: int
    settings: dict[str, str | int | float | bool | None]
    """Those that do not shape the model: paths, names, limits."""
    num_rows: int
    """Rows trained on."""
    num_tokens: int
    """Known words trained on, in one epoch."""
    tokens_per_second: float
    """Of the training loop."""
    epochs: list[EpochRecord]
    """Those that ran: with BOW_PATIENCE perhaps not all that were planned."""
    best_epoch: int | None
    """The one whose weights the model has, from 1; None without BOW_PATIENCE: the last."""
    stages: dict[str, StageRecord]
    """In the order in which they ran."""
    peak_memory: int
    """Bytes."""
    peak_device_memory: int | None
    """Bytes of tensors on the GPU; None without one."""

    def to_json(self) -> bytes:
        """The bytes of `run.json`."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"


def run_record(
    asked: SettingValues, clock: StageClock, means: Means, prepared: Prepared, learned: Learned
) -> RunRecord:
    """What `run.json` says; `asked` are the settings that do not shape the model, as they were given."""
    device, tokens = means.device, learned.share * learned.num_tokens * len(learned.epochs)
    return RunRecord(
        started=clock.started,
        seconds=clock.seconds,
        **host_facts(),
        device=str(device.torch_device),
        device_name=device.description,
        device_requested=device.requested,
        device_reason=device.reason,
        num_threads=means.num_threads,
        settings=dict(asked),
        num_rows=prepared.corpora["train"].num_rows,
        num_tokens=learned.num_tokens,
        tokens_per_second=tokens / clock.stages["train"].seconds,
        epochs=[
            EpochRecord(loss=epoch.loss, validation_accuracy=epoch.validation_accuracy)
            for epoch in learned.epochs
        ],
        best_epoch=learned.best_epoch,
        stages=clock.stages,
        peak_memory=peak_memory(),
        peak_device_memory=peak_device_memory(device),
    )


def host_facts() -> dict[str, str]:
    """The host's name, its architecture and system, and the Python version."""
    return {
        "host": socket.gethostname(),
        "machine": f"{platform.machine()} {platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }
