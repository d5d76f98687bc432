"""What make asks of a container engine, what it says where one or a GPU is missing, and how it reads recipes.

The engine is a script that writes down what it was asked: what docker would do with a GPU can be seen on no
machine without both. tests/system/test_container.py has the real podman.
"""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[1]

ENGINE = """#!/bin/sh
case "$1" in
--version) echo "{name} version 1" ;;
info) test -z "{ailing}" || {{ echo "{ailing}" >&2; exit 1; }} ;;
build) echo built ;;
run) shift; for word in "$@"; do echo "$word"; done; env | grep ^BOW_; exit {code} ;;
esac
"""

Make = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Runs make in a folder that has its Makefile and recipes, by an engine of the given name and manners."""
    for name in ("Makefile", "recipes", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    # Stands in for what `make setup` installs; `python -m job` shows its settings.
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\nenv | grep ^BOW_\n")
    python.chmod(0o755)
    (tmp_path / ".venv" / ".installed").touch()
    (tmp_path / "data").mkdir()
    (tmp_path / "artifacts" / "latest").mkdir(parents=True)

    def make(
        *arguments: str, name: str = "docker", ailing: str = "", code: int = 0, **environ: str
    ) -> subprocess.CompletedProcess[str]:
        engine = tmp_path / "engine"
        engine.write_text(ENGINE.format(name=name, ailing=ailing, code=code))
        engine.chmod(0o755)
        return subprocess.run(
            ["make", "CONTAINER_ENGINE=./engine", *arguments],
            cwd=tmp_path,
            # A make that runs these tests would have its own flags and variables be this one's, too.
            env={"PATH": os.environ["PATH"], **environ},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    return make


def the_one_line(done: subprocess.CompletedProcess[str]) -> str:
    """What was said beside make's own line that a command failed."""
    assert done.returncode != 0
    assert done.stdout == ""
    (line,) = [line for line in done.stderr.splitlines() if "***" not in line]
    return line


@pytest.mark.parametrize(
    "target", ["train-gpu", "train-container", "serve-container", "image", "image-serve", "sbom"]
)
def test_a_missing_engine_is_named(make: Make, target: str) -> None:
    """If it failed, a newcomer would read `command not found`, and not what to do about it."""
    line = the_one_line(make(target, "CONTAINER_ENGINE=no-such-engine"))
    assert "no-such-engine is not installed" in line
    assert "CONTAINER_ENGINE=podman" in line
    assert "make train" in line


def test_an_engine_that_does_not_run_is_named_with_its_reason(make: Make) -> None:
    """If it failed, a stopped daemon would look like a broken Dockerfile."""
    line = the_one_line(make("train-gpu", ailing="is the daemon running?"))
    assert "cannot be used (is the daemon running?)" in line


def test_a_missing_gpu_is_told_with_the_ways_on(make: Make) -> None:
    """If it failed, an image of gigabytes would be built before anyone hears that there is no GPU."""
    line = the_one_line(make("train-gpu", "GPU="))
    assert "no NVIDIA GPU" in line
    assert "BOW_REQUIRE_GPU=false" in line
    assert "make train-container" in line


def test_a_missing_recipe_is_told(make: Make) -> None:
    """If it failed, the image would be built before the mistyped name is noticed."""
    assert "there is no recipe none.env" in the_one_line(make("train-container", "RECIPE=none.env"))


@pytest.mark.parametrize("target", ["train", "train-gpu", "train-container", "profile"])
def test_a_recipe_line_that_would_be_ignored_is_refused(make: Make, tmp_path: Path, target: str) -> None:
    """If it failed, a run would take hours with other settings than its recipe seems to have."""
    for line in ("export BOW_EPOCHS=7", "BOW_EPOCHS =7", "BOW_EPOCHS"):
        (tmp_path / "my.env").write_text(f"# Mine.\n\n{line}\n")
        told = the_one_line(make(target, "GPU=/dev/nvidiactl", "RECIPE=my.env"))
        assert told.startswith("my.env:3: expected NAME=VALUE")
    (tmp_path / "my.env").write_text("BOW_EPOCHS=7\nBOW_SEED=1\n BOW_EPOCHS=9\n")
    told = the_one_line(make(target, "GPU=/dev/nvidiactl", "RECIPE=my.env"))
    assert told.startswith("my.env: expected each variable once, found BOW_EPOCHS in several lines")


