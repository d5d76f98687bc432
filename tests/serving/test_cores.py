"""How many cores a process may use."""

import math
import os
from pathlib import Path

import pytest

from serving import cores
from serving.cores import usable_cores


def test_usable_cores_keep_within_the_affinity() -> None:
    """If it failed, training would start more threads than the scheduler granted cores."""
    assert 1 <= usable_cores() <= len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, math.inf),
        ({"cpu.max": "max 100000\n"}, math.inf),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"pods/cpu.max": "400000 100000\n", "pods/one/cpu.max": "max 100000\n"}, 4),
        ({"pods/cpu.max": "400000 100000\n", "pods/one/cpu.max": "200000 100000\n"}, 2),
    ],
)
def test_the_containers_cpu_limit_is_the_lowest_on_the_way_up(
    files: dict[str, str], expected: float, tmp_path: Path
) -> None:
    """If it failed, a container with half a CPU on a large node would run with a thread per core."""
    (tmp_path / "membership").write_text("0::/pods/one\n")
    root = tmp_path / "cgroup"
    (root / "pods/one").mkdir(parents=True)
    for name, text in files.items():
        (root / name).write_text(text)
    assert cores._cgroup_cores(tmp_path / "membership", root) == expected
