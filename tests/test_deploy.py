"""The files for clusters: what can be told of them without one."""

import re
from pathlib import Path

from job.setting_kinds import env_name
from job.settings import Settings
from serving.server.settings import ServerSettings

REPOSITORY = Path(__file__).parents[1]
DEPLOY = REPOSITORY / "deploy"


def test_the_recipe_of_the_manifests_is_the_recipe() -> None:
    """If it failed, a cluster would train by an older recipe than the one that was measured."""
    copied = DEPLOY / "kubernetes" / "base" / "recipe.env"
    assert copied.read_text() == (REPOSITORY / "recipes" / "intents.env").read_text()


def test_every_setting_that_is_named_exists() -> None:
    """If it failed, a manifest, the Slurm script or a page would set what the job or the server refuses."""
    known = {env_name(name) for name in Settings.model_fields}
    known |= {f"BOW_SERVE_{name.upper()}" for name in ServerSettings.model_fields}
    paths = [path for path in DEPLOY.rglob("*") if path.is_file()]
    assert any(path.suffix == ".sbatch" for path in paths)
    for path in paths:
        assert set(re.findall(r"\bBOW_[A-Z_]*[A-Z]\b", path.read_text())) <= known, path
