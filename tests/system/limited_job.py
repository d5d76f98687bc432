"""Runs the job in this process with a limit to its memory: `python limited_job.py LIMIT`.

LIMIT is in bytes of the process's own memory, that is without what is mapped from files, or `none`. The last
line that it prints is the most that there was.
"""

import os
import resource
import sys
import threading
import time
from pathlib import Path

from job.environment import load_settings
from job.run import run
from job.telling.output import Output
from serving.errors import BowspritError


def own_memory() -> int:
    """Bytes that RLIMIT_DATA counts."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("there is no VmData in /proc/self/status")


def main(limit: str) -> None:
    if limit != "none":
        resource.setrlimit(resource.RLIMIT_DATA, (int(limit), int(limit)))
    peak = [0]

    def watch() -> None:
        while True:
            peak[0] = max(peak[0], own_memory())
            time.sleep(0.005)

    threading.Thread(target=watch, daemon=True).start()
    try:
        run(load_settings(os.environ), Output(for_people=False))
    except BowspritError as error:
        sys.exit(str(error))
    sys.stdout.write(f"{peak[0]}\n")


if __name__ == "__main__":
    main(sys.argv[1])
