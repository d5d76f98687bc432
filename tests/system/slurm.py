"""A Slurm of one node, which the tests start and end themselves."""

import contextlib
import os
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.system.conftest import has_installed

PROGRAMS = {
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "sbatch": "slurm-client",
    "munged": "munge",
    "unshare": "util-linux",
}
"""What this module calls, each with Debian's package of it."""

# The node claims what the script asks for, whatever this machine has.
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort={controller_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
PropagateResourceLimits=NONE
ReturnToService=2
GresTypes=gpu
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={node_port} CPUs=8 RealMemory=65536 Gres=gpu:1
PartitionName=main Nodes=n1 Default=YES MaxTime=INFINITE PriorityTier=1
PartitionName=urgent Nodes=n1 MaxTime=INFINITE PriorityTier=2
"""


def missing_package() -> str | None:
    """The first Debian package that is not here and could not be installed either."""
    for program, package in PROGRAMS.items():
        if not has_installed(program, package=package):
            return package
    return None


class Slurm:
    """The commands of a running Slurm."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith("BOW_")}
        self.environ["SLURM_CONF"] = str(folder / "slurm.conf")

    def __call__(self, *command: str, **environ: str) -> str:
        """What a command says, which must succeed."""
        done = subprocess.run(
            command, env=self.environ | environ, cwd=self._folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}{self.logs()}"
        return done.stdout

    def submit(self, script: Path, folder: Path, *options: str, **environ: str) -> str:
        """The ID of a job that runs a script in a folder, where its log is job.log."""
        said = self(
            *("sbatch", "--parsable", f"--chdir={folder}", f"--output={folder}/job.log"),
            *(*options, str(script)),
            **environ,
        )
        return said.strip()

    def job(self, number: str) -> dict[str, str]:
        """What Slurm has on record about a job."""
        shown = self("scontrol", "--oneliner", "show", "job", number)
        return dict(field.split("=", 1) for field in shown.split() if "=" in field)

    def wait(self, number: str, *states: str, seconds: float = 90) -> dict[str, str]:
        """A job's record once it is in one of some states."""
        deadline = time.monotonic() + seconds
        while (record := self.job(number))["JobState"] not in states:
            log = Path(record["StdOut"])
            said = log.read_text() if log.exists() else ""
            assert time.monotonic() < deadline, f"{record}\n{said}{self.logs()}"
            time.sleep(0.2)
        return record

    def is_idle(self) -> bool:
        """Whether the node waits for jobs."""
        done = subprocess.run(
            ["sinfo", "--noheader", "--partition=main", "--format=%T"],
            env=self.environ,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout.strip() == "idle"

    def logs(self) -> str:
        """The end of what each of its processes has said."""
        return "".join(f"\n{log}:\n{log.read_text()[-3000:]}" for log in sorted(self._folder.glob("*.log")))


@contextlib.contextmanager
def running_slurm(folder: Path) -> Iterator[Slurm]:
    """Slurm on free ports, with all that it has in a folder; at the end no process of it is left."""
    for name in ("state", "spool"):
        (folder / name).mkdir()
    host = socket.gethostname().partition(".")[0]
    ports = free_ports(2)
    text = CONFIGURATION.format(folder=folder, host=host, controller_port=ports[0], node_port=ports[1])
    (folder / "slurm.conf").write_text(text)
    # A device that is everywhere stands in for a GPU's, which Slurm only counts.
    (folder / "gres.conf").write_text("NodeName=n1 Name=gpu File=/dev/null\n")
    (folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(1024))
    files = {"key": "key", "socket": "socket", "pid": "pid-file", "log": "log-file", "seed": "seed-file"}
    munged = " ".join(f"--{option}={folder}/munge.{name}" for name, option in files.items())
    slurm = Slurm(folder)
    # The kernel ends every process of a PID namespace with the first one of it, and this one with the tests.
    inside = f"munged --force {munged} && {{ slurmctld -D & slurmd -D -N n1 & wait; }}"
    with (folder / "daemons.log").open("w") as log:
        daemons = subprocess.Popen(
            [
                *("setpriv", "--pdeathsig", "KILL"),
                *("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "bash", "-c", inside),
            ],
            env=slurm.environ,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + 60
        while not slurm.is_idle():
            assert daemons.poll() is None, slurm.logs()
            assert time.monotonic() < deadline, slurm.logs()
            time.sleep(0.2)
        yield slurm
    finally:
        daemons.kill()
        daemons.wait()


def free_ports(number: int) -> list[int]:
    """Ports that nothing listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
