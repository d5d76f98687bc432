"""`make benchmark`: every contender on every task, in turns, and a report of what came out."""

import argparse
import json
import shlex
import sys
from pathlib import Path
from typing import Any

from benchmarks import corpus, gpu, limits, plots, process, report
from benchmarks.contenders import CONTENDERS, FEW_ROWS, FOR_FEW_ROWS, NGRAM_CONTENDERS, SCALED
from benchmarks.convert import write
from benchmarks.task import Task
from serving.cores import usable_cores

ROOT = Path(__file__).parents[1]
ROUNDS = 5
SLOWEST = 120.0
"""Seconds: a contender that takes longer than this on a task is not run there again."""


def main() -> None:
    """Runs what the arguments ask for; writes results.json, results.md and the plots into the folder."""
    arguments = _arguments()
    without_gpu = gpu.reason_for_none()
    if without_gpu is not None:
        arguments.contenders = [name for name in arguments.contenders if not name.endswith("GPU")]
    arguments.folder.mkdir(parents=True, exist_ok=True)
    tasks = [_task(arguments.folder / "tasks", named) for named in arguments.data]
    tasks += [
        _generated(arguments.folder / "tasks", tokens=arguments.tokens, num_labels=labels)
        for labels in arguments.labels
    ]
    failed: dict[str, str] = {}
    results: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]),
        "machine": limits.machine(arguments.threads),
        "limits": limits.measure(arguments.threads),
        "gpu": {"not_measured": without_gpu} if without_gpu is not None else gpu.limits(),
        "tasks": {
            task.name: _compete(task, arguments.contenders, arguments.threads, arguments.rounds, failed)
            for task in tasks
        },
        "failed": failed,
        "labels": {task.name: task.num_labels for task in tasks},
        "scale": _scaled(arguments.folder / "tasks", arguments, failed),
    }
    (arguments.folder / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    table = report.markdown(results)
    (arguments.folder / "results.md").write_text(table)
    plots.plot(results, arguments.folder)
    sys.stdout.write(table)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--data", nargs="*", default=[], metavar="NAME=TRAIN,TEST", help="files that the job can read"
    )
    parser.add_argument("--tokens", type=int, default=5_000_000, help="of each generated task")
    parser.add_argument("--labels", type=int, nargs="*", default=[2], help="a generated task for each number")
    parser.add_argument("--scale", type=float, nargs="*", default=[], help="tokens, for time against tokens")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--threads", type=int, default=usable_cores())
    every = [*CONTENDERS, *NGRAM_CONTENDERS]
    parser.add_argument("--contenders", nargs="*", default=None, choices=every)
    parser.add_argument(
        "--ngrams", action="store_true", help="let those compete whose features are more than tokens"
    )
    parser.add_argument("--folder", type=Path, default=ROOT / "artifacts" / "benchmark")
    arguments = parser.parse_args()
    if arguments.contenders is None:
        arguments.contenders = list(NGRAM_CONTENDERS if arguments.ngrams else CONTENDERS)
    return arguments


def _task(folder: Path, named: str) -> Task:
    name, _, locations = named.partition("=")
    train, _, test = locations.partition(",")
    return write(folder / name, {"train": train, "test": test})


def _generated(folder: Path, *, tokens: int, num_labels: int) -> Task:
    source = folder / f"generated-{num_labels}-labels-{tokens:.0e}-tokens"
    if not (source / "test.vw").exists():
        corpus.generate(source / "source", num_tokens=tokens, num_labels=num_labels)
        write(source, {part: str(source / "source" / f"{part}.tsv") for part in ("train", "test")})
    return Task(folder=source)


def _compete(
    task: Task, names: list[str], num_threads: int, rounds: int, failed: dict[str, str]
) -> dict[str, list[dict[str, Any]]]:
    """The figures of each round by contender; all run once a round, so that a slow moment meets all.

    A peer that fails is left out, and `failed` then says why.
    """
    if len(task.rows("train")[1]) > FEW_ROWS:
        names = [name for name in names if name not in FOR_FEW_ROWS]
    figures: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            if any(each["whole"] > SLOWEST for each in figures[name]):
                continue
            try:
                figures[name].append(_run(name, task, num_threads))
            except process.FailedError as error:
                if name.startswith(report.OWN):
                    raise
                failed[f"{name} on {task.name}"] = error.reason
                sys.stderr.write(f"{task.name}, {name}: failed ({error.reason})\n")
                names = [each for each in names if each != name]
    return {name: figures[name] for name in names}


def _scaled(folder: Path, arguments: argparse.Namespace, failed: dict[str, str]) -> list[dict[str, Any]]:
    """The figures by size: the peers' of one round, our own of all, since their growth is a ratio to measure.

    The sizes take turns.
    """
    tasks = {
        int(tokens): _generated(folder, tokens=int(tokens), num_labels=report.SCALE_LABELS)
        for tokens in arguments.scale
    }
    names = [name for name in arguments.contenders if name in SCALED]
    figures = {tokens: _compete(task, names, arguments.threads, 1, failed) for tokens, task in tasks.items()}
    for _ in range(1, arguments.rounds if report.OWN in names else 1):
        for tokens, task in tasks.items():
            again = _compete(task, [report.OWN], arguments.threads, 1, failed)
            figures[tokens][report.OWN] += again[report.OWN]
    return [{"tokens": tokens, "contenders": contenders} for tokens, contenders in figures.items()]


def _run(name: str, task: Task, num_threads: int) -> dict[str, Any]:
    """One contender in a process of its own, with so many threads in whatever library it uses."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(num_threads))
    written = process.run(
        ["benchmarks.child", name, str(task.folder), str(num_threads)],
        process.without_settings() | threads,
        f"{name} on {task.name}",
    )
    found: dict[str, Any] = json.loads(written.splitlines()[-1])
    sys.stderr.write(
        f"{task.name}, {name}: {found['file_to_model']:.2f} s, accuracy {found['accuracy']:.4f}\n"
    )
    return found


if __name__ == "__main__":
    main()
