"""What is served, without a network: what becomes of a bundle when another one takes its place."""

import asyncio
import gc
import io
import json
import time
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from serving.bundle import open_bundle
from serving.errors import ArtifactError, ParityError, PlatformError, SettingsError
from serving.predictor import Predictor
from serving.server import service
from serving.server.log import Log
from serving.server.metrics import Metrics
from serving.server.service import Service


@pytest.fixture(autouse=True)
def nothing_stays_frozen() -> Iterator[None]:
    yield
    gc.unfreeze()


def is_frozen(thing: object) -> bool:
    """Whether the garbage collector passes an object over."""
    return gc.is_tracked(thing) and not any(each is thing for each in gc.get_objects())


async def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("has_pauses", [True, False])
def test_a_new_bundle_is_spared_by_the_garbage_collector_and_the_old_one_is_not(
    trained: Path, tutorial: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_pauses: bool
) -> None:
    """If it failed, requests would be held up again and again after a reload, and memory grow with each."""
    monkeypatch.setattr(service, "PAUSE_SECONDS", 60.0 if has_pauses else 0.2)
    latest, fresh = tmp_path / "latest", tmp_path / "fresh"
    latest.symlink_to(trained)
    served = Service(latest, ["CPUExecutionProvider"], Log(io.StringIO(), for_people=False), Metrics())
    answering = [True]

    def predictor() -> Predictor:
        assert served.predictor is not None
        return served.predictor

    async def reload() -> None:
        running = asyncio.create_task(served.run(0.01, is_idle=lambda: not answering))
        await until(lambda: served.ready)
        assert is_frozen(predictor())
        predictor().itself = predictor()  # type: ignore[attr-defined]
        before = weakref.ref(predictor())
        fresh.symlink_to(tutorial)
        fresh.replace(latest)
        await until(lambda: predictor() is not before())
        if has_pauses:
            await asyncio.sleep(0.2)
            assert not is_frozen(predictor()), "while a request is being answered"
            answering.clear()
        await until(lambda: is_frozen(predictor()))
        assert before() is None
        running.cancel()

    asyncio.run(reload())


@pytest.mark.parametrize("place", ["{}", "file://{}"])
def test_a_bundle_that_did_not_pass_the_gate_is_served_with_a_warning(failed: Path, place: str) -> None:
    """If it failed, a model that is worse than the settings allow would be served without a word."""
    told = io.StringIO()
    log = Log(told, for_people=False)
    asyncio.run(
        Service(place.format(failed), ["CPUExecutionProvider"], log, Metrics()).run(0, is_idle=lambda: True)
    )
    event = json.loads(told.getvalue())
    assert (event["event"], event["level"]) == ("bundle_served", "warning")
    assert event["failed_gate"] == "too low; too little"


def test_a_bundle_that_is_refused_does_not_stay(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it failed, a bad `latest` would take more memory each time that it is looked at."""
    served = Service(trained, ["CPUExecutionProvider"], Log(io.StringIO(), for_people=False), Metrics())
    asyncio.run(served.run(0, is_idle=lambda: True))
    seen: list[weakref.ref[Predictor]] = []

    def refuse(*_: object, **__: object) -> Predictor:
        predictor = Predictor(open_bundle(trained), None)  # type: ignore[arg-type]
        seen.append(weakref.ref(predictor))
        raise ParityError("another model")

    monkeypatch.setattr(Predictor, "load", refuse)
    monkeypatch.setattr(Service, "_current_id", lambda _: "another")
    gc.disable()
    try:
        assert asyncio.run(served._look(None, lambda: True)) == "another model"
        assert [each() for each in seen] == [None]
    finally:
        gc.enable()


def test_a_refused_bundle_is_loaded_again_after_longer_and_longer_waits(
    trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it failed, a bad `latest` in a bucket would be fetched at each look, until somebody mends it."""
    served = Service(trained, ["CPUExecutionProvider"], Log(io.StringIO(), for_people=False), Metrics())
    asyncio.run(served.run(0, is_idle=lambda: True))
    now, lies_there = 0, "another"
    loaded: list[tuple[str, int]] = []

    def refuse(*_: object, **__: object) -> Predictor:
        loaded.append((lies_there, now))
        raise PlatformError("no answer") if now == 1 else ArtifactError("damaged")

    monkeypatch.setattr(Predictor, "load", refuse)
    monkeypatch.setattr(Service, "_current_id", lambda _: lies_there)
    monkeypatch.setattr(service, "time", SimpleNamespace(monotonic=lambda: float(now)))
    monkeypatch.setattr(service, "MAX_WAIT_SECONDS", 20.0)

    async def look() -> None:
        nonlocal now, lies_there
        assert served.predictor is not None
        refused = None
        changes = {60: "a third", 64: "another", 66: served.predictor.bundle_id, 67: "another"}
        for now in range(70):
            lies_there = changes.get(now, lies_there)
            refused = await served._look(refused, lambda: True)
            assert (refused is None) == (lies_there == served.predictor.bundle_id)

    asyncio.run(look())
    another = [("another", second) for second in (0, 1, 2, 4, 8, 16, 32, 52)]
    third = [("a third", second) for second in (60, 61, 62)]
    assert loaded == [*another, *third, *(("another", second) for second in (64, 65, 67, 68, 69))]


def test_a_provider_that_is_not_here_is_told_by_its_variable(trained: Path) -> None:
    """If it failed, an operator would not know which of the settings to change."""
    served = Service(trained, ["CUDAExectionProvider"], Log(io.StringIO(), for_people=False), Metrics())
    message = r"^BOW_SERVE_PROVIDERS: expected .*CPUExecutionProvider.*, found CUDAExectionProvider; name one"
    with pytest.raises(SettingsError, match=message):
        asyncio.run(served.run(0, is_idle=lambda: True))
