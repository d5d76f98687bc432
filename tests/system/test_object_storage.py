"""Data from, and bundles to, a real S3 endpoint, over connections that break."""

import contextlib
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from s3fs import S3FileSystem

from export.committed import committed_keys
from export.remote import push, settle
from export.remote_retention import remove_old
from job.main import main
from job.stopping import Stop
from serving.bundle import open_bundle
from serving.errors import ArtifactError, ExitCode, PlatformError, SettingsError
from serving.main import main as serve
from serving.storage import errors as storage_errors
from serving.storage.published import LATEST, current, read_latest
from serving.storage.store import Store
from tests import objects
from tests.objects import id_at
from tests.system.conftest import REPOSITORY
from tests.system.s3 import SECRET, Proxy, control, make_bucket, moto_server, name_storage

pytestmark = pytest.mark.system

BUCKET = "s3://models-and-data"
ROWS = ["where is my parcel\tdelivery", "close my account\taccount", "thanks a lot\tother"] * 20
TSV = ("text\tlabel\n" + "\n".join(ROWS) + "\n").encode()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with moto_server(tmp_path_factory.mktemp("moto")) as port:
        yield port


@pytest.fixture
def proxy(server: int) -> Iterator[Proxy]:
    with Proxy(server) as proxy:
        yield proxy


