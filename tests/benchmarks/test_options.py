"""The page of options: its table is made by a command, and it names every setting that it is about."""

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import options
from job.setting_kinds import env_name
from job.settings import Settings
from tests.test_readme import REPOSITORY

ABOUT = (
    "tokenizer",
    "lowercase",
    "count",
    "vocabulary",
    "ngrams",
    "weighting",
    "normalize",
    "weight",
    "epochs",
)


def test_the_page_is_about_every_option() -> None:
    """If it failed, an option would be there that nobody says when to use."""
    text = options.PAGE.read_text()
    for name in Settings.model_fields:
        if any(part in name for part in (*ABOUT, "patience")):
            assert f"`{env_name(name)}" in text, name


def test_the_page_shows_what_was_measured() -> None:
    """If it failed, the page's table would be missing, or be of other lines than are measured."""
    found = options.MARKED.search(options.PAGE.read_text())
    assert found is not None
    lines = [
        line.split(" | ")[0].removeprefix("| ") for line in found[0].splitlines() if line.startswith("| ")
    ]
    tables = found[0].count("| features | accuracy |")
    assert tables >= 2
    assert [line for line in lines if line not in ("features", "---")] == [*options.VARIANTS] * tables


@pytest.mark.system
def test_every_line_is_a_run_that_the_job_accepts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it failed, the command would fail after minutes, or write figures of something else."""
    rows = [
        f"{'hot' if row % 2 else 'cold'} word{row % 7} it's{row % 5}\tlabel {row % 2}" for row in range(80)
    ]
    (tmp_path / "train.tsv").write_text("text\tlabel\n" + "\n".join(rows) + "\n")
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- measured -->\nold\n<!-- end -->\nafter\n")
    monkeypatch.setattr(options, "PAGE", page)
    few = ["defaults", "*words*, tf-idf and l2", "*words*, `BOW_EPOCHS=30`, `BOW_PATIENCE=3`"]
    monkeypatch.setattr(options, "VARIANTS", {line: options.VARIANTS[line] for line in few})
    monkeypatch.setattr(sys, "argv", ["options", f"mine={tmp_path / 'train.tsv'}"])
    options.main()
    text = page.read_text()
    assert text.startswith("before\n<!-- measured -->\nMeasured on ")
    assert text.endswith("<!-- end -->\nafter\n")
    assert "| defaults | 1.0000 |" in text
    assert "old" not in text


def test_a_line_that_fails_ends_the_command(tmp_path: Path) -> None:
    """If it failed, a mistake in the data would leave a page without figures."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.options", f"mine={tmp_path / 'nothing.tsv'}"],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
    )
    assert done.returncode == 1
    assert "nothing.tsv" in done.stderr
