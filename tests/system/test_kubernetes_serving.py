"""The server's manifests: rendered, held to the schemas and to what those miss, and one pod run for real."""

import base64
import copy
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from serving.bundle import open_bundle
from serving.errors import ExitCode
from tests.system.conftest import Environment
from tests.system.engine import Podman
from tests.system.kserve_models import Fields, read_models, unknown_fields
from tests.system.kustomize import (
    MANIFESTS,
    SERVING,
    VERSIONS,
    Tools,
    assert_keeps_to_schemas,
    assert_misspelt_is_found,
    put,
)
from tests.system.manifests import Resource
from tests.system.pods import IMAGE, Pod, podman_with
from tests.system.serving_manifests import mistakes

pytestmark = pytest.mark.system

FILES = sorted(SERVING.rglob("kustomization.yaml"))
KUSTOMIZATIONS = [
    str(path.parent.relative_to(SERVING)) for path in FILES if "kind: Kustomization\n" in path.read_text()
]
DEPLOYMENTS = [name for name in KUSTOMIZATIONS if name.startswith("overlays/")]
INFERENCE_SERVICES = ["kserve", "triton"]
OWN_FIELDS = ("model", "minReplicas", "maxReplicas", "scaleMetric", "scaleTarget")
"""What KServe adds to a pod's fields in those of a predictor."""


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Tools:
    """kubectl and the schemas, installed."""
    return Tools(tmp_path_factory.mktemp("kubernetes") / "venv")


@pytest.fixture(scope="module")
def rendered(tools: Tools) -> dict[str, str]:
    """Every kustomization as it would be applied."""
    assert {*DEPLOYMENTS, *INFERENCE_SERVICES, "base"} == set(KUSTOMIZATIONS)
    assert len(DEPLOYMENTS) == 2
    return {name: tools.render(SERVING / name) for name in KUSTOMIZATIONS}


@pytest.fixture(scope="module")
def job(tools: Tools) -> list[Resource]:
    """What the job brings, whose claim the server reads."""
    return tools.read(tools.render(MANIFESTS / "overlays" / "once"))


@pytest.fixture(scope="module")
def kserve_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Fields]:
    """The fields of KServe's resources, as its package has them, installed without the 70 that it needs."""
    environment = Environment(tmp_path_factory.mktemp("kserve") / "venv")
    environment.install("--no-deps", "kserve==0.21.0")
    (package,) = environment.folder.glob("lib/python*/site-packages/kserve")
    return read_models(package)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", ["base", *DEPLOYMENTS])
def test_what_is_rendered_keeps_to_the_schemas(
    tools: Tools, rendered: dict[str, str], name: str, version: str
) -> None:
    """If it failed, a cluster would refuse a manifest, or drop a field that it does not know."""
    assert_keeps_to_schemas(tools, rendered[name], version)


@pytest.mark.parametrize(
    "field",
    [
        *("startupProbe:", "terminationGracePeriodSeconds:", "maxUnavailable:", "targetPort:"),
        *("unhealthyPodEvictionPolicy:", "averageUtilization:", "whenUnsatisfiable:"),
    ],
)
def test_a_misspelt_field_is_found(tools: Tools, rendered: dict[str, str], field: str) -> None:
    """If it failed, the test before it could not fail."""
    assert_misspelt_is_found(tools, rendered["overlays/bucket"], field)


@pytest.mark.parametrize("name", [*DEPLOYMENTS, *INFERENCE_SERVICES])
def test_what_is_rendered_is_right_beyond_the_schemas(
    tools: Tools, rendered: dict[str, str], job: list[Resource], name: str
) -> None:
    """If it failed, requests would be lost at each roll-out, or KServe would not find the server."""
    assert mistakes(tools.read(rendered[name]), job) == []


POD = ("Deployment", "template", "spec")
CONTAINER = (*POD, "containers", 0)
SCALER = "HorizontalPodAutoscaler"
KSERVE = ("InferenceService", "predictor")


