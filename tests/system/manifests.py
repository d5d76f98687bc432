"""What is wrong with Kubernetes manifests beyond their schemas, as the API or the job would find it."""

import re
import signal
from collections.abc import Iterator
from typing import Any

from job.environment import load_settings
from serving.errors import BowspritError, ExitCode

Resource = dict[str, Any]

DISRUPTED = [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]}]
TERMINATED = 128 + signal.SIGTERM
"""What a container ends with that SIGTERM ends before it has a handler."""

ACTIONS = {
    **{code.value: "FailJob" for code in ExitCode if 2 <= code <= 7},
    ExitCode.BUG.value: "Count",
    ExitCode.PLATFORM.value: "Count",
    ExitCode.INTERRUPTED.value: "Ignore",
    TERMINATED: "Ignore",
}
"""What a cluster should do about each exit code but 0."""

CRON_FIELDS = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 6))
QUANTITY = re.compile(r"[1-9][0-9]*(m|Ki|Mi|Gi|Ti)?")
RESOURCES = {"cpu", "memory", "ephemeral-storage"}
JOB_NAME_LABEL = "batch.kubernetes.io/job-name"


def mistakes(resources: list[Resource], time_zones: set[str]) -> list[str]:
    """What is wrong with the resources of one kustomization, a line each."""
    found = []
    names = {(each["kind"], each["metadata"]["name"]): each for each in resources}
    jobs = [each for each in resources if each["kind"] in ("Job", "CronJob")]
    if len(jobs) != 1:
        found.append(f"{len(jobs)} jobs")
    for job in jobs:
        spec = job["spec"]
        if job["kind"] == "CronJob":
            found += _cron_mistakes(job, time_zones)
            spec = spec["jobTemplate"]["spec"]
        found += _job_mistakes(spec)
        found += _pod_mistakes(spec["template"]["spec"])
        found += locked_down_mistakes(spec["template"]["spec"])
        found += reference_mistakes(spec["template"]["spec"], names)
        found += _setting_mistakes(spec["template"]["spec"], names)
    return found


def _cron_mistakes(job: Resource, time_zones: set[str]) -> Iterator[str]:
    spec = job["spec"]
    if spec.get("concurrencyPolicy") != "Forbid":
        yield f"concurrencyPolicy {spec.get('concurrencyPolicy')}: two nights would train beside each other"
    if not _is_cron(spec["schedule"]):
        yield f"schedule {spec['schedule']}"
    if spec.get("timeZone") not in time_zones:
        yield f"timeZone {spec.get('timeZone')}"
    if not spec.get("startingDeadlineSeconds", 0) >= 10:
        yield "startingDeadlineSeconds: the controller looks every ten seconds"
    if not {"successfulJobsHistoryLimit", "failedJobsHistoryLimit"} <= spec.keys():
        yield "history limits"
    if len(job["metadata"]["name"]) > 52:
        yield "name: a Job's has eleven characters more, and 63 at most"


def _is_cron(schedule: str) -> bool:
    """Whether these are five fields of numbers in their ranges."""
    fields = schedule.split()
    if len(fields) != len(CRON_FIELDS):
        return False
    for field, (low, high) in zip(fields, CRON_FIELDS, strict=True):
        for part in field.split(","):
            match = re.fullmatch(r"(?:\*|([0-9]+)(?:-([0-9]+))?)(?:/([1-9][0-9]*))?", part)
            if match is None:
                return False
            first = low if match[1] is None else int(match[1])
            if not low <= first <= int(match[2] or first) <= high:
                return False
    return True


def _job_mistakes(spec: Resource) -> Iterator[str]:
    for name in ("activeDeadlineSeconds", "backoffLimit"):
        if not spec.get(name, 0) > 0:
            yield f"{name}: {spec.get(name)}"
    if spec.get("podReplacementPolicy") != "Failed":
        yield f"podReplacementPolicy {spec.get('podReplacementPolicy')}: the API takes no other with rules"
    rules = spec["podFailurePolicy"]["rules"]
    if rules[:1] != DISRUPTED:
        yield f"podFailurePolicy: the first rule is {rules[:1]}"
    containers = [each["name"] for each in spec["template"]["spec"]["containers"]]
    named: set[int] = set()
    for rule in rules:
        if rule["action"] not in ("Ignore", "FailJob", "Count"):
            yield f"action {rule['action']}"
        if "onExitCodes" in rule:
            codes = rule["onExitCodes"]
            if codes.get("containerName") not in containers:
                yield f"containerName {codes.get('containerName')}"
            if codes["operator"] != "In":
                yield f"operator {codes['operator']}"
            if codes["values"] != sorted(set(codes["values"])) or 0 in codes["values"]:
                yield f"values {codes['values']}: the API takes different ones in their order, and no 0"
            named |= set(codes["values"])
    if named != ACTIONS.keys():
        yield f"exit codes {sorted(named ^ ACTIONS.keys())}: named and unknown, or known and not named"
    for code, expected in ACTIONS.items():
        if (found := action(rules, code)) != expected:
            yield f"exit code {code}: {found} instead of {expected}"


