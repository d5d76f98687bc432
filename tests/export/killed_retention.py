"""Kills the removal of old bundles at each of its steps, and tells what was left there each time.

A process of its own, which forks for every removal: `python killed_retention.py FOLDER` prints a JSON line a
kill. FOLDER/base is an output folder of bundles.
"""

import json
import shutil
import signal
import sys
from itertools import count
from pathlib import Path

from export.publish import LATEST, alone, prepare_folder
from export.retention import remove_old
from serving.bundle import check_files, open_bundle
from serving.errors import ArtifactError
from tests.export.killed_job import Steps, in_child


def is_whole(bundle: Path) -> bool:
    try:
        check_files(open_bundle(bundle))
    except ArtifactError:
        return False
    return True


def remove(output_dir: Path, step: Path, kill_at: int | None) -> None:
    Steps(output_dir, kill_at, step).watch(exchange=True)
    prepare_folder(output_dir)
    with alone(output_dir):
        remove_old(output_dir, 2, output_dir / "newest")


def main(folder: Path) -> None:
    output_dir, step = folder / "out", folder / "step"
    for kill_at in count():
        shutil.rmtree(output_dir, ignore_errors=True)
        shutil.copytree(folder / "base", output_dir, symlinks=True)
        code = in_child(lambda: remove(output_dir, step, kill_at))  # noqa: B023
        named = sorted(path.name for path in output_dir.iterdir() if not path.name.startswith("."))
        broken = [name for name in named if not is_whole(output_dir / name)]
        again = in_child(lambda: remove(output_dir, step, None))
        record = {
            "code": code,
            "before": step.read_text() if code == -signal.SIGKILL else None,
            "named": [name for name in named if name != LATEST],
            "broken": broken,
            "again": again,
            "left": sorted(path.name for path in output_dir.iterdir()),
        }
        sys.stdout.write(json.dumps(record) + "\n")
        if code != -signal.SIGKILL:
            return


if __name__ == "__main__":
    main(Path(sys.argv[1]))
