"""What the defaults learn from real data, where it lies beside the checkout; only the data is named."""

import json
from pathlib import Path

import pytest

from job.environment import load_settings
from job.run import run
from job.telling.output import Output

pytestmark = pytest.mark.system

DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.mark.parametrize(
    ("name", "extension", "at_least"),
    [("banking77", "csv", 0.85), ("clinc150", "jsonl", 0.89), ("lingua75", "tsv", 0.94)],
)
def test_the_defaults_learn(tmp_path: Path, name: str, extension: str, at_least: float) -> None:
    """If it failed, a newcomer's first model would be worse than that of the tool they come from."""
    train_data = DATA / f"{name}.train.{extension}"
    if not train_data.exists():
        pytest.skip(f"the data set {name} is not here")
    environ = {
        "BOW_TRAIN_DATA": str(train_data),
        "BOW_TEST_DATA": str(DATA / f"{name}.test.{extension}"),
        "BOW_OUTPUT_DIR": str(tmp_path),
    }
    bundle = run(load_settings(environ), Output(for_people=False))
    assert json.loads((bundle / "metrics.json").read_text())["test"]["summary"]["accuracy"] >= at_least
