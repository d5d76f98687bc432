"""Kills the job at each step that it takes in its output folder, and tells what was left there each time.

A process of its own, which forks for every run: `python killed_job.py FOLDER CASE... [--whole]` prints a JSON
line a kill. A CASE is `fresh` (there is no bundle yet), `exchange` (one of other settings is overwritten) or
`renames` (the same where two names cannot be exchanged in one step).

With --whole every run is the whole job and every bundle is verified in full. Without, the files that the
stages before publishing write are made once, and a bundle is known by its hashes.
"""

import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from itertools import count
from pathlib import Path
from typing import Any, Self

import structlog
import torch

import export.bundle
import job.run
from export import publish
from export.onnx_file import OnnxFile
from job.environment import load_settings
from job.telling.output import Output
from serving.bundle import FILES, check_files, open_bundle
from serving.errors import ArtifactError
from serving.parity.rungs import Rung, check
from serving.parity.verify import verify

NAME = "run"
CHANGES = {
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.mkdir",
    "os.symlink",
    "os.link",
    "os.chmod",
    "os.truncate",
}
"""What Python tells an audit hook before it changes a folder."""


class InTurn:
    """A pool that does at once what it is given, so that the n-th step is the same one in every run."""

    def __init__(self, _num_threads: int) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, do: Callable[..., Any], *arguments: Any) -> "Future[Any]":
        done: Future[Any] = Future()
        done.set_result(do(*arguments))
        return done


