"""The images of Dockerfile.cuda, built and run for real, as locked down as a cluster runs them."""

import json
import os
import re
import shutil
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from serving.bundle import open_bundle
from serving.errors import ExitCode
from tests.system.conftest import REPOSITORY, Environment
from tests.system.engine import LOCKED_DOWN, Podman, missing_package

pytestmark = pytest.mark.system

TRAIN = "localhost/bowsprit-system-test"
SERVE = f"{TRAIN}-serve"
SOURCES = ("job", "export", "serving", "recipes")
FILES = (
    *("Dockerfile.cuda", ".dockerignore", "Makefile", "pyproject.toml", "constraints.txt"),
    *("README.md", "LICENSE"),
)
TUTORIAL = ("--env", "BOW_TRAIN_DATA=tutorial", "--env", "BOW_DEVICE=cpu", "--env", "BOW_BATCH_SIZE=1")
ENDLESS = (*TUTORIAL, "--env", "BOW_EPOCHS=100000000")
LONG = (*TUTORIAL, "--env", "BOW_EPOCHS=30000", "--env", "BOW_RUN_NAME=night")

LIST_DISTRIBUTIONS = """
import importlib.metadata, json
found = importlib.metadata.distributions(path=[p for p in __import__("sys").path if "/opt/venv/" in p])
print(json.dumps({each.name: each.version for each in found}))
"""


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Podman:
    """Podman, which is installed where it is not here."""
    package = missing_package()
    if package is not None:
        pytest.skip(f"{package} could not be installed: apt-get install {package}, as root")
    return Podman(tmp_path_factory.mktemp("podman"))


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what the images are made of: make leaves its output beside its Makefile."""
    return copy_sources(tmp_path_factory.mktemp("checkout"))


@pytest.fixture(scope="module", autouse=True)
def images(podman: Podman, checkout: Path) -> None:
    """Both images, built by make."""
    for target in ("image", "image-serve"):
        started = time.monotonic()
        done = podman.make(checkout, target, f"IMAGE={TRAIN}")
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        print(f"{target}: {time.monotonic() - started:.0f} s")


@pytest.mark.parametrize("user", [None, "12345:12345"], ids=["its own user", "any user"])
def test_a_locked_down_container_trains_and_another_verifies(
    podman: Podman, tmp_path: Path, user: str | None
) -> None:
    """If it failed, the image would need root, a writable root file system, a capability or a network."""
    uid = int((user or "65532").partition(":")[0])
    os.chown(tmp_path, uid, uid)
    recipe = REPOSITORY / "recipes" / "tutorial.env"
    flags = ["--user", user] if user else []
    trained = podman.run(
        TRAIN,
        flags=[
            *(*flags, "--env-file", str(recipe), "--env", "BOW_DEVICE=cpu"),
            *("--volume", f"{tmp_path}:/work/artifacts"),
        ],
    )
    assert trained.returncode == ExitCode.DONE, trained.stderr
    assert (tmp_path / "tutorial" / "manifest.json").stat().st_uid == uid
    bundle_id = open_bundle(tmp_path / "tutorial").bundle_id

    verified = podman.run(
        SERVE, "verify", "artifacts/latest", flags=[*flags, "--volume", f"{tmp_path}:/work/artifacts:ro"]
    )
    assert (verified.returncode, verified.stderr) == (ExitCode.DONE, "")
    assert "artifacts/latest holds: all " in verified.stdout
    assert f"bundle {bundle_id}" in verified.stdout


def test_exit_codes_come_through(podman: Podman) -> None:
    """If it failed, a scheduler would take a wrong setting for a bad machine, and try it again for ever."""
    unset = podman.run(TRAIN)
    assert (unset.returncode, "BOW_TRAIN_DATA" in unset.stderr) == (ExitCode.SETTINGS, True)
    without_gpu = podman.run(
        TRAIN, flags=["--env", "BOW_TRAIN_DATA=tutorial", "--env", "BOW_REQUIRE_GPU=true"]
    )
    assert without_gpu.returncode == ExitCode.PLATFORM
    assert "set BOW_REQUIRE_GPU=false" in without_gpu.stderr
    no_bundle = podman.run(SERVE)
    assert (no_bundle.returncode, "artifacts/latest" in no_bundle.stderr) == (ExitCode.BUNDLE_DAMAGED, True)


def test_a_stopped_job_keeps_what_it_learned_and_the_next_ends_with_the_same_bytes(
    podman: Podman, tmp_path: Path
) -> None:
    """If it failed, an eviction would cost the work of hours, or change the model."""
    stopped, undisturbed = tmp_path / "stopped", tmp_path / "undisturbed"
    for folder in (stopped, undisturbed):
        folder.mkdir()
        os.chown(folder, 65532, 65532)
    name = start_job(podman, stopped, LONG)
    try:
        deadline = time.monotonic() + 60
        while '"event": "checkpoints"' not in podman("logs", name).stderr:
            assert time.monotonic() < deadline, podman("logs", name).stderr
            time.sleep(0.2)
        seconds, code = stop(podman, name)
        assert (code, seconds < 3) == (ExitCode.INTERRUPTED, True)
        assert "interrupted by SIGTERM: what was learned in" in podman("logs", name).stderr
        assert [path.name for path in stopped.iterdir()] == [".night.checkpoint"]
    finally:
        podman("rm", "--force", name)
    for folder in (stopped, undisturbed):
        done = podman.run(TRAIN, flags=[*LONG, "--volume", f"{folder}:/work/artifacts"])
        assert done.returncode == ExitCode.DONE, done.stderr
        assert ('"event": "resumed"' in done.stderr) == (folder == stopped)
    assert sorted(path.name for path in stopped.iterdir()) == ["latest", "night"]
    assert open_bundle(stopped / "latest").bundle_id == open_bundle(undisturbed / "latest").bundle_id


def test_a_job_that_is_stopped_while_it_starts_ends_at_once(podman: Podman, tmp_path: Path) -> None:
    """If it failed, the kernel would drop the signal: Python is process 1 and has no handler for it yet."""
    os.chown(tmp_path, 65532, 65532)
    name = start_job(podman, tmp_path, ENDLESS)
    try:
        seconds, code = stop(podman, name)
        # By the signal itself, or by the job where the machine was slow to send it.
        assert code in (128 + 15, ExitCode.INTERRUPTED)
        assert seconds < 3
    finally:
        podman("rm", "--force", name)


def test_a_locked_down_container_serves_and_says_how_it_is(podman: Podman, bundle: Path) -> None:
    """If it failed, the image would need a right to serve that it has not, or be restarted while it works."""
    (image,) = json.loads(podman("image", "inspect", SERVE).stdout)
    kind, *check = image["Healthcheck"]["Test"]
    assert kind == "CMD"
    mounted = ("--volume", f"{bundle.parent}:/work/artifacts:ro")
    serve = ("serve", f"artifacts/{bundle.name}")
    done = podman("run", "--detach", *LOCKED_DOWN, *mounted, SERVE, *serve)
    assert done.returncode == 0, done.stderr
    name = done.stdout.strip()
    try:
        deadline = time.monotonic() + 60
        while (checked := podman("exec", name, *check)).returncode != ExitCode.DONE:
            assert checked.returncode == ExitCode.PLATFORM
            assert time.monotonic() < deadline, podman("logs", name).stderr
            time.sleep(0.2)
        assert checked.stdout == "127.0.0.1:8080 is ready\n"
        seconds, code = stop(podman, name)
        assert (code, seconds < 5) == (ExitCode.DONE, True), podman("logs", name).stderr
    finally:
        podman("rm", "--force", name)
    alone = podman.run(SERVE, *check[check.index("serving") + 1 :])
    assert (alone.returncode, "Connection refused" in alone.stderr) == (ExitCode.PLATFORM, True)


def test_make_serve_container_answers_on_this_machine(podman: Podman, checkout: Path, bundle: Path) -> None:
    """If it failed, who has the image could not try what the cluster will serve."""
    shutil.copytree(bundle, checkout / "artifacts" / "served")
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = str(unused.getsockname()[1])
    name = "bowsprit-serve-container-test"
    done = podman.make(
        checkout,
        *("serve-container", f"IMAGE={TRAIN}", "BUNDLE=artifacts/served"),
        f"RUN_FLAGS=--detach --no-healthcheck --name {name}",
        BOW_SERVE_PORT=port,
        BOW_SERVE_MODEL_NAME="mine",
    )
    try:
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        url = f"http://127.0.0.1:{port}/v2/models/mine"
        deadline = time.monotonic() + 60
        while (version := answer(url)) is None:
            assert time.monotonic() < deadline, podman("logs", name).stderr
            time.sleep(0.2)
        assert version["versions"] == [open_bundle(bundle).bundle_id[:12]]
    finally:
        podman("rm", "--force", name)


def test_make_serve_container_without_a_bundle_says_so_at_once(podman: Podman, checkout: Path) -> None:
    """If it failed, an image would be built before anyone hears that there is nothing to serve."""
    done = podman.make(checkout, "serve-container", "BUNDLE=artifacts/absent")
    said = [line for line in done.stderr.splitlines() if not line.startswith("make: ***")]
    assert (done.returncode != 0, done.stdout, len(said)) == (True, "", 1)
    assert "there is no bundle artifacts/absent" in said[0]


def test_the_images_say_what_they_are(podman: Podman) -> None:
    """If it failed, nobody could tell which version runs, or a cluster would refuse the image as root's."""
    version = re.search(r'^version = "(.+)"', (REPOSITORY / "pyproject.toml").read_text(), re.MULTILINE)
    assert version
    for image, title in ((TRAIN, "bowsprit"), (SERVE, "bowsprit-serve")):
        (found,) = json.loads(podman("image", "inspect", image).stdout)
        labels = found["Config"]["Labels"]
        prefix = "org.opencontainers.image"
        assert labels[f"{prefix}.title"] == title
        assert labels[f"{prefix}.version"] == version[1]
        assert labels[f"{prefix}.licenses"] == "Apache-2.0"
        assert labels[f"{prefix}.description"]
        assert found["Config"]["User"] == "65532:65532"
        assert list(found["Config"].get("ExposedPorts", {})) == (["8080/tcp"] if image == SERVE else [])


