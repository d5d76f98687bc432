"""The peers' own virtual environments: made on first use, and again when what they hold changes."""

import json
import subprocess
import sys
from pathlib import Path

import onnxruntime as ort

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "build" / "serving-peers"
CONSTRAINTS = ROOT / "constraints.txt"

ONNXRUNTIME = f"onnxruntime=={ort.__version__}"
"""The version that our own server runs."""
REQUIREMENTS: dict[str, tuple[str, ...]] = {
    # Of the same versions as ours: what differs is the code.
    "bare": (
        "starlette",
        "uvicorn",
        "uvloop",
        "httptools",
        "orjson",
        "numpy",
        ONNXRUNTIME,
        f"-c{CONSTRAINTS}",
    ),
    "kserve": ("kserve==0.21.0", ONNXRUNTIME),
    "mlserver": ("mlserver==1.7.1", "mlserver-sklearn==1.7.1"),
}
"""By environment, what pip is asked for."""
TOLD = (
    *("bowsprit", "fasttext-community", "kserve", "mlserver", "mlserver-sklearn", "onnxruntime"),
    *("onnxruntime-gpu", "scikit-learn", "numpy", "starlette", "fastapi", "uvicorn", "uvloop", "httptools"),
    *("orjson", "pydantic"),
)
"""The packages whose versions stand in the results."""


def python(name: str) -> Path:
    """The interpreter of an environment."""
    return FOLDER / name / "bin" / "python"


def ensure(name: str) -> None:
    """Makes an environment where it is missing or of other requirements; ends the program where pip fails."""
    wanted = "\n".join(REQUIREMENTS[name])
    stamp = FOLDER / name / "installed.txt"
    if stamp.exists() and stamp.read_text() == wanted:
        return
    sys.stderr.write(f"Installing {name} into {stamp.parent}, once ...\n")
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(stamp.parent)], check=True)
    done = subprocess.run(
        [str(python(name)), "-m", "pip", "install", "--quiet", *REQUIREMENTS[name]],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{name} could not be installed; leave it out with --contenders\n{done.stderr[-4000:]}")
    stamp.write_text(wanted)


def versions(interpreter: Path) -> dict[str, str]:
    """The versions of the packages that make a difference."""
    listed = subprocess.run(
        [str(interpreter), "-m", "pip", "list", "--format", "json", "--disable-pip-version-check"],
        capture_output=True,
        text=True,
        check=True,
    )
    found = {each["name"].lower().replace("_", "-"): each["version"] for each in json.loads(listed.stdout)}
    return {name: found[name] for name in TOLD if name in found}
