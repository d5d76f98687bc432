"""What a run says of itself in `run.json`, from what its stages returned."""

from job.corpus.memory import peak_memory
from job.corpus.prepare import Prepared
from job.device import peak_device_memory
from job.identity import Shaping
from job.telling.run_record import EpochRecord, RunRecord, StageClock, host_facts
from job.training.learn import Learned, Means


def run_record(
    asked: Shaping, clock: StageClock, means: Means, prepared: Prepared, learned: Learned
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
