"""A new bundle takes the old one's place under load, and a damaged one never does."""

import asyncio
import contextlib
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from export.remote import push
from serving.bundle import FILES
from serving.predictor import Predictor
from serving.storage.published import LATEST, Pointer, encode
from serving.storage.store import Store
from tests.answer import Answer
from tests.objects import put_folder, train
from tests.serving.damage import Damage, added, in_initializer, in_manifest, seal_again, whole
from tests.system.s3 import make_bucket, moto_server, name_storage
from tests.system.server import INFER, Client, Server, call, log_probs_of, request, running

pytestmark = pytest.mark.system

CLIENTS = 8
MOVES = 6
RELOAD_SECONDS = 0.2
MAX_SECONDS = 5.0
"""From the moment that a bundle is there to the first answer by it."""
TEXTS = ["me gusta comer", "it is lost on me", "", "creo que sí " * 200]
BUCKET = "s3://models"


def sealed(change: Damage) -> Damage:
    """A change that no hash tells."""

    def damage(folder: Path) -> None:
        change(folder)
        seal_again(folder)

    return damage


DAMAGES: dict[str, Damage] = {
    "cut": whole(FILES.text_model, lambda content: content[:-100]),
    "altered": sealed(in_initializer(FILES.text_model, "bias", added(1, 0.1))),
    "no-ONNX": sealed(whole(FILES.text_model, lambda content: b"not a model")),
    "without-its-model": lambda folder: (folder / FILES.text_model).unlink(),
    "without-examples": lambda folder: (folder / FILES.golden).unlink(),
    "other-labels": sealed(whole(FILES.labels, lambda content: content[:-2] + b'x"')),
    "schema": in_manifest(lambda manifest: manifest.update(schema_version=99)),
    "no-manifest-JSON": whole(FILES.manifest, lambda content: content[:-20]),
}


class Bundles:
    """Two good bundles, and what each of them says of `TEXTS`."""

    def __init__(self, folder: Path) -> None:
        self.paths = [train(folder, seed) for seed in (1, 2)]
        predictors = [Predictor.load(path) for path in self.paths]
        self.ids = [predictor.bundle_id for predictor in predictors]
        self._expected = {each.bundle_id: each.log_probs(TEXTS) for each in predictors}

    def of(self, answer: Answer) -> int:
        """Which of the two an answer is by: one of them, and wholly."""
        assert answer.status == 200, answer
        bundle_id = answer.json["parameters"]["bundle_id"]
        expected = self._expected[bundle_id]
        found = np.array(log_probs_of(answer), dtype=np.float32).reshape(expected.shape)
        np.testing.assert_array_equal(found, expected)
        assert answer.headers["bowsprit-bundle"] == bundle_id
        assert answer.json["model_version"] == bundle_id[:12]
        return self.ids.index(bundle_id)

    def damaged(self, path: Path, damage: Damage, number: int) -> Path:
        """A damaged copy of one of them."""
        shutil.copytree(self.paths[number], path)
        damage(path)
        return path


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> Bundles:
    return Bundles(tmp_path_factory.mktemp("bundles"))


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of an S3 endpoint."""
    with moto_server(tmp_path_factory.mktemp("moto")) as port:
        yield port


@pytest.fixture
def store(storage: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Store:
    """A bucket, which the platform's own variables name to the server too."""
    name_storage(f"http://127.0.0.1:{storage}", tmp_path, monkeypatch)
    with contextlib.suppress(FileExistsError):
        make_bucket(BUCKET)
    return Store(f"{BUCKET}/{tmp_path.name}")


async def under_load(server: Server, bundles: Bundles, moves: Callable[[], Iterator[int]]) -> Counter[int]:
    """Asks without a pause, while `moves` puts a bundle in place and yields its number, each time.

    Returns how many answers each bundle gave; all of them are right, and none is missing.
    """
    answers: Counter[int] = Counter()
    ended = False
    content = {True: request(INFER, call(TEXTS)), False: request(INFER, call(TEXTS), "connection: close")}

    async def keep_asking(keeps_alive: bool) -> None:
        while not ended:
            async with await Client.connect(server.port) as client:
                for _ in range(50 if keeps_alive else 1):
                    answers[bundles.of(await client.ask(content[keeps_alive]))] += 1

    clients = [asyncio.create_task(keep_asking(number % 2 == 0)) for number in range(CLIENTS)]
    steps = moves()
    while (number := await asyncio.to_thread(next, steps, None)) is not None:
        before, start = answers[number], time.monotonic()
        while answers[number] == before:
            assert time.monotonic() - start < MAX_SECONDS, server.log.read_text()
            assert not any(client.done() for client in clients), await asyncio.gather(*clients)
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.3)
    ended = True
    await asyncio.gather(*clients)
    return answers


def point(latest: Path, target: Path) -> None:
    """Moves the link as the job does."""
    fresh = latest.with_name("fresh")
    fresh.symlink_to(target)
    fresh.replace(latest)


def metric(server: Server, name: str) -> float:
    """A number of /metrics."""
    (line,) = [line for line in server.ask("/metrics").body.decode().splitlines() if line.startswith(name)]
    return float(line.rpartition(" ")[2])