def action(rules: list[Resource], code: int) -> str:
    """What the first rule that fits an exit code says."""
    for rule in rules:
        if code in rule.get("onExitCodes", {}).get("values", ()):
            return str(rule["action"])
    return "Count"


def _pod_mistakes(pod: Resource) -> Iterator[str]:
    if pod.get("restartPolicy") != "Never":
        yield f"restartPolicy {pod.get('restartPolicy')}: the API takes no other with a podFailurePolicy"
    if not pod.get("terminationGracePeriodSeconds", 0) >= 120:
        yield f"terminationGracePeriodSeconds {pod.get('terminationGracePeriodSeconds')}"
    if not pod.get("securityContext", {}).get("fsGroup"):
        yield "fsGroup: a claim would belong to root"
    for container in pod["containers"]:
        yield from _resource_mistakes(container.get("resources", {}))


def locked_down_mistakes(pod: Resource) -> Iterator[str]:
    """What a pod may do and need not."""
    for name in ("enableServiceLinks", "automountServiceAccountToken"):
        if pod.get(name) is not False:
            yield f"{name} {pod.get(name)}"
    security = pod.get("securityContext", {})
    if not security.get("runAsNonRoot") or security.get("seccompProfile") != {"type": "RuntimeDefault"}:
        yield f"securityContext {security}"
    for container in pod["containers"]:
        own = container.get("securityContext", {})
        if own != {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }:
            yield f"securityContext of {container['name']} {own}"
    temporary = next((each for each in pod["volumes"] if each["name"] == "tmp"), {})
    if "sizeLimit" not in temporary.get("emptyDir", {}):
        yield f"/tmp {temporary}"


def _resource_mistakes(resources: Resource) -> Iterator[str]:
    requests, limits = resources.get("requests", {}), resources.get("limits", {})
    if not requests.keys() >= RESOURCES or requests.keys() != limits.keys():
        yield f"resources {resources}"
    for value in [*requests.values(), *limits.values()]:
        if not QUANTITY.fullmatch(str(value)):
            yield f"quantity {value}"
    gpu = "nvidia.com/gpu"
    if requests.get(gpu) != limits.get(gpu):
        yield f"{gpu}: the API takes no request that differs from the limit"
    if not re.fullmatch("[0-9]+", limits.get("cpu", "")):
        yield f"cpu {limits.get('cpu')}: the job counts its threads by it"


def reference_mistakes(pod: Resource, names: dict[tuple[str, str], Resource]) -> Iterator[str]:
    """What a pod refers to by its kind and name, and is not there."""
    volumes = {each["name"] for each in pod["volumes"]}
    for volume in pod["volumes"]:
        claim = volume.get("persistentVolumeClaim", {}).get("claimName")
        if claim is not None and ("PersistentVolumeClaim", claim) not in names:
            yield f"claim {claim}"
    for container in pod["containers"]:
        for mount in container["volumeMounts"]:
            if mount["name"] not in volumes:
                yield f"volume {mount['name']}"
        for source in container.get("envFrom", []):
            if "secretRef" in source:  # made by whoever has the credentials, or not at all
                if source["secretRef"].get("optional") is not True:
                    yield f"Secret {source['secretRef']['name']}: a cluster may give the rights otherwise"
            elif ("ConfigMap", source["configMapRef"]["name"]) not in names:
                yield f"ConfigMap {source['configMapRef']['name']}"


def _setting_mistakes(pod: Resource, names: dict[tuple[str, str], Resource]) -> Iterator[str]:
    (container,) = pod["containers"]
    try:
        load_settings(environment(container, names, {JOB_NAME_LABEL: "bowsprit-29394857"}))
    except (BowspritError, KeyError) as error:
        yield str(error)
    if (
        "gpu" in str(container["resources"])
        and {"name": "BOW_REQUIRE_GPU", "value": "true"} not in container["env"]
    ):
        yield "BOW_REQUIRE_GPU: a GPU is held and may not be used"


def environment(
    container: Resource, names: dict[tuple[str, str], Resource], labels: dict[str, str]
) -> dict[str, str]:
    """The variables of a container in a pod that has some labels; KeyError where it has not."""
    environ: dict[str, str] = {}
    for source in container.get("envFrom", []):
        if "secretRef" in source:
            continue
        config_map = names.get(("ConfigMap", source["configMapRef"]["name"]), {})
        environ |= config_map.get("data", {})
    for variable in container.get("env", []):
        if "value" in variable:
            environ[variable["name"]] = variable["value"]
        else:
            path = variable["valueFrom"]["fieldRef"]["fieldPath"]
            match = re.fullmatch(r"metadata\.labels\['(.+)'\]", path)
            environ[variable["name"]] = labels[match[1] if match else path]
    return environ
