"""The job's Kubernetes manifests: rendered by kubectl, held to two versions' schemas and what those miss."""

import copy
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from serving.bundle import open_bundle
from serving.errors import ExitCode
from tests.system.engine import Podman
from tests.system.kustomize import (
    MANIFESTS,
    SERVING,
    VERSIONS,
    Tools,
    assert_keeps_to_schemas,
    assert_misspelt_is_found,
    put,
)
from tests.system.manifests import JOB_NAME_LABEL, Resource, action, environment, mistakes
from tests.system.pods import IMAGE, Pod, podman_with

pytestmark = pytest.mark.system

FILES = sorted(path for path in MANIFESTS.rglob("kustomization.yaml") if SERVING not in path.parents)
KUSTOMIZATIONS = [
    str(path.parent.relative_to(MANIFESTS)) for path in FILES if "kind: Kustomization\n" in path.read_text()
]


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
    assert_keeps_to_schemas(tools, rendered[name], version)


@pytest.mark.parametrize("field", ["podFailurePolicy:", "concurrencyPolicy:", "sizeLimit:", "runAsNonRoot:"])
def test_a_misspelt_field_is_found(tools: Tools, rendered: dict[str, str], field: str) -> None:
    """If it failed, the test before it could not fail."""
    assert_misspelt_is_found(tools, rendered["overlays/nightly-gpu"], field)


@pytest.mark.parametrize("name", KUSTOMIZATIONS)
def test_what_is_rendered_is_right_beyond_the_schemas(
    tools: Tools, rendered: dict[str, str], name: str
) -> None:
    """If it failed, a cluster would retry what cannot get better, or the job refuse its settings."""
    assert mistakes(tools.read(rendered[name]), tools.time_zones) == []


JOB = ("CronJob", "jobTemplate", "spec")
RULES = (*JOB, "podFailurePolicy", "rules")
POD = (*JOB, "template", "spec")
CONTAINER = (*POD, "containers", 0)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (put("CronJob", "concurrencyPolicy", value="Never"), "concurrencyPolicy"),
        (put("CronJob", "schedule", value="61 2 * * *"), "schedule"),
        (put("CronJob", "schedule", value="17 2 * *"), "schedule"),
        (put("CronJob", "schedule", value="17 2-1 * * *"), "schedule"),
        (put("CronJob", "timeZone", value="Europe/Atlantis"), "timeZone"),
        (put("CronJob", "startingDeadlineSeconds", value=None), "startingDeadlineSeconds"),
        (put("CronJob", "failedJobsHistoryLimit", value=None), "history"),
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
    tools: Tools, rendered: dict[str, str], change: Callable[[list[Resource]], None], found: str
) -> None:
    """If it failed, the test before it could not fail."""
    resources = nightly(tools, rendered)
    change(resources)
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


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Podman:
    return podman_with("image", tmp_path_factory)


class Night(Pod):
    """A night's pod, with rows of data in its claim."""

    NAME = "bowsprit-test-29394857"
    """As the controller of Jobs names a pod."""

    def __init__(self, podman: Podman, resources: list[Resource], rows: str, folder: Path) -> None:
        (cron,) = [each for each in resources if each["kind"] == "CronJob"]
        (config_map,) = [each for each in resources if each["kind"] == "ConfigMap"]
        job = cron["spec"]["jobTemplate"]["spec"]
        self.rules = job["podFailurePolicy"]["rules"]
        job["template"]["metadata"]["labels"][JOB_NAME_LABEL] = self.NAME
        super().__init__(podman, self.NAME, job["template"], config_map, image=IMAGE, folder=folder)
        (self.volume("data") / "train.csv").write_text(rows)

    def until_said(self, text: str) -> None:
        """Returns when the job has said something."""
        deadline = time.monotonic() + 60
        while text not in self.log():
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.1)

    def stop(self) -> None:
        """Ends it as the kubelet does."""
        assert self.podman("stop", "--time", "20", self.container_name).returncode == 0


ROWS = "text,label\n" + "".join(f"word{row % 7} word{row % 3},label {row % 2}\n" for row in range(200))


@pytest.fixture
def night(tools: Tools, podman: Podman, tmp_path: Path) -> Callable[..., Night]:
    """What makes a night's pod from rows of data and settings, on a machine that need not have a GPU."""

    def make(rows: str, **settings: str) -> Night:
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
        return Night(podman, tools.read(tools.render(kustomization.parent)), rows, tmp_path)

    return make


def test_a_pod_of_the_template_trains_under_the_name_of_its_job(night: Callable[..., Night]) -> None:
    """If it failed, the job would not start in a cluster: no right to write, a wrong path or name."""
    with night(ROWS) as pod:
        assert pod.exit_code() == ExitCode.DONE, pod.log()
        bundle = pod.artifacts / Night.NAME
        assert open_bundle(bundle).bundle_id
        assert json.loads((bundle / "manifest.json").read_text())["settings"]["weighting"] == "tfidf"
        assert json.loads((bundle / "run.json").read_text())["num_threads"] <= 2  # the limit of its CPUs
        pod.assert_locked_down(memory=4 * 2**30, reads="/work/data")


def test_what_a_pod_ends_with_is_what_the_rules_are_for(night: Callable[..., Night]) -> None:
    """If it failed, a cluster would try wrong data again."""
    with night("text,label\none,a\ntwo,a\n") as pod:
        code = pod.exit_code()
        assert (code, action(pod.rules, code)) == (ExitCode.DATA, "FailJob"), pod.log()


def test_a_pod_that_is_ended_is_started_again(night: Callable[..., Night]) -> None:
    """If it failed, a night whose pod was deleted would use up its attempts, or fail."""
    with night(ROWS, BOW_EPOCHS="100000000") as pod:
        pod.until_said('"event": "model"')
        pod.stop()
        code = pod.exit_code()
        assert (code, action(pod.rules, code)) == (ExitCode.INTERRUPTED, "Ignore"), pod.log()


def nightly(tools: Tools, rendered: dict[str, str]) -> list[Resource]:
    """The overlay that has the most in it."""
    return tools.read(rendered["overlays/nightly-gpu"])
