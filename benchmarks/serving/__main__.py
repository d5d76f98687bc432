"""`make benchmark-serving`: our server beside its peers, all in turns, and the library beside fastText."""

import argparse
import json
import shlex
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks import limits, process
from benchmarks.serving import environments, load, report
from benchmarks.serving.check import check
from benchmarks.serving.load import LOADS, Load, LoadError, Measured
from benchmarks.serving.prepare import Material, bodies, prepare
from benchmarks.serving.servers import ONE_THREAD, OWN, Contender, Running, contenders, environ, running
from serving.cores import usable_cores

ROOT = Path(__file__).parents[2]
ROUNDS, SECONDS = 5, 5
WARM_UP = 1
"""Seconds of load before the clock runs, each time that a server gets its turn."""
SHORTEST = 0.8
"""Of the mean size of the answers that were checked: those under load must not be shorter."""

Rounds = list[dict[Load, dict[str, dict[str, float]]]]
"""By round, load and server: what was measured."""


def main() -> None:
    """Runs what the arguments ask for; writes serving.json and serving.md."""
    arguments = _arguments()
    chosen = _contenders(arguments)
    load.install()
    material = prepare(arguments.folder, arguments.data, arguments.recipe)
    sizes = {each.name: _checked(each, material, arguments.folder) for each in chosen}
    served: Rounds = []
    in_process = []
    for number in range(1, arguments.rounds + 1):
        sys.stderr.write(f"round {number} of {arguments.rounds}\n")
        served.append(_round(chosen, material, sizes, arguments.seconds))
        if arguments.in_process:
            in_process.append(_in_process(material))
    results = _results(arguments, chosen, material, served) | {"in_process": in_process}
    folder: Path = arguments.results or arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "serving.json").write_text(json.dumps(results, indent=1) + "\n")
    (folder / "serving.md").write_text(report.markdown(results))
    report.show(results, Console(width=None if sys.stdout.isatty() else report.WIDTH))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument(
        "--data",
        nargs=2,
        metavar=("TRAIN", "TEST"),
        help="files that the job can read; else texts in 77 labels are drawn",
    )
    parser.add_argument("--recipe", type=Path, help="settings that the model is trained with")
    every = [OWN, *environments.REQUIREMENTS]
    parser.add_argument("--contenders", nargs="*", default=every, choices=every)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--seconds", type=int, default=SECONDS, help="of a server's turn under one load")
    parser.add_argument(
        "--no-in-process", dest="in_process", action="store_false", help="leave out the library and fastText"
    )
    parser.add_argument("--folder", type=Path, default=ROOT / "artifacts" / "benchmark-serving")
    parser.add_argument("--results", type=Path, help="where serving.json and serving.md go, if not to FOLDER")
    return parser.parse_args()


def _contenders(arguments: argparse.Namespace) -> list[Contender]:
    """Those that were asked for, with their environments."""
    arguments.folder.mkdir(parents=True, exist_ok=True)
    features = "counts" if arguments.recipe is None else "ngrams"
    every = contenders(arguments.folder, features=features)
    chosen = [every[name] for name in arguments.contenders]
    for each in chosen:
        if each.environment is not None:
            environments.ensure(each.environment)
    return chosen


def _checked(contender: Contender, material: Material, folder: Path) -> dict[int, float]:
    """The mean size of a server's answers, which were compared with what they should be."""
    contender.prepare(material)
    with running(contender, material, log=folder / f"{contender.environment or OWN}.log") as server:
        sizes = check(server, material)
    told = ", ".join(f"{size:,.0f} bytes for {texts}" for texts, size in sizes.items())
    sys.stderr.write(f"{contender.name}: its answers are right ({told})\n")
    return sizes


def _round(
    chosen: Sequence[Contender], material: Material, sizes: dict[str, dict[int, float]], seconds: int
) -> dict[Load, dict[str, dict[str, float]]]:
    """Every server, started anew, under every load; the servers take turns under each."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers = []
        for contender in chosen:
            servers.append(stack.enter_context(running(contender, material)))
            servers[-1].pause()
        return {
            each: {
                server.contender.name: _turn(server, each, material, folder, sizes, seconds)
                for server in servers
            }
            for each in LOADS
        }


def _turn(
    server: Running,
    each: Load,
    material: Material,
    folder: Path,
    sizes: dict[str, dict[int, float]],
    seconds: int,
) -> dict[str, float]:
    """One server under one load, while the others have no processor."""
    name = server.contender.name
    requests = folder / "requests"
    requests.write_bytes(
        b"\n".join(bodies(material.texts, each.texts, outputs=server.contender.outputs)) + b"\n"
    )
    server.go_on()
    try:
        load.put(server.url, requests, connections=each.connections, seconds=WARM_UP)
        before = server.cpu_seconds()
        found = load.put(server.url, requests, connections=each.connections, seconds=seconds)
        cpu = server.cpu_seconds() - before
    except LoadError as error:
        sys.exit(f"{name} failed under {each}: {error}")
    server.pause()
    check_size(found, sizes[name][each.texts], f"{name} under {each}")
    sys.stderr.write(
        f"{name}, {each}: {found.rate:,.0f} requests/s, p50 {1e3 * found.p50:.2f} ms, "
        f"p99 {1e3 * found.p99:.2f} ms\n"
    )
    return asdict(found) | {"rate": found.rate, "cpu": cpu / found.requests}


def check_size(found: Measured, size: float, where: str) -> None:
    """wrk takes any answer below status 400 for a good one; what is much shorter is another answer."""
    mean = found.received / found.requests
    if mean < SHORTEST * size:
        sys.exit(f"{where}: answers of {mean:,.0f} bytes on average; those that were checked had {size:,.0f}")


def _in_process(material: Material) -> dict[str, dict[str, float]]:
    """The library and fastText in a process of their own, on one thread."""
    command = ["benchmarks.serving.in_process", str(material.bundle.path), str(material.task.folder)]
    written = process.run(command, environ() | ONE_THREAD, f"python -m {shlex.join(command)}")
    found: dict[str, dict[str, float]] = json.loads(written.splitlines()[-1])
    told = ", ".join(f"{name} {1e6 * each['one']:.1f} µs" for name, each in found.items())
    sys.stderr.write(f"one text in process: {told}\n")
    return found


def of_any_machine(words: Sequence[str]) -> list[str]:
    """A command's words without the folders of this machine."""
    return [Path(word).name if Path(word).is_absolute() else word for word in words]


def _results(
    arguments: argparse.Namespace, chosen: Sequence[Contender], material: Material, served: Rounds
) -> dict[str, Any]:
    manifest = material.bundle.manifest
    return {
        "command": shlex.join(["python", "-m", "benchmarks.serving", *of_any_machine(sys.argv[1:])]),
        "machine": limits.machine(usable_cores()),
        "generator": load.generator(),
        "rounds": arguments.rounds,
        "seconds": arguments.seconds,
        "data": {
            "name": material.task.name,
            "labels": len(manifest.labels),
            "features": manifest.vocabulary_size,
            "recipe": arguments.recipe and arguments.recipe.name,
            "characters": statistics.mean(map(len, material.texts)),
        },
        "versions": {each.name: environments.versions(each.python) for each in chosen},
        "loads": [
            asdict(each)
            | {"contenders": {one.name: [found[each][one.name] for found in served] for one in chosen}}
            for each in LOADS
        ],
    }


if __name__ == "__main__":
    main()
