import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from job.environment import load_settings
from job.run import run
from job.setting_kinds import env_name
from job.settings import Settings
from job.telling.output import Output
from serving.server.settings import ServerSettings
from tests.documents import MARKED, README, SERVING, TABLES, with_tables

REPOSITORY = Path(__file__).parents[1]


def test_the_tables_are_those_of_the_code() -> None:
    """If it failed, a document would be of another version: `make docs` writes the tables anew."""
    texts = [document.read_text() for document in (README, SERVING)]
    found = [match[2] for text in texts for match in MARKED.finditer(text)]
    assert sorted(found) == sorted(TABLES)
    for text in texts:
        assert with_tables(text) == text


def test_every_setting_that_is_mentioned_exists() -> None:
    """If it failed, a reader would set a variable that the job refuses."""
    known = {env_name(name) for name in Settings.model_fields}
    known |= {f"BOW_SERVE_{name.upper()}" for name in ServerSettings.model_fields}
    for path in [
        *(README, SERVING),
        REPOSITORY / "CONTRIBUTING.md",
        *REPOSITORY.glob("recipes/*.env"),
        REPOSITORY / "Makefile",
    ]:
        mentioned = set(re.findall(r"\bBOW_[A-Z_]*[A-Z]\b", path.read_text()))
        assert mentioned <= known, path


def test_every_make_target_that_is_mentioned_exists() -> None:
    """If it failed, a reader would type a command that make does not know."""
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    for name in ("README.md", "CONTRIBUTING.md"):
        mentioned = set(re.findall(r"(?:`|^)make ([a-z-]+)", (REPOSITORY / name).read_text(), re.MULTILINE))
        assert mentioned <= targets, name


def test_help_names_every_setting_with_its_default() -> None:
    """If it failed, `--help` would hide a setting."""
    shown = subprocess.run(
        [sys.executable, "-m", "job", "--help"], capture_output=True, text=True, check=True, cwd=REPOSITORY
    ).stdout
    for name in Settings.model_fields:
        assert f"  {env_name(name)}" in shown


def test_the_example_of_serving_with_onnxruntime_alone_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it failed, the shortest way to use a model would not work as it is printed."""
    monkeypatch.chdir(tmp_path)
    run(load_settings({"BOW_TRAIN_DATA": "tutorial"}), Output(for_people=False))
    (example,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(example, names)
    assert names["log_probs"].shape == (2, 2)
    assert set(names["labels"]) <= {"SPANISH", "ENGLISH"}


@pytest.mark.parametrize(
    "page",
    sorted([README, REPOSITORY / "CONTRIBUTING.md", *REPOSITORY.glob("docs/**/*.md")]),
    ids=lambda page: str(page.relative_to(REPOSITORY)),
)
def test_links_lead_somewhere(page: Path) -> None:
    """If it failed, a reader would end at a missing page, or at the top of a long one."""
    for target, heading in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", page.read_text()):
        other = page.parent / target if target else page
        assert other.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.*)", other.read_text(), re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