@pytest.fixture(autouse=True)
def s3(proxy: Proxy, server: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Empty storage with a bucket, named by the platform's own variables alone."""
    name_storage(proxy.url, tmp_path, monkeypatch)
    monkeypatch.setattr(storage_errors, "FIRST_WAIT", 0.001)
    control(server, "reset", b"")
    make_bucket(BUCKET)
    Store(BUCKET).write("data/train.tsv", TSV)
    proxy.lines.clear()


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("bundles")
    return [objects.train(folder, seed) for seed in (1, 2)]


def settings(**more: object) -> dict[str, str]:
    environ = {"TRAIN_DATA": f"{BUCKET}/data/train.tsv", "OUTPUT_DIR": f"{BUCKET}/out", "DEVICE": "cpu"}
    environ |= {name.upper(): str(value) for name, value in more.items()}
    return {f"BOW_{name}": value for name, value in environ.items()} | {"BOW_LOG_FORMAT": "json"}


def train(arguments: list[str], environ: dict[str, str]) -> ExitCode:
    return main(arguments, environ, Stop())


def reason(capfd: pytest.CaptureFixture[str]) -> str:
    """Why the job failed; what it wrote holds no secret."""
    written = capfd.readouterr()
    assert SECRET not in written.out + written.err
    events = [json.loads(line) for line in written.err.splitlines()]
    (failed,) = [event for event in events if event["event"] == "failed"]
    return str(failed["reason"])


def test_data_comes_from_a_bucket_and_a_bundle_goes_to_it(tmp_path: Path) -> None:
    """If it failed, a job on a cluster could neither read its data nor leave its model."""
    environ = {**os.environ, **settings(run_name="run", test_data=f"{BUCKET}/data/*.tsv")}
    done = subprocess.run(
        [sys.executable, "-m", "job"],
        cwd=REPOSITORY,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert {event["event"] for event in events} >= {"fetched", "data", "published"}
    assert {event["level"] for event in events} == {"info"}
    (published,) = [event for event in events if event["event"] == "published"]
    assert published["bundle"] == f"{BUCKET}/out/run"
    assert SECRET not in done.stderr
    for name in ("latest", "run"):
        verified = subprocess.run(
            [
                sys.executable,
                "-m",
                "serving",
                "verify",
                f"{BUCKET}/out/{name}",
                "--expect",
                published["bundle_id"],
            ],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (verified.returncode, verified.stderr) == (0, "")
        assert f"{BUCKET}/out/{name} holds: all " in verified.stdout
    predicted = subprocess.run(
        [sys.executable, "-m", "serving", "predict", f"{BUCKET}/out/latest"],
        cwd=REPOSITORY,
        input="where is my parcel\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert (predicted.returncode, predicted.stderr) == (0, "")
    assert json.loads(predicted.stdout)["predictions"][0]["label"] == "delivery"
    again = subprocess.run(
        [sys.executable, "-m", "job"],
        cwd=REPOSITORY,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert again.returncode == 0
    assert json.loads(again.stderr.splitlines()[-1])["outcome"] == "already_published"


def test_predict_fetches_what_it_needs_and_no_more(
    bundles: list[Path], proxy: Proxy, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """If it failed, a server would fetch the weights three more times than it uses them."""
    push(Store(f"{BUCKET}/out"), bundles[0], "run", overwrite=False)
    proxy.lines.clear()
    (tmp_path / "texts").write_text("creo\n")
    assert serve(["predict", f"{BUCKET}/out/latest", "--input", str(tmp_path / "texts")]) == 0
    gets = {line.split()[1].rpartition("/")[2] for line in proxy.lines if line.startswith("GET")}
    assert {name.partition("?")[0] for name in gets} == {
        LATEST,
        "manifest.json",
        "golden.jsonl",
        "labels.jsonl",
        "model.onnx",
        "failed-gate.json",
    }


def test_a_moments_overload_is_waited_for(proxy: Proxy, capfd: pytest.CaptureFixture[str]) -> None:
    """If it failed, a 503 would end a run of hours."""
    proxy.fate = lambda number: "busy" if number % 8 in (1, 2, 3) else "pass"
    assert train([], settings()) == ExitCode.DONE
    proxy.fate = lambda _number: "pass"
    events = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    waits = [event for event in events if event["event"] == "library_message"]
    assert "attempt 1 of 6 failed" in waits[0]["message"]
    assert len(waits) > 5
    assert id_at(f"{BUCKET}/out/{LATEST}") is not None


@pytest.mark.parametrize("lost", ["lose the request", "lose the answer"])
def test_a_connection_that_breaks_now_and_then_does_not_show(proxy: Proxy, lost: str) -> None:
    """If it failed, publishing over a bad network would fail, or take its own commit for another's."""
    proxy.fate = lambda number: lost if number % 3 == 0 else "pass"  # type: ignore[return-value]
    assert train([], settings(run_name="run")) == ExitCode.DONE
    proxy.fate = lambda _number: "pass"
    assert id_at(f"{BUCKET}/out/{LATEST}") == id_at(f"{BUCKET}/out/run") is not None


@pytest.mark.parametrize("cut", [*range(1, 34, 2), 2, 16, 32])
def test_a_cut_at_any_request_leaves_latest_on_a_whole_bundle_and_the_next_run_succeeds(
    bundles: list[Path], proxy: Proxy, cut: int
) -> None:
    """If it failed, a network that breaks at the wrong moment would put half a model into service.

    The tests of `export.remote` cut at every one, without a network.
    """
    lost = "lose the answer" if cut % 2 else "lose the request"
    store = Store(f"{BUCKET}/out")
    old, new = (open_bundle(bundle).bundle_id for bundle in bundles)
    push(store, bundles[0], "run", overwrite=False)
    proxy.lines.clear()
    proxy.fate = lambda number: lost if number >= cut else "pass"  # type: ignore[return-value]
    try:
        push(store, bundles[1], "run", overwrite=True)
        assert len(proxy.lines) < cut
    except PlatformError as error:
        assert "expected an answer" in str(error)  # noqa: PT017 - it may also be done by then
    proxy.fate = lambda _number: "pass"
    assert id_at(f"{BUCKET}/out/{LATEST}") in (old, new)
    if id_at(f"{BUCKET}/out/run") == new:
        settle(store, "run")
    else:
        push(store, bundles[1], "run", overwrite=True)
    assert id_at(f"{BUCKET}/out/{LATEST}") == id_at(f"{BUCKET}/out/run") == new
    # The new one, and the one before it for those who are fetching that.
    assert len({each.key.rpartition("/")[0] for each in store.under("run")}) == 3


def test_the_cuts_reach_past_the_last_request(bundles: list[Path], proxy: Proxy) -> None:
    """If it failed, the last steps of publishing would never be the ones that are cut."""
    store = Store(f"{BUCKET}/out")
    push(store, bundles[0], "run", overwrite=False)
    proxy.lines.clear()
    push(store, bundles[1], "run", overwrite=True)
    assert 20 <= len(proxy.lines) < 34, proxy.lines


def test_of_many_writers_at_once_one_wins(bundles: list[Path]) -> None:
    """If it failed, jobs with one name would publish a mixture, or remove each other's files."""
    won, lost = [], []
    together = threading.Barrier(6)

    def publish(bundle: Path) -> None:
        store = Store(f"{BUCKET}/out")
        together.wait()
        try:
            won.append(push(store, bundle, "run", overwrite=False))
        except SettingsError as error:
            lost.append(str(error))

    threads = [threading.Thread(target=publish, args=[bundles[number % 2]]) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    store = Store(f"{BUCKET}/out")
    winner = current(store, "run")
    assert winner is not None
    # Those with the very same bundle have nothing to lose.
    assert {commit.by for commit in won} == {winner.by}
    assert len(won) == len(lost) == 3
    assert all(str(winner.by) in message for message in lost)
    assert id_at(f"{BUCKET}/out/run") == id_at(f"{BUCKET}/out/{LATEST}") == winner.pointer.bundle_id
    assert {each.key.rpartition("/")[0] for each in store.under("run")} == {"run", winner.pointer.bundle}


def test_the_condition_is_the_stores_own(proxy: Proxy) -> None:
    """If it failed, the claim would be a look before a write, and two could both see nothing."""
    proxy.lines.clear()
    assert Store(BUCKET).write_if_absent("claim", b"one")
    assert [line.split()[0] for line in proxy.lines] == ["PUT"]
    assert not Store(BUCKET).write_if_absent("claim", b"two")


def test_ten_nights_leave_as_many_bundles_as_are_to_be_kept(capfd: pytest.CaptureFixture[str]) -> None:
    """If it failed, the bucket would fill, or the model in service would go."""
    store = Store(f"{BUCKET}/out")
    for night in range(1, 11):
        if night == 4:
            store.write("canary", store.read(LATEST) or b"")
        assert train([], settings(run_name=f"night-{night}", keep_bundles=3, epochs=1)) == ExitCode.DONE
    events = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    removed = [event["bundles"] for event in events if event["event"] == "old_bundles_removed"]
    # The pointer of the user's own keeps the third night's, which counts as one of the three.
    assert removed == [[f"night-{night}"] for night in (1, 2, 4, 5, 6, 7, 8)]
    kept = {"night-3", "night-9", "night-10"}
    assert {each.key.partition("/")[0] for each in store.under()} == {*kept, LATEST, "canary"}
    for name in (*kept, LATEST, "canary"):
        assert id_at(f"{BUCKET}/out/{name}") is not None
    assert current(store, "night-10").pointer == read_latest(store)  # type: ignore[union-attr]


@pytest.mark.parametrize("cut", [6, 9, 16, 21])
def test_a_removal_that_is_cut_is_finished_by_the_next_run(
    bundles: list[Path], proxy: Proxy, cut: int
) -> None:
    """If it failed, a network that breaks would leave half a model, or files that nobody removes.

    The tests of `export.remote_retention` cut at every request, without a network.
    """
    store = Store(f"{BUCKET}/out")
    for night in "ab":
        push(store, bundles[0], night, overwrite=False)
    before = committed_keys(store)
    push(store, bundles[1], "c", overwrite=False)
    proxy.lines.clear()
    lost = "lose the answer" if cut % 4 == 1 else "lose the request"
    proxy.fate = lambda number: lost if number >= cut else "pass"  # type: ignore[return-value]
    with pytest.raises(PlatformError, match="expected an answer"):
        remove_old(store, 2, "c", before)
    proxy.fate = lambda _number: "pass"
    new = open_bundle(bundles[1]).bundle_id
    assert id_at(f"{BUCKET}/out/{LATEST}") == id_at(f"{BUCKET}/out/c") == new
    with contextlib.suppress(ArtifactError):  # it is being removed, or all of it is there
        assert id_at(f"{BUCKET}/out/a") in (open_bundle(bundles[0]).bundle_id, None)
    remove_old(store, 2, "c", before)
    assert {each.key.partition("/")[0] for each in store.under()} == {"b", "c", LATEST}


def test_credentials_that_do_not_allow_to_remove_bundles_are_told(
    proxy: Proxy, capfd: pytest.CaptureFixture[str]
) -> None:
    """If it failed, a missing permission would fail every night, or the bucket fill without a word."""
    assert train([], settings(run_name="a", epochs=1)) == ExitCode.DONE
    proxy.denied = "DELETE /models-and-data/out/a/"
    assert train([], settings(run_name="b", keep_bundles=1, epochs=1)) == ExitCode.DONE
    events = [json.loads(line) for line in capfd.readouterr().err.splitlines()]
    (said,) = [event for event in events if event["event"] == "old_bundles_not_removed"]
    assert said["level"] == "warning"
    assert "expected credentials that allow this" in said["reason"]
    assert "and deleting there, and check AWS_ACCESS_KEY_ID" in said["reason"]
    assert id_at(f"{BUCKET}/out/a") is not None
    proxy.denied = None
    assert train([], settings(run_name="b", keep_bundles=1, epochs=1)) == ExitCode.DONE
    assert id_at(f"{BUCKET}/out/a") is None


def test_wrong_credentials_are_told(server: int, capfd: pytest.CaptureFixture[str]) -> None:
    """If it failed, nobody would know that a permission is missing."""
    control(server, "reset-auth", b"0")
    try:
        for data in (f"{BUCKET}/data/train.tsv", "tutorial"):
            assert train([], settings(train_data=data)) == ExitCode.PLATFORM
            assert "expected credentials that allow this" in reason(capfd)
        assert serve(["verify", f"{BUCKET}/out/{LATEST}"]) == ExitCode.PLATFORM
        assert "AWS_ACCESS_KEY_ID" in capfd.readouterr().err
    finally:
        control(server, "reset-auth", b"1000000000")


def test_no_credentials_at_all_are_told(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """If it failed, a forgotten secret would look like a bug."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    S3FileSystem.clear_instance_cache()
    assert train([], settings()) == ExitCode.PLATFORM
    assert "NoCredentialsError" in reason(capfd)


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9", "http://no-such-host.invalid"])
def test_an_unreachable_host_is_told(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], endpoint: str
) -> None:
    """If it failed, a job would wait for ever, or end as if its data were wrong."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    S3FileSystem.clear_instance_cache()
    assert train([], settings(output_dir="out")) == ExitCode.PLATFORM
    message = reason(capfd)
    assert f"{BUCKET}/data/train.tsv: expected an answer" in message
    assert "in 6 attempts; check the network" in message


@pytest.mark.parametrize("name", ["train_data", "output_dir"])
def test_a_missing_bucket_is_told(capfd: pytest.CaptureFixture[str], name: str) -> None:
    """If it failed, a misspelt bucket would cost the whole training before anybody knew."""
    assert train([], settings(**{name: "s3://no-such-bucket/x"})) == ExitCode.PLATFORM
    assert "s3://no-such-bucket/x" in (message := reason(capfd))
    assert "expected a bucket of that name, found none" in message


def test_a_missing_object_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    """If it failed, a scheduler would try a misspelt URL again and again."""
    assert train([], settings(train_data=f"{BUCKET}/data/trian.tsv")) == ExitCode.DATA
    assert f"BOW_TRAIN_DATA={BUCKET}/data/trian.tsv: expected an object" in reason(capfd)
    with contextlib.suppress(SystemExit):
        assert serve(["verify", f"{BUCKET}/out/{LATEST}"]) == ExitCode.BUNDLE_DAMAGED
    assert f"{BUCKET}/out/{LATEST}: expected a bundle" in capfd.readouterr().err


def test_a_large_object_is_copied_in_parts(tmp_path: Path, proxy: Proxy) -> None:
    """If it failed, data or a model above 100 MB would be cut or mixed up."""
    generator = os.urandom(1 << 20)
    with (tmp_path / "large").open("wb") as file:
        for part in range(120):
            file.write(generator[part:] + generator[:part])
    store = Store(BUCKET)
    store.put(tmp_path / "large", "large")
    assert sum("partNumber" in line for line in proxy.lines) >= 2
    store.get("large", tmp_path / "copy", size=120 << 20)
    assert (tmp_path / "large").read_bytes() == (tmp_path / "copy").read_bytes()
