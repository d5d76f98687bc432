"""docs/serving/README.md against the code; tests/system/test_clients.py runs what it shows."""

import re
from pathlib import Path

from serving.server.metrics import Metrics
from serving.server.settings import ServerSettings

GUIDE = Path(__file__).parents[1] / "docs" / "serving" / "README.md"


def test_every_setting_that_is_mentioned_exists() -> None:
    """If it failed, a reader would set a variable that the server refuses."""
    known = {f"BOW_SERVE_{name.upper()}" for name in ServerSettings.model_fields}
    assert set(re.findall(r"\bBOW_[A-Z_]*[A-Z]\b", GUIDE.read_text())) <= known


def test_the_metrics_are_the_servers() -> None:
    """If it failed, a dashboard or an alert made by the guide would stay empty."""
    found = set(re.findall(r"^# TYPE (\w+)", Metrics().text().decode(), re.MULTILINE))
    assert set(re.findall(r"^\| `(bowsprit_\w+)` \|", GUIDE.read_text(), re.MULTILINE)) == found


def test_links_lead_somewhere() -> None:
    """If it failed, a reader would end at a missing page, or at the top of a long one."""
    for target, heading in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", GUIDE.read_text()):
        page = GUIDE.parent / target if target else GUIDE
        assert page.exists(), target
        if heading:
            titles = re.findall(r"^#+ (.*)", page.read_text(), re.MULTILINE)
            assert heading in {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