@pytest.mark.parametrize(
    ("name", "change", "found"),
    [
        ("claim", put("Deployment", "replicas", value=1), "replicas"),
        ("bucket", put("Deployment", "replicas", value=2), "replicas"),
        ("claim", put("Deployment", "selector", "matchLabels", value={"app": "x"}), "selector of Deployment"),
        ("claim", put("Service", "selector", value={"app": "bowsprit"}), "selector of Service"),
        ("claim", put("Service", "ports", 0, "targetPort", value="https"), "targetPort"),
        ("claim", put("PodDisruptionBudget", "selector", "matchLabels", value={}), "PodDisruptionBudget"),
        (
            "claim",
            put("PodDisruptionBudget", "unhealthyPodEvictionPolicy", value="Always"),
            "unhealthyPodEvictionPolicy",
        ),
        ("claim", put("Deployment", "strategy", "type", value="Rolling"), "strategy"),
        ("claim", put(*POD, "terminationGracePeriodSeconds", value=40), "terminationGracePeriodSeconds"),
        ("claim", put(*POD, "enableServiceLinks", value=None), "enableServiceLinks"),
        ("claim", put(*POD, "securityContext", "seccompProfile", value=None), "securityContext"),
        ("claim", put(*POD, "volumes", 0, "name", value="artifact"), "volume artifacts"),
        (
            "claim",
            put(*POD, "volumes", 0, "persistentVolumeClaim", "claimName", value="bowsprit-models"),
            "claim bowsprit-models",
        ),
        ("claim", put(*CONTAINER, "securityContext", "readOnlyRootFilesystem", value=False), "of serve"),
        ("claim", put(*CONTAINER, "readinessProbe", "httpGet", "path", value="/v2/health/live"), "readiness"),
        ("claim", put(*CONTAINER, "livenessProbe", "httpGet", "path", value="/v2/health/ready"), "liveness"),
        ("claim", put(*CONTAINER, "startupProbe", "httpGet", "port", value="https"), "startupProbe"),
        ("claim", put(*CONTAINER, "startupProbe", "failureThreshold", value=30), "startupProbe"),
        ("claim", put(*CONTAINER, "args", value=["artifacts/latest"]), "args"),
        ("claim", put(*CONTAINER, "ports", 0, "containerPort", value=80), "ports"),
        ("claim", put(*CONTAINER, "resources", "limits", "memory", value="2Gi"), "resources"),
        ("claim", put(*CONTAINER, "envFrom", 0, "configMapRef", "name", value="bowsprit"), "ConfigMap"),
        ("bucket", put(*CONTAINER, "envFrom", 1, "secretRef", "optional", value=None), "Secret bowsprit-s3"),
        ("bucket", put(SCALER, "scaleTargetRef", "name", value="bowsprit"), "scaleTargetRef"),
        (
            "bucket",
            put(SCALER, "metrics", 0, "resource", "target", "type", value="Percentage"),
            "target",
        ),
        ("kserve", put(*KSERVE, "scaleMetric", value="CPU"), "scaleMetric"),
        ("kserve", put(*KSERVE, "containers", 0, "name", value="serve"), "container serve"),
        ("kserve", put(*KSERVE, "containers", 0, "env", 0, "value", value="v1"), "PROTOCOL"),
        ("kserve", put(*KSERVE, "containers", 0, "env", 1, "value", value="intents"), "MODEL_NAME"),
        ("kserve", put(*KSERVE, "containers", 0, "env", 2, "value", value="0"), "RELOAD_SECONDS"),
        ("kserve", put(*KSERVE, "containers", 0, "env", 3, "value", value="4"), "DRAIN_SECONDS"),
        (
            "kserve",
            put(*KSERVE, "containers", 0, "env", 4, "name", value="BOW_SERVE_GRACE"),
            "there is no such",
        ),
        ("kserve", put(*KSERVE, "containers", 0, "env", 4, "value", value="30s"), "BOW_SERVE_GRACE_SECONDS"),
        ("triton", put(*KSERVE, "model", "protocolVersion", value="v1"), "protocolVersion"),
    ],
)
def test_a_mistake_beyond_the_schemas_is_found(
    tools: Tools,
    rendered: dict[str, str],
    job: list[Resource],
    name: str,
    change: Callable[[list[Resource]], None],
    found: str,
) -> None:
    """If it failed, the test before it could not fail."""
    resources = tools.read(rendered[name if name in rendered else f"overlays/{name}"])
    change(resources)
    lines = mistakes(resources, job)
    assert any(found in line for line in lines), lines


