"""The servers that are compared: how each is started, and what it is asked."""

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.serving import environments
from benchmarks.serving.prepare import Material

ROOT = Path(__file__).parents[2]
PEERS = Path(__file__).with_name("peers")
OWN, BARE, KSERVE, MLSERVER = "bowsprit", "bare Starlette app", "KServe SDK", "mlserver, scikit-learn"
READY_SECONDS = 120
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A server, one worker of it."""

    name: str
    command: Callable[[Material, int], list[str]]
    """By what it serves and its port."""
    environ: Callable[[int], dict[str, str]] = lambda _: {}
    """By its port."""
    python: Path = Path(sys.executable)
    environment: str | None = None
    """The virtual environment that it needs; None for our own."""
    prepare: Callable[[Material], None] = lambda _: None
    """What it needs before it can start, once."""
    outputs: tuple[str, ...] = ()
    """What is asked for; where empty, it gives log-probabilities and labels without being asked."""
    log_probs: bool = True
    """It runs our model; else it has one of its own, and gives probabilities."""
    infer: str = "/v2/models/bowsprit/infer"
    ready: str = "/v2/health/ready"


def contenders(folder: Path, *, features: str) -> dict[str, Contender]:
    """By a short name; ours first.

    folder: where a model of another kind is kept; features: which features that one has, counts or ngrams.
    """
    repository = folder / "mlserver"

    def fit_pipeline(material: Material) -> None:
        train = material.task.path("train", "tsv")
        command = [
            *(str(environments.python("mlserver")), str(PEERS / "mlserver_fit.py")),
            *(str(train), str(repository), features),
        ]
        subprocess.run(command, check=True)

    every = (
        Contender(
            name=OWN,
            command=lambda material, _: ["-m", "serving", "serve", str(material.bundle.path)],
            environ=lambda port: {"BOW_SERVE_PORT": str(port)},
        ),
        Contender(
            name=BARE,
            command=lambda material, port: [str(PEERS / "bare.py"), str(material.model), str(port)],
            python=environments.python("bare"),
            environment="bare",
        ),
        Contender(
            name=KSERVE,
            command=lambda material, port: [
                *(str(PEERS / "kserve_model.py"), str(material.model), "--http_port", str(port)),
            ],
            python=environments.python("kserve"),
            environment="kserve",
        ),
        Contender(
            name=MLSERVER,
            command=lambda _material, _port: [
                *(str(environments.python("mlserver").with_name("mlserver")), "start", str(repository)),
            ],
            environ=_mlserver_environ,
            python=environments.python("mlserver"),
            environment="mlserver",
            prepare=fit_pipeline,
            # For labels as well it would run the pipeline a second time.
            outputs=("predict_proba",),
            log_probs=False,
        ),
    )
    return {each.environment or OWN: each for each in every}


def _mlserver_environ(port: int) -> dict[str, str]:
    settings = {
        "HOST": "127.0.0.1",
        "HTTP_PORT": str(port),
        "GRPC_PORT": str(free_port()),
        "METRICS_PORT": str(free_port()),
        "DEBUG": "false",  # else it writes an access log
        "PARALLEL_WORKERS": "0",  # the model runs in the process that answers, as with the others
    }
    return {f"MLSERVER_{name}": value for name, value in settings.items()}


@dataclass(frozen=True, kw_only=True)
class Running:
    """A server that runs, as the leader of a process group."""

    contender: Contender
    port: int
    process: "subprocess.Popen[bytes]" = field(repr=False)

    @property
    def url(self) -> str:
        """Where it takes requests."""
        return f"http://127.0.0.1:{self.port}{self.contender.infer}"

    def pause(self) -> None:
        """Takes the processor from it, so that it cannot disturb another one's turn."""
        os.killpg(self.process.pid, signal.SIGSTOP)

    def cpu_seconds(self) -> float:
        """The processor time that it has taken, threads and other processes of its group among it."""
        ticks = 0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):  # one that has ended meanwhile
                _, _, after_name = stat.read_text().rpartition(") ")
                fields = after_name.split()
                if int(fields[2]) == self.process.pid:
                    ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def go_on(self) -> None:
        """Gives the processor back."""
        os.killpg(self.process.pid, signal.SIGCONT)


@contextmanager
def running(contender: Contender, material: Material, *, log: Path | None = None) -> Iterator[Running]:
    """Starts a server and waits until it is ready; what it writes goes into `log`, or nowhere.

    Ends the program where the server ends, or is not ready in two minutes.
    """
    port = free_port()
    with (log or Path(os.devnull)).open("wb") as output:
        process = subprocess.Popen(
            [str(contender.python), *contender.command(material, port)],
            cwd=ROOT if contender.environment is None else material.task.folder,
            env=environ() | ONE_THREAD | contender.environ(port),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        _wait(contender, process, port, log)
        yield Running(contender=contender, port=port, process=process)
    finally:
        _end(process)


def environ() -> dict[str, str]:
    """This process's environment without what would change a contender's settings."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("BOW_", "MLSERVER_", "PYTHONPATH"))
    }


def _wait(contender: Contender, process: "subprocess.Popen[bytes]", port: int, log: Path | None) -> None:
    limit = time.monotonic() + READY_SECONDS
    while time.monotonic() < limit and process.poll() is None:
        try:
            if get(port, contender.ready) == 200:
                return
        except OSError:
            pass
        time.sleep(0.05)
    ended = "is not ready" if process.poll() is None else f"ended with exit code {process.returncode}"
    written = "" if log is None else f":\n{log.read_text(errors='replace')[-4000:]}"
    raise SystemExit(f"{contender.name} {ended}{written}")


def get(port: int, path: str) -> int:
    """The status of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Ends the whole group, also where it is paused: the measurement is over."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