class Steps:
    """Counts the steps of this process in the output folder, and kills it before the n-th."""

    def __init__(self, output_dir: Path, kill_at: int | None, names: Path) -> None:
        self.output_dir, self.kill_at, self.taken = str(output_dir), kill_at, 0
        self.names = names

    def watch(self, *, exchange: bool) -> None:
        """From here on, for the rest of this process's life."""
        sys.addaudithook(self._on_event)
        self._before(os, "fsync")
        if exchange:
            self._before(publish, "_exchange")
        else:
            publish._exchange = lambda *_: False

        def in_two_parts(path: Path, data: bytes) -> int:
            with path.open("wb") as file:
                file.write(data[: len(data) // 2])
                file.flush()
                self.take(f"write half of {path.name}")
                return file.write(data[len(data) // 2 :])

        export.bundle.ThreadPoolExecutor = InTurn  # type: ignore[assignment, misc]
        Path.write_bytes = in_two_parts  # type: ignore[assignment, method-assign]
        OnnxFile.write = lambda file, path: in_two_parts(path, file.to_bytes())  # type: ignore[assignment, method-assign, return-value]

    def take(self, name: str) -> None:
        if self.kill_at is not None and self.taken == self.kill_at:
            self.names.write_text(name)
            os.kill(os.getpid(), signal.SIGKILL)
        self.taken += 1

    def _before(self, module: Any, name: str) -> None:
        original: Callable[..., Any] = getattr(module, name)

        def stepped(*arguments: Any) -> Any:
            self.take(name)
            return original(*arguments)

        setattr(module, name, stepped)

    def _on_event(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in CHANGES and event != "open":
            return
        path = os.fsdecode(arguments[0]) if isinstance(arguments[0], str | bytes | os.PathLike) else ""
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
            return
        # shutil.rmtree names what it removes within folders that it holds open.
        if path.startswith(self.output_dir) or (event in ("os.remove", "os.rmdir") and "/" not in path):
            self.take(f"{event} {Path(path).name}")


def run(output_dir: Path, seed: int) -> None:
    environ = {
        "BOW_TRAIN_DATA": "tutorial",
        "BOW_OUTPUT_DIR": str(output_dir),
        "BOW_RUN_NAME": NAME,
        "BOW_OVERWRITE": "true",
        "BOW_DEVICE": "cpu",
        "BOW_NUM_THREADS": "1",
        "BOW_INIT": "uniform",
        "BOW_SEED": str(seed),
    }
    job.run.run(load_settings(environ), Output(for_people=False))


def in_child(do: Callable[[], None]) -> int:
    """Runs it in a child process; 0 where it came to its end, -9 where it was killed."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            do()
            code = 0
        except BaseException:  # noqa: BLE001 - a forked child must never come back
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def record_stages(output_dir: Path) -> None:
    """Makes what comes before publishing instant: every seed's files are made once, in memory."""
    whole_climb, whole_write = job.run.climb_all, job.run.write_model
    made: dict[int, tuple[dict[str, bytes], list[Rung]]] = {}
    for seed in (1, 2):
        folder = output_dir / f"made-{seed}"

        def keep_files(into: Path, *rest: Any) -> None:
            whole_write(into, *rest)
            shutil.copytree(into, folder)  # noqa: B023 - called within this turn of the loop

        def keep_rungs(*arguments: Any, **named: Any) -> list[Rung]:
            rungs[:] = whole_climb(*arguments, **named)  # noqa: B023
            return rungs  # noqa: B023

        rungs: list[Rung] = []
        job.run.write_model, job.run.climb_all = keep_files, keep_rungs
        run(output_dir / f"whole-{seed}", seed)
        check(verify(output_dir / f"whole-{seed}" / NAME).rungs, f"seed {seed}")
        made[seed] = {path.name: path.read_bytes() for path in folder.iterdir()}, rungs

    def write_made(into: Path, model: Any, parameters: Any, provenance: Any) -> None:
        for name, content in made[provenance.settings["seed"]][0].items():
            (into / name).write_bytes(content)

    def made_rungs(
        folder: Path, model: Any, parameters: Any, provenance: Any, *_: Any, **__: Any
    ) -> list[Rung]:
        return made[provenance.settings["seed"]][1]

    job.run.write_model, job.run.climb_all = write_made, made_rungs


def state(path: Path, known: dict[str, str], *, whole: bool) -> str:
    """`old` or `new` for a bundle that verify accepts, `unknown` for another one, else why there is none."""
    if not os.path.lexists(path):
        return "absent"
    try:
        bundle = open_bundle(path)
        check_files(bundle)
        if whole:
            check(verify(path).rungs, str(path))
    except ArtifactError:
        return "rejected" if path.is_dir() else "absent"
    # The rest of a verdict follows from these files, and was found out once.
    return known.get(bundle.bundle_id, "unknown") if (path / FILES.run).is_file() else "unknown"


def main(folder: Path, cases: list[str], *, whole: bool) -> None:
    torch.set_num_threads(1)
    if not whole:
        # What a process has written outlives it: only a machine that fails loses what was not synced.
        os.fsync = lambda _: None
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    if whole:
        for seed in (1, 2):
            assert in_child(lambda: run(folder / f"whole-{seed}", seed)) == 0  # noqa: B023
    else:
        record_stages(folder)
    known = {
        open_bundle(folder / f"whole-{seed}" / NAME).bundle_id: word
        for seed, word in ((1, "old"), (2, "new"))
    }
    for case in cases:
        for record in kills(folder / case, case, known, whole=whole):
            sys.stdout.write(json.dumps({"case": case} | record) + "\n")


def kills(folder: Path, case: str, known: dict[str, str], *, whole: bool) -> Iterator[dict[str, Any]]:
    """Kills the job before each of its steps, and tells what was left; the last time it comes to its end."""
    base, output_dir, name = folder / "base", folder / "out", folder / "step"
    base.mkdir(parents=True)
    if case != "fresh":
        assert in_child(lambda: run(base, 1)) == 0

    def run_until(kill_at: int | None) -> None:
        Steps(output_dir, kill_at, name).watch(exchange=case != "renames")
        run(output_dir, 2)

    code = -signal.SIGKILL
    for kill_at in count():
        if code != -signal.SIGKILL:
            return
        shutil.rmtree(output_dir, ignore_errors=True)
        shutil.copytree(base, output_dir, symlinks=True)
        code = in_child(lambda: run_until(kill_at))  # noqa: B023
        # Files, such as the lock of a run's name, cannot be taken for bundles.
        folders = [path for path in output_dir.iterdir() if path.is_dir()]
        found = {path.name: state(path, known, whole=whole) for path in folders}
        for path in [*output_dir.glob(".staging-*/*"), *output_dir.glob(".staging-*/replaced/*")]:
            if (path / FILES.manifest).is_file():
                found[str(path.relative_to(output_dir))] = state(path, known, whole=whole)
        again = in_child(lambda: run_until(None))
        yield {
            "code": code,
            "before": name.read_text() if code == -signal.SIGKILL else None,
            "run": found.pop(NAME, "absent"),
            "latest": found.pop(publish.LATEST, "absent"),
            "others": found,
            "again": again,
            "latest again": state(output_dir / publish.LATEST, known, whole=whole),
            "left": sorted({path.name for path in output_dir.iterdir()} - {NAME, publish.LATEST}),
        }


if __name__ == "__main__":
    options = sys.argv[2:]
    main(Path(sys.argv[1]), [case for case in options if case != "--whole"], whole="--whole" in options)