def test_the_serving_image_has_no_torch_and_none_has_pip(podman: Podman) -> None:
    """If it failed, a server would carry gigabytes that it does not use, or anyone could install into it."""
    train, serve = distributions(podman, TRAIN), distributions(podman, SERVE)
    assert {"torch", "pyarrow"} <= train.keys()
    assert {"onnxruntime", "starlette", "uvicorn", "s3fs"} <= serve.keys()
    assert not {"torch", "pyarrow", "structlog", "onnxruntime-gpu"} & serve.keys()
    assert not {"pip", "bowsprit", "cyclonedx-bom"} & (train.keys() | serve.keys())


def test_a_change_of_the_source_does_not_install_torch_again(podman: Podman, tmp_path: Path) -> None:
    """If it failed, each change would cost minutes to build and gigabytes to push and pull."""
    changed = copy_sources(tmp_path)
    with (changed / "job" / "__init__.py").open("a") as source:
        source.write(f"# changed at {time.time()}\n")
    done = podman.make(changed, "image", f"IMAGE={TRAIN}-changed")
    assert done.returncode == 0, done.stderr[-4000:]
    before, after = (
        json.loads(podman("image", "inspect", image).stdout)[0]["RootFS"]["Layers"]
        for image in (TRAIN, f"{TRAIN}-changed")
    )
    podman("image", "rm", f"{TRAIN}-changed")
    assert [ours == theirs for ours, theirs in zip(before, after, strict=True)] == [
        *[True] * (len(before) - 1),
        False,
    ]


