"""The processor cores that there are to use."""

import math
import os
from pathlib import Path


def usable_cores() -> int:
    """The CPU cores that this process may use: its affinity, and its container's limit rounded up."""
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = _cgroup_cores(Path("/proc/self/cgroup"), Path("/sys/fs/cgroup"))
    return math.ceil(min(affinity, limit))


def _cgroup_cores(membership: Path, root: Path) -> float:
    """The CPU limit of the process's control group (version 2) and of those above it; infinite if none."""
    own = next((line[3:] for line in _lines(membership) if line.startswith("0::")), "/")
    group = root / own.strip("/")
    limits = [math.inf]
    for folder in (group, *group.parents):
        if folder.is_relative_to(root):
            for line in _lines(folder / "cpu.max"):
                quota, period = line.split()
                if quota != "max":
                    limits.append(int(quota) / int(period))
    return min(limits)


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.is_file() else []