@pytest.mark.parametrize("target", ["train", "train-gpu", "train-container"])
def test_a_set_variable_wins_over_the_recipe_and_the_recipe_over_make(
    make: Make, tmp_path: Path, target: str
) -> None:
    """If it failed, a bundle would be replaced against the recipe's word."""

    def settings(recipe: str, **environ: str) -> set[str]:
        (tmp_path / "my.env").write_text(recipe)
        done = make(target, "GPU=/dev/nvidiactl", "RECIPE=my.env", **environ)
        assert done.returncode == 0, done.stderr
        return set(done.stdout.splitlines())

    recipe = "# Mine.\n \t\n  BOW_RUN_NAME=a\nBOW_TEXT_COLUMN=x==\nBOW_OVERWRITE=false\nBOW_LOG_FORMAT=json"
    found = settings(recipe, BOW_RUN_NAME="b")
    asked = {"BOW_RUN_NAME=b", "BOW_TEXT_COLUMN=x==", "BOW_OVERWRITE=false", "BOW_LOG_FORMAT=json"}
    assert asked <= found
    assert {"BOW_OVERWRITE=true", "BOW_RUN_NAME=a"} <= settings("BOW_RUN_NAME=a")
    assert "BOW_OVERWRITE=no" in settings("BOW_OVERWRITE=false", BOW_OVERWRITE="no")


def test_make_trains_for_people_unless_the_recipe_says_otherwise(make: Make) -> None:
    """If it failed, a newcomer whose terminal is not seen would read JSON lines."""
    assert "BOW_LOG_FORMAT=console" in make("train").stdout.splitlines()


def test_the_recipe_says_whether_a_gpu_is_required(make: Make, tmp_path: Path) -> None:
    """If it failed, a recipe for machines with and without a GPU would be refused on the latter."""
    (tmp_path / "my.env").write_text("BOW_REQUIRE_GPU=false\n")
    done = make("train-gpu", "GPU=", "RECIPE=my.env")
    assert done.returncode == 0, done.stderr
    assert "BOW_REQUIRE_GPU=false" in done.stdout.splitlines()


@pytest.mark.parametrize(
    ("name", "flags"), [("docker", ["--gpus all"]), ("podman", ["--device nvidia.com/gpu=all"])]
)
def test_train_gpu_passes_the_gpus_on_and_requires_one(make: Make, name: str, flags: list[str]) -> None:
    """If it failed, a job on a machine with a GPU would train on its CPU."""
    done = make("train-gpu", "GPU=/dev/nvidiactl", name=name)
    asked = " ".join(done.stdout.split())
    for flag in (*flags, "--env NVIDIA_VISIBLE_DEVICES=all", "--env BOW_REQUIRE_GPU"):
        assert flag in asked
    assert "BOW_REQUIRE_GPU=true" in asked
    assert ("--gpus" in asked) == (name == "docker")
    # Root's podman has no other user to keep.
    assert ("--userns=keep-id" in asked) == (name == "podman" and os.geteuid() != 0)


def test_without_a_gpu_and_none_required_the_engine_is_asked_for_none(make: Make) -> None:
    """If it failed, the way out that the message names would end in the engine's own error."""
    done = make("train-gpu", "GPU=", BOW_REQUIRE_GPU="false")
    assert done.returncode == 0, done.stderr
    assert "--gpus" not in done.stdout
    assert "BOW_REQUIRE_GPU=false" in done.stdout