def test_sbom_lists_what_is_inside(podman: Podman, checkout: Path, tmp_path: Path) -> None:
    """If it failed, a search for a vulnerable library would pass over the images that hold it."""
    done = podman.make(checkout, "sbom")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    environment = Environment(tmp_path / "venv")
    environment.install("-c", str(REPOSITORY / "constraints.txt"), "cyclonedx-python-lib[json-validation]")
    validate = """
import pathlib, sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
sys.exit(JsonStrictValidator(SchemaVersion.V1_6).validate_str(pathlib.Path(sys.argv[1]).read_text()))
"""
    for image, name, onnxruntime in (
        (TRAIN, "bowsprit-train.cdx.json", "onnxruntime-gpu"),
        (SERVE, "bowsprit-serve.cdx.json", "onnxruntime"),
    ):
        path = checkout / "sbom" / name
        valid = environment.python("-c", validate, str(path))
        assert valid.returncode == 0, valid.stderr
        bom = json.loads(path.read_text())
        listed = {component["name"]: component["version"] for component in bom["components"]}
        assert listed == distributions(podman, image)
        assert onnxruntime in listed
        assert ("torch" in listed) == (image == TRAIN)
        assert bom["metadata"]["component"]["name"] == "bowsprit"


def test_make_train_container_trains_on_data_of_the_user(podman: Podman, checkout: Path) -> None:
    """If it failed, who has no GPU could not try what the cluster will run."""
    (checkout / "data").mkdir()
    rows = [f"word{row % 7} word{row % 3}\tlabel {row % 2}" for row in range(200)]
    (checkout / "data" / "train.tsv").write_text("\n".join(["text\tlabel", *rows, ""]))
    (checkout / "mine.env").write_text("BOW_TRAIN_DATA=data/train.tsv\nBOW_RUN_NAME=mine\nBOW_EPOCHS=9\n")
    # A variable of the shell wins over the recipe's line.
    done = podman.make(checkout, "train-container", "RECIPE=mine.env", f"IMAGE={TRAIN}", BOW_EPOCHS="2")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    bundle = checkout / "artifacts" / "mine"
    assert (bundle / "manifest.json").stat().st_uid == os.geteuid()
    assert json.loads((bundle / "run.json").read_text())["device_requested"] == "cpu"
    assert json.loads((bundle / "manifest.json").read_text())["settings"]["epochs"] == 2