@pytest.mark.parametrize("workers", [1, 2])
def test_a_new_latest_is_served_without_a_lost_request(
    bundles: Bundles, tmp_path: Path, workers: int
) -> None:
    """If it failed, each night's model would cost requests, or be mixed with the last one's answers."""
    latest = tmp_path / "latest"
    point(latest, bundles.paths[0])

    def moves() -> Iterator[int]:
        for number in range(1, MOVES + 1):
            point(latest, bundles.paths[number % 2])
            yield number % 2
            server.wait_for("bundle_served", workers * (number + 1), MAX_SECONDS)

    with running(latest, tmp_path, workers=workers, reload_seconds=RELOAD_SECONDS) as server:
        answers = asyncio.run(under_load(server, bundles, moves))
        print(f"{dict(answers)} answers by each bundle")
        assert min(answers.values()) > 20
        assert metric(server, 'bowsprit_reloads_total{result="served"}') == MOVES * workers
        assert metric(server, 'bowsprit_reloads_total{result="refused"}') == 0
        assert {event["event"] for event in server.events()} == {"listening", "bundle_served"}
        model = f'bowsprit_model_info{{bundle_id="{bundles.ids[MOVES % 2]}"'
        assert metric(server, model) == 1
        assert server.end() == 0


def refuses_each(server: Server, bundles: Bundles, put: Callable[[str, Damage | None], None]) -> None:
    """Damaged copies of the bundle that is not served, each then mended; the first was there before."""
    serving = 0
    for number, (name, damage) in enumerate(DAMAGES.items(), 1):
        put(name, damage)
        (*_, refused) = server.wait_for("bundle_refused", number, MAX_SECONDS)
        assert refused["level"] == "error"
        assert refused["reason"]
        assert refused["still_serving"] == bundles.ids[serving]
        # It is looked at several times more.
        until = time.monotonic() + 4 * RELOAD_SECONDS
        while time.monotonic() < until:
            assert bundles.of(server.ask(INFER, call(TEXTS))) == serving, name
        assert len(server.events("bundle_refused")) == number, name
        assert metric(server, 'bowsprit_reloads_total{result="refused"}') == number
        assert server.ask("/v2/health/ready").status == 200
        serving = 1 - serving
        put(f"mended-{name}", None)
        served = server.wait_for("bundle_served", number + 1, MAX_SECONDS)
        assert served[-1]["bundle_id"] == bundles.ids[serving], name
        assert bundles.of(server.ask(INFER, call(TEXTS))) == serving


def test_a_damaged_bundle_is_never_served_and_a_mended_one_is(bundles: Bundles, tmp_path: Path) -> None:
    """If it failed, a copy that was cut would take a service down, or answer wrongly."""
    latest = tmp_path / "latest"
    point(latest, bundles.paths[0])
    serving = 0

    def put(name: str, damage: Damage | None) -> None:
        nonlocal serving
        if damage is None:
            serving = 1 - serving
            point(latest, bundles.paths[serving])
        else:
            point(latest, bundles.damaged(tmp_path / name, damage, 1 - serving))

    with running(latest, tmp_path, reload_seconds=RELOAD_SECONDS) as server:
        refuses_each(server, bundles, put)
        # Nothing at all, and a file of the bundle that is served.
        latest.unlink()
        number = len(DAMAGES) + 1
        server.wait_for("bundle_refused", number, MAX_SECONDS)
        time.sleep(4 * RELOAD_SECONDS)
        assert bundles.of(server.ask(INFER, call(TEXTS))) == serving
        assert len(server.events("bundle_refused")) == number
        assert {event["event"] for event in server.events()} == {
            "listening",
            "bundle_served",
            "bundle_refused",
        }


def test_a_new_latest_in_object_storage_is_served_without_a_lost_request(
    bundles: Bundles, tmp_path: Path, store: Store
) -> None:
    """If it failed, a server would have to be restarted for each night's model in a bucket."""
    push(store, bundles.paths[0], "night", overwrite=False)

    def moves() -> Iterator[int]:
        for number in (1, 2):
            push(store, bundles.paths[number % 2], "night", overwrite=True)
            yield number % 2

    with running(store.url_of(LATEST), tmp_path, reload_seconds=RELOAD_SECONDS) as server:
        answers = asyncio.run(under_load(server, bundles, moves))
        print(f"{dict(answers)} answers by each bundle")
        assert min(answers.values()) > 20
        assert metric(server, 'bowsprit_reloads_total{result="served"}') == 2


def test_a_damaged_bundle_in_object_storage_is_never_served(
    bundles: Bundles, tmp_path: Path, store: Store
) -> None:
    """If it failed, one upload that was cut would take every server down."""
    serving = 0

    def put(name: str, damage: Damage | None) -> None:
        nonlocal serving
        if damage is None:
            folder = bundles.paths[serving := 1 - serving]
        else:
            # With the manifest of the one that is served, nobody would look at the rest.
            folder = bundles.damaged(tmp_path / name, damage, 1 - serving)
        put_folder(store, folder, name)
        store.write(LATEST, encode(Pointer(run=name, version=1, bundle=name, bundle_id="")))

    push(store, bundles.paths[0], "night", overwrite=False)
    with running(store.url_of(LATEST), tmp_path, reload_seconds=RELOAD_SECONDS) as server:
        refuses_each(server, bundles, put)
        assert {event["event"] for event in server.events()} == {
            "listening",
            "bundle_served",
            "bundle_refused",
        }
        assert server.end() == 0
