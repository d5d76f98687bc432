"""`make profile`: one run of the job, and where its time and memory went."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec

from job.run_record import RunRecord

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Trains by the variables that are set, into a folder that is removed again."""
    with tempfile.TemporaryDirectory() as folder:
        settings = os.environ | {"BOW_OUTPUT_DIR": folder, "BOW_RUN_NAME": "profile"}
        done = subprocess.run([sys.executable, "-m", "job"], cwd=ROOT, env=settings, check=False)
        if done.returncode:
            sys.exit(done.returncode)
        content = (Path(folder) / "profile" / "run.json").read_bytes()
    sys.stdout.write("\n" + table(msgspec.json.decode(content, type=RunRecord)))


def table(record: RunRecord) -> str:
    """A line a stage: its seconds, its share of the run, tokens a second, the most memory held by its end."""
    lines = [f"{'stage':10} {'seconds':>8} {'share':>6} {'tokens/s':>14} {'memory, MB':>11}"]
    for name, stage in record.stages.items():
        tokens = record.num_tokens * (len(record.epochs) if name == "train" else 1)
        lines.append(
            f"{name:10} {stage.seconds:8.3f} {stage.seconds / record.seconds:6.1%} "
            f"{tokens / max(stage.seconds, 1e-9):14,.0f} {stage.peak_memory / 1e6:11,.0f}"
        )
    lines.append(
        f"{'all':10} {record.seconds:8.3f} {1:6.1%} {'':14} {record.peak_memory / 1e6:11,.0f}   "
        f"{record.num_rows:,} rows, {record.num_tokens:,} tokens, {record.device}"
    )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
