"""When a run keeps a checkpoint, and where; how a signal ends training."""

import time
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from job.stopping import Stop
from job.training import checkpoint
from job.training.checkpoint import Identity
from job.training.train_state import TrainState
from serving.errors import PlatformError, SettingsError
from serving.storage.store import Store

BYTES_PER_SECOND = 100_000_000
"""What a slow disk or a network takes, by which the time for a checkpoint is estimated."""
WORTH_SECONDS = 10.0
WORTH_RATIO = 10.0
"""What training must have taken since the last checkpoint for one at its end: so many seconds, and so many
times what writing one may take. So a short run writes none, and another loses a tenth of its time at most."""

log = structlog.get_logger()


@dataclass(frozen=True, kw_only=True)
class Copy:
    """An object that holds the checkpoint for a next machine."""

    store: Store
    key: str

    @property
    def url(self) -> str:
        """Where it is."""
        return self.store.url_of(self.key)


@dataclass(kw_only=True)
class Checkpoints:
    """The checkpoints of one run: one file, which is removed once the run has its bundle."""

    path: Path
    copy: Copy | None
    """Where the file is copied to and, where it is missing here, from; None for nowhere."""
    stays: bool
    """Whether the file outlives the job; else what is not copied is lost."""
    identity: Identity
    every: float
    """Seconds between two; 0 for none but those that a signal asks for."""
    grace: float
    """Seconds between a signal and the end, as the scheduler has it."""
    replaces: bool
    """Whether a checkpoint of another run is removed, rather than refused."""
    stop: Stop
    last: float = field(default_factory=time.monotonic)

    def resume(self, state: TrainState) -> None:
        """Goes on from the checkpoint, if there is one; says how long keeping one will take.

        Raises SettingsError where it is of another run, or not whole; PlatformError where it cannot be read.
        """
        self._fetch()
        try:
            is_resumed = checkpoint.load(self.path, state, self.identity)
        except SettingsError as error:
            if not self.replaces:
                raise
            reason, _, _advice = str(error).rpartition("; ")  # which is what is being done
            log.warning("checkpoint_removed", reason=reason)
            self.discard()
            is_resumed = False
        if is_resumed:
            log.info("resumed", checkpoint=self._shown, step=state.step, epochs_done=len(state.epochs))
            self.stop.saved = _saved(state, self._shown)
        self.last = time.monotonic()
        size = checkpoint.num_bytes(state)
        seconds = size / BYTES_PER_SECOND
        log.info(
            "checkpoints",
            path=self._shown,
            bytes=size,
            every_seconds=self.every,
            seconds_needed=round(seconds, 1),
            grace_seconds=self.grace,
        )
        if seconds > self.grace:
            log.warning(
                "grace_too_short",
                advice=f"a checkpoint may take {seconds:.0f} s, and after a signal the job has "
                f"{self.grace:g} s (BOW_GRACE_SECONDS): give it more, there and with the scheduler; or else "
                f"the work of {self.every:g} s (BOW_CHECKPOINT_EVERY) may be lost",
            )

    def is_due(self) -> bool:
        """Whether a signal came, or the last one was kept long enough ago."""
        is_time = self.every > 0 and time.monotonic() - self.last >= self.every
        return is_time or self.stop.signal_name is not None

    def save(self, state: TrainState) -> None:
        """Keeps one. Raises Interrupted where a signal came, and PlatformError where it cannot be kept."""
        checkpoint.save(self.path, state, self.identity)
        is_copied = self._upload()
        self.last = time.monotonic()
        log.info("checkpoint", step=state.step)
        if is_copied or self.stays:
            self.stop.saved = _saved(state, self._shown if is_copied else str(self.path))
            self.stop.check()
        self.stop.check(f"the last steps could not be copied to {self._shown}")

    def end(self, state: TrainState) -> None:
        """Keeps one after the last step where it is due, or where it costs little beside what it saves.

        What comes after training is then all that a signal, a crash or a lost machine costs. Raises as `save`
        does where it is due; where it is not, that it cannot be kept is no reason not to publish.
        """
        if self.is_due():
            self.save(state)
        elif self._is_worth_it(state):
            try:
                self.save(state)
            except PlatformError as error:
                log.warning("checkpoint_not_kept", reason=str(error))

    def _is_worth_it(self, state: TrainState) -> bool:
        num_copies = 1 if self.copy is None else 2
        cost = num_copies * checkpoint.num_bytes(state) / BYTES_PER_SECOND
        return self.every > 0 and time.monotonic() - self.last >= max(WORTH_SECONDS, WORTH_RATIO * cost)

    def discard(self) -> None:
        """Removes the checkpoint, once nobody needs it any more; where that fails, says so."""
        try:
            self.path.unlink(missing_ok=True)
            if self.copy is not None:
                self.copy.store.delete([self.copy.key])
        except (OSError, PlatformError) as error:
            advice = "remove it: the next run of this name would go on from it, or be refused"
            log.warning("checkpoint_not_removed", path=self._shown, reason=str(error), advice=advice)

    @property
    def _shown(self) -> str:
        return str(self.path) if self.copy is None else self.copy.url

    def _fetch(self) -> None:
        """Brings the copy here; what is here already was kept later, and not copied for want of time."""
        checkpoint.remove_unfinished(self.path)  # this job holds the name
        if self.copy is not None and not self.path.exists():
            found = self.copy.store.find(self.copy.key)
            if found is not None:
                with checkpoint.unfinished(self.path) as file:
                    self.copy.store.get(self.copy.key, file, size=found.size)
                    file.replace(self.path)

    def _upload(self) -> bool:
        """Copies the file; returns whether it did: not where a signal came and the time left is too short."""
        if self.copy is None:
            return False
        seconds = self.path.stat().st_size / BYTES_PER_SECOND
        if self.stop.signal_name is not None and self.stays and seconds > self.grace:
            log.warning("checkpoint_not_copied", seconds_needed=round(seconds, 1), kept_in=str(self.path))
            return False
        try:
            self.copy.store.put(self.path, self.copy.key)
        except PlatformError as error:
            if self.stop.signal_name is None:
                raise
            log.warning("checkpoint_not_copied", reason=str(error))  # the job ends for the signal
            return False
        return True


def _saved(state: TrainState, where: str) -> str:
    """What the message of a run that is ended says of its checkpoint."""
    return f"what was learned in {state.step:,} steps is in {where}"