def test_make_train_gpu_without_a_gpu_says_so_at_once(podman: Podman, checkout: Path) -> None:
    """If it failed, gigabytes would be built before anyone hears that there is no GPU to use."""
    # Empty also where this test runs beside a GPU.
    done = podman.make(checkout, "train-gpu", "GPU=")
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if not line.startswith("make: ***")]
    assert done.stdout == ""
    assert len(said) == 1
    assert "no NVIDIA GPU" in said[0]
    assert "BOW_REQUIRE_GPU=false" in said[0]
    assert "make train-container" in said[0]


def copy_sources(folder: Path) -> Path:
    for name in SOURCES:
        shutil.copytree(REPOSITORY / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(REPOSITORY / name, folder / name)
    return folder


def distributions(podman: Podman, image: str) -> dict[str, str]:
    """What is installed in an image's environment, as its own Python sees it."""
    done = podman.run(image, "-c", LIST_DISTRIBUTIONS, flags=["--entrypoint", "python"])
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


def start_job(podman: Podman, artifacts: Path, flags: Sequence[str]) -> str:
    """The ID of a container that trains."""
    done = podman("run", "--detach", *LOCKED_DOWN, *flags, "--volume", f"{artifacts}:/work/artifacts", TRAIN)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def answer(url: str) -> dict[str, Any] | None:
    """What a server answers, once it does."""
    try:
        with urllib.request.urlopen(url, timeout=5) as found:
            answered: dict[str, Any] = json.load(found)
            return answered
    except (ConnectionError, urllib.error.URLError):
        return None


def stop(podman: Podman, name: str) -> tuple[float, int]:
    """The seconds that a container took to end once it was told to, and its exit code."""
    started = time.monotonic()
    podman("stop", "--time", "20", name)
    seconds = time.monotonic() - started
    return seconds, int(podman("inspect", name, "--format", "{{.State.ExitCode}}").stdout)