@pytest.mark.parametrize("name", INFERENCE_SERVICES)
def test_an_inference_service_has_kserves_fields_and_a_pods(
    tools: Tools, rendered: dict[str, str], kserve_models: dict[str, Fields], name: str
) -> None:
    """If it failed, KServe would refuse the manifest: it has no schemas that could be had here."""
    (service,) = tools.read(rendered[name])
    assert service["apiVersion"] == "serving.kserve.io/v1beta1"
    assert list(unknown_fields(kserve_models, "V1beta1InferenceService", service)) == []
    for version in VERSIONS:
        code, lines = tools.validate(json.dumps(predictor_pod(service)), version)
        assert (code, len(lines)) == (0, 1), lines


def test_a_misspelt_field_of_an_inference_service_is_found(
    tools: Tools, rendered: dict[str, str], kserve_models: dict[str, Fields]
) -> None:
    """If it failed, the test before it could not fail."""
    for name, field, wrong in (
        ("kserve", "predictor:", "predictors:"),
        ("kserve", "minReplicas: 2", "minReplica: 2"),
        ("kserve", "minReplicas: 2", 'minReplicas: "2"'),
        ("triton", "storageUri:", "storageURI:"),
        ("triton", 'version: "2"', "version: 2"),
    ):
        assert field in rendered[name]
        (service,) = tools.read(rendered[name].replace(field, wrong))
        assert list(unknown_fields(kserve_models, "V1beta1InferenceService", service)), wrong
    (service,) = tools.read(rendered["kserve"].replace("startupProbe:", "startUpProbe:"))
    code, lines = tools.validate(json.dumps(predictor_pod(service)), VERSIONS[0])
    assert code != 0, lines


def test_kserve_runs_what_the_deployment_runs(tools: Tools, rendered: dict[str, str]) -> None:
    """If it failed, one of two copies of the same pod would have been changed alone."""
    (service,) = tools.read(rendered["kserve"])
    (deployment,) = [each for each in tools.read(rendered["overlays/bucket"]) if each["kind"] == "Deployment"]
    ours = copy.deepcopy(deployment["spec"]["template"]["spec"])
    theirs = predictor_pod(service)["spec"]
    del ours["topologySpreadConstraints"]
    for pod in (ours, theirs):
        (container,) = pod["containers"]
        for field in ("name", "ports", "env", "envFrom"):
            container.pop(field, None)
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            del container[probe]["httpGet"]["port"]
    assert theirs == ours


def predictor_pod(service: Resource) -> Resource:
    """A pod of what a predictor has in common with one."""
    predictor = service["spec"]["predictor"]
    spec = {name: value for name, value in predictor.items() if name not in OWN_FIELDS}
    if "model" in predictor:
        resources = predictor["model"]["resources"]
        spec["containers"] = [{"name": "model", "image": "triton", "resources": resources}]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "predictor"}, "spec": copy.deepcopy(spec)}


def test_every_component_is_part_of_an_overlay() -> None:
    """If it failed, a component would be shipped that no test renders."""
    overlays = "".join((SERVING / name / "kustomization.yaml").read_text() for name in DEPLOYMENTS)
    components = [path.parent.name for path in FILES if "kind: Component\n" in path.read_text()]
    assert components
    for name in components:
        assert f"  - ../../components/{name}\n" in overlays


# --- a pod, run for real --------------------------------------------------------------------------------

ASK = """
import base64, json, sys, urllib.error, urllib.request
path, body = sys.argv[1], base64.b64decode(sys.argv[2]) or None
try:
    answer = urllib.request.urlopen(f"http://127.0.0.1:8080{path}", body, timeout=10)
except urllib.error.HTTPError as error:
    answer = error
print(json.dumps([answer.status, answer.read().decode()]))
"""


@pytest.fixture(scope="module")
def podman(tmp_path_factory: pytest.TempPathFactory) -> Podman:
    return podman_with("image-serve", tmp_path_factory)


