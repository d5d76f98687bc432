"""Which bundle is served: the first one, and those that take its place while the server runs."""

import asyncio
import gc
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import NamedTuple, TypeVar

from serving.bundle import open_bundle
from serving.errors import ArtifactError, BowspritError, ParityError
from serving.predictor import Predictor
from serving.server.log import Log
from serving.server.metrics import Metrics
from serving.session import usable
from serving.storage.published import fetched
from serving.storage.store import is_url

T = TypeVar("T")
PAUSE_SECONDS = 1.0
"""For which a moment without requests is waited for, once another bundle is served."""
MAX_WAIT_SECONDS = 600.0
"""Before a bundle that was refused is loaded again."""


class _Refused(NamedTuple):
    """A bundle that did not hold, and when that was found, first and last.

    Its folder may be mended in place, but each load takes a processor, and by a URL the whole bundle's bytes:
    the next one waits for as long as it has been refused already.
    """

    bundle_id: str
    first: float
    last: float

    def is_to_wait(self) -> bool:
        """Whether it is too soon to load it again."""
        return time.monotonic() < self.last + min(self.last - self.first, MAX_WAIT_SECONDS)


_NONE_REFUSED = _Refused("", 0.0, 0.0)


class Service:
    """The predictor that answers, and where it came from."""

    def __init__(
        self, source: Path | str, providers: Sequence[str], log: Log, metrics: Metrics, *, threads: int = 1
    ) -> None:
        """threads: that share what is classified at a time, where it is much."""
        self._source = source
        self._providers = providers
        self._threads = threads
        self._log = log
        self._metrics = metrics
        self._refused = _NONE_REFUSED
        self.predictor: Predictor | None = None
        """None until the first bundle was proven."""
        self.draining = False
        """Whether the server has been told to end."""

    @property
    def ready(self) -> bool:
        """Whether requests should be sent here."""
        return self.predictor is not None and not self.draining

    async def run(self, reload_seconds: float, is_idle: Callable[[], bool]) -> None:
        """Loads the bundle, then looks for another every so many seconds; 0 for never.

        is_idle: whether no request is being answered.

        Raises BowspritError where the first one cannot be served.
        """
        self._serve(await _aside(self._load))
        _freeze()
        refused: str | None = None
        while reload_seconds:
            await asyncio.sleep(reload_seconds)
            refused = await self._look(refused, is_idle)

    async def _look(self, refused: str | None, is_idle: Callable[[], bool]) -> str | None:
        """Takes up another bundle, where there is one; returns why it was refused, and says so once."""
        assert self.predictor is not None
        found = ""
        try:
            found = await _aside(self._current_id)
            if found == self.predictor.bundle_id:
                self._refused = _NONE_REFUSED
                return None
            if found == self._refused.bundle_id and self._refused.is_to_wait():
                return refused
            self._serve(await _aside(self._load))
        # Whatever is wrong with what lies there, the bundle in memory can be served.
        except Exception as error:  # noqa: BLE001
            # In whose frames is the bundle: it would stay until the next search for garbage.
            traceback.clear_frames(error.__traceback__)
            if isinstance(error, ArtifactError | ParityError):
                now, before = time.monotonic(), self._refused
                self._refused = _Refused(found, before.first if found == before.bundle_id else now, now)
            reason = str(error) if isinstance(error, BowspritError) else f"{type(error).__name__}: {error}"
            if reason != refused:
                self._metrics.reloads.labels("refused").inc()
                serving = self.predictor.bundle_id
                self._log.event("bundle_refused", "error", reason=reason, still_serving=serving)
            return reason
        self._metrics.reloads.labels("served").inc()
        await _pause(is_idle)
        _freeze()
        return None

    def _serve(self, predictor: Predictor) -> None:
        self._metrics.serves(predictor, self.predictor)
        self.predictor = predictor
        self._refused = _NONE_REFUSED
        failed = predictor.failed_gate
        self._log.event(
            "bundle_served",
            "info" if failed is None else "warning",
            bundle_id=predictor.bundle_id,
            source=str(self._source),
            labels=len(predictor.labels),
            provider=predictor.provider,
            **({} if failed is None else {"failed_gate": "; ".join(failed.reasons)}),
        )

    def _load(self) -> Predictor:
        usable(self._providers, setting="BOW_SERVE_PROVIDERS")
        source = _resolved(self._source)
        return Predictor.load(source, providers=self._providers, threads=self._threads)

    def _current_id(self) -> str:
        """The ID of the bundle that lies there now, of which only the manifest is read."""
        if not is_url(self._source):
            return open_bundle(Path(_resolved(self._source))).bundle_id
        with fetched(str(self._source), ()) as folder:
            return open_bundle(folder).bundle_id


async def _pause(is_idle: Callable[[], bool]) -> None:
    """Waits for a moment without requests, where one comes soon."""
    until = time.monotonic() + PAUSE_SECONDS
    while not is_idle() and time.monotonic() < until:
        await asyncio.sleep(0.01)


def _freeze() -> None:
    """Spares what is in memory now, and stays, from being looked through for garbage again and again.

    That takes longer than many requests, once for all too, and no thread answers meanwhile.
    """
    gc.unfreeze()  # a bundle that was served before may be garbage now
    gc.collect()
    gc.freeze()


async def _aside(work: Callable[[], T]) -> T:
    """Works in a thread that does not keep the process from ending, as asyncio's own do: storage may hang."""
    done: Future[T] = Future()
    done.set_running_or_notify_cancel()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001 - whoever waits gets it
            done.set_exception(error)

    threading.Thread(target=run, name="load", daemon=True).start()
    return await asyncio.wrap_future(done)


def _resolved(source: Path | str) -> Path | str:
    """Where a link such as `latest` leads to now: it may lead elsewhere while files are read one by one."""
    return source if is_url(source) else Path(source).resolve()