def test_train_container_asks_for_the_cpu_whatever_the_shell_has(make: Make) -> None:
    """If it failed, a setting for the cluster would keep the trial run on a laptop from starting."""
    done = make("train-container", BOW_REQUIRE_GPU="true", BOW_DEVICE="cuda:0")
    assert done.returncode == 0, done.stderr
    assert {"BOW_DEVICE=cpu", "BOW_REQUIRE_GPU=false"} <= set(done.stdout.splitlines())
    assert not {"--gpus", "--device"} & set(done.stdout.splitlines())


@pytest.mark.parametrize("target", ["train-gpu", "train-container"])
def test_the_container_is_locked_down_and_the_callers_own(make: Make, tmp_path: Path, target: str) -> None:
    """If it failed, the bundle would belong to root, or the job could write where it has no business."""
    done = make(target, "GPU=/dev/nvidiactl", "RUN_FLAGS=--memory 8g", BOW_EPOCHS="7")
    asked = " ".join(done.stdout.split())
    for flags in (
        "--read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges",
        f"--user {os.geteuid()}:{os.getegid()} --env HOME=/tmp",
        "--env-file recipes/tutorial.env",
        "--env BOW_EPOCHS",
        f"--volume {tmp_path}/data:/work/data:ro",
        f"--volume {tmp_path}/artifacts:/work/artifacts",
        "--memory 8g bowsprit",
    ):
        assert flags in asked
    assert "BOW_EPOCHS=7" in asked


@pytest.mark.parametrize(
    ("name", "build"), [("docker", "build --file"), ("podman", "build --format docker --file")]
)
def test_images_are_of_the_kind_that_has_a_health_check(make: Make, name: str, build: str) -> None:
    """If it failed, podman would drop the health check, or docker refuse a flag that it does not know."""
    for target in ("image", "image-serve"):
        (command,) = make("--dry-run", target, name=name).stdout.splitlines()[-1:]
        assert f"./engine {build} Dockerfile.cuda" in " ".join(command.split())


def test_serve_container_is_locked_down_and_answers_on_this_machine_alone(make: Make, tmp_path: Path) -> None:
    """If it failed, the server could write bundles, or whoever is in the same network could ask it."""
    done = make(
        "serve-container", "RUN_FLAGS=--memory 8g", BOW_SERVE_PORT="9000", BOW_SERVE_MODEL_NAME="mine"
    )
    assert done.returncode == 0, done.stderr
    asked = " ".join(done.stdout.split())
    for flags in (
        "--read-only --tmpfs /tmp --cap-drop ALL --security-opt no-new-privileges",
        f"--user {os.geteuid()}:{os.getegid()}",
        "--env BOW_SERVE_MODEL_NAME",
        "--env BOW_SERVE_HOST=0.0.0.0 --env BOW_SERVE_PORT=8080 --publish 127.0.0.1:9000:8080",
        f"--volume {tmp_path}/artifacts:/work/artifacts:ro --memory 8g bowsprit-serve serve artifacts/latest",
    ):
        assert flags in asked
    assert "127.0.0.1:8080:8080" in make("serve-container").stdout


@pytest.mark.parametrize("target", ["serve", "serve-container"])
def test_a_missing_bundle_is_told(make: Make, target: str) -> None:
    """If it failed, minutes of installing or building would come before the mistyped name is noticed."""
    line = the_one_line(make(target, "BUNDLE=artifacts/absent"))
    assert "there is no bundle artifacts/absent" in line
    assert "make train" in line


def test_a_job_that_fails_is_not_taken_for_an_engine_that_does(make: Make) -> None:
    """If it failed, a wrong setting would send the user to look for the container toolkit."""
    failed, unstarted = (make("train-gpu", "GPU=/dev/nvidiactl", code=code) for code in (2, 125))
    assert failed.returncode != 0
    assert "could not start" not in failed.stderr
    assert "could not start the container" in unstarted.stderr
    assert "NVIDIA container toolkit" in unstarted.stderr