class ServingPod(Pod):
    """A pod of the Deployment."""

    def __init__(self, podman: Podman, resources: list[Resource], folder: Path) -> None:
        by_kind = {each["kind"]: each for each in resources}
        template = by_kind["Deployment"]["spec"]["template"]
        spec = template["spec"]
        (container,) = spec["containers"]
        # The kubelet asks by HTTP; podman would want systemd's timers and a curl inside.
        self.probes = {
            name: container.pop(name)["httpGet"]["path"]
            for name in ("startupProbe", "readinessProbe", "livenessProbe")
        }
        # Podman takes them for ports of this machine.
        del container["ports"]
        # A restarted container would hide how the first one ended.
        spec["restartPolicy"] = "Never"
        self.grace_seconds = spec["terminationGracePeriodSeconds"]
        super().__init__(
            podman,
            "bowsprit-serve-test",
            template,
            by_kind["ConfigMap"],
            image=f"{IMAGE}-serve",
            folder=folder,
        )

    def ask(self, path: str, body: bytes = b"") -> tuple[int, str]:
        """The status and the body of an answer, asked from inside: the pod has no network."""
        done = self._exec("python", "-c", ASK, path, base64.b64encode(body).decode())
        assert done.returncode == 0, done.stderr + self.log()
        status, text = json.loads(done.stdout)
        return status, text

    def health(self) -> int:
        """What the image's HEALTHCHECK ends with."""
        return self._exec("python", "-m", "serving", "health").returncode

    def until_healthy(self) -> None:
        """Returns when the server is ready."""
        deadline = time.monotonic() + 60
        while self.health() != ExitCode.DONE:
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.2)

    def signal(self, name: str) -> None:
        """Sends the container's first process a signal, as the kubelet does."""
        assert self.podman("kill", "--signal", name, self.container_name).returncode == 0

    def _exec(self, *command: str) -> Any:
        return self.podman("exec", self.container_name, *command)


@pytest.fixture
def pod(
    tools: Tools, podman: Podman, rendered: dict[str, str], bundle: Path, tmp_path: Path
) -> Iterator[ServingPod]:
    """The pod of the Deployment that reads the job's claim, in which a bundle is."""
    pod = ServingPod(podman, tools.read(rendered["overlays/claim"]), tmp_path)
    for path in (bundle, *bundle.iterdir()):
        to = pod.artifacts / path.relative_to(bundle.parent)
        to.mkdir() if path.is_dir() else to.write_bytes(path.read_bytes())
    (pod.artifacts / "latest").symlink_to(bundle.name)
    with pod:
        yield pod


def infer(pod: ServingPod, bundle: Path) -> None:
    """Asks for the bundle's golden texts, and expects what the trained model gave."""
    lines = (bundle / "golden.jsonl").read_text().split("\n")
    golden = [json.loads(line) for line in lines if line][:8]
    texts = [example["text"] for example in golden]
    tensor = {"name": "text", "datatype": "BYTES", "shape": [len(texts)], "data": texts}
    status, answer = pod.ask("/v2/models/bowsprit/infer", json.dumps({"inputs": [tensor]}).encode())
    assert status == 200, answer
    outputs = {output["name"]: output for output in json.loads(answer)["outputs"]}
    assert outputs["label"]["data"] == [example["label"] for example in golden]
    expected = [value for example in golden for value in example["log_probs"]]
    assert outputs["log_probs"]["data"] == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_a_pod_of_the_deployment_serves_drains_and_ends(pod: ServingPod, bundle: Path) -> None:
    """If it failed, the server would not start in a cluster, or each roll-out would lose requests."""
    pod.until_healthy()
    for probe, path in pod.probes.items():
        assert pod.ask(path)[0] == 200, probe
    infer(pod, bundle)
    assert open_bundle(bundle).bundle_id[:12] in pod.ask("/v2/models/bowsprit")[1]
    assert pod.ask("/metrics")[0] == 200
    pod.assert_locked_down(memory=2**30, reads="/work/artifacts")

    started = time.monotonic()
    pod.signal("TERM")
    deadline = started + 5
    while pod.health() == ExitCode.DONE:
        assert time.monotonic() < deadline, pod.log()
    # Not ready, so that it is taken out of the Service; until it is, requests come and are answered.
    assert pod.ask(pod.probes["readinessProbe"])[0] == 503
    assert pod.ask(pod.probes["livenessProbe"])[0] == 200
    infer(pod, bundle)
    assert pod.exit_code() == ExitCode.DONE, pod.log()
    assert time.monotonic() - started < pod.grace_seconds
