"""What is wrong with the server's manifests beyond their schemas, as a cluster or the server finds it."""

from collections.abc import Iterator

from serving.errors import SettingsError
from serving.server.settings import server_settings
from tests.system.manifests import Resource, environment, locked_down_mistakes, reference_mistakes

READY, LIVE = "/v2/health/ready", "/v2/health/live"
DEPLOYMENT_MODES = ("RawDeployment", "Standard", "Serverless", "Knative", "ModelMesh")
SCALE_METRICS = ("cpu", "memory", "concurrency", "rps")
MARGIN = 5
"""Seconds that a pod's end may take beyond what the server waits by itself."""


def mistakes(resources: list[Resource], elsewhere: list[Resource]) -> list[str]:
    """What is wrong with the resources of one kustomization, a line each; the job's are `elsewhere`."""
    found = []
    names = {(each["kind"], each["metadata"]["name"]): each for each in resources}
    claims = {
        ("PersistentVolumeClaim", each["metadata"]["name"]): each
        for each in elsewhere
        if each["kind"] == "PersistentVolumeClaim"
    }
    for each in resources:
        if each["kind"] == "Deployment":
            found += _deployment_mistakes(each, names)
            pod = each["spec"]["template"]["spec"]
        elif each["kind"] == "InferenceService":
            found += _inference_service_mistakes(each)
            pod = each["spec"]["predictor"]
        else:
            continue
        if "containers" in pod:
            found += locked_down_mistakes(pod)
            found += reference_mistakes(pod, names | claims)
            found += _server_mistakes(pod, names)
    if not {kind for kind, _ in names} & {"Deployment", "InferenceService"}:
        found.append("nothing that serves")
    return found


def _deployment_mistakes(deployment: Resource, names: dict[tuple[str, str], Resource]) -> Iterator[str]:
    spec, name = deployment["spec"], deployment["metadata"]["name"]
    service = names["Service", name]["spec"]
    budget = names["PodDisruptionBudget", name]["spec"]
    scaler = names.get(("HorizontalPodAutoscaler", name), {}).get("spec")
    labels = spec["template"]["metadata"]["labels"].items()
    pod = spec["template"]["spec"]
    selectors = {
        "Deployment": spec["selector"]["matchLabels"],
        "Service": service["selector"],
        "PodDisruptionBudget": budget["selector"]["matchLabels"],
        "spread": pod["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"],
    }
    for whose, selector in selectors.items():
        if not selector or not selector.items() <= labels:
            yield f"selector of {whose} {selector}"
    if spec["strategy"] != {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}:
        yield f"strategy {spec['strategy']}"
    if pod["topologySpreadConstraints"][0]["whenUnsatisfiable"] not in ("ScheduleAnyway", "DoNotSchedule"):
        yield "whenUnsatisfiable"
    if budget.get("unhealthyPodEvictionPolicy") not in ("AlwaysAllow", "IfHealthyBudget"):
        yield f"unhealthyPodEvictionPolicy {budget.get('unhealthyPodEvictionPolicy')}"
    (port,) = service["ports"]
    if port["targetPort"] not in [each["name"] for each in pod["containers"][0]["ports"]]:
        yield f"targetPort {port['targetPort']}"
    listens = str(pod["containers"][0]["ports"][0]["containerPort"])
    if spec["template"]["metadata"]["annotations"].get("prometheus.io/port") != listens:
        yield "prometheus.io/port"
    if scaler is None:
        if not spec.get("replicas", 0) >= 2:
            yield f"replicas {spec.get('replicas')}: a drained node would end all there is"
    else:
        if "replicas" in spec:
            yield "replicas: each apply would undo what the autoscaler did"
        yield from _scaler_mistakes(scaler, name)


def _scaler_mistakes(scaler: Resource, name: str) -> Iterator[str]:
    if scaler["scaleTargetRef"] != {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}:
        yield f"scaleTargetRef {scaler['scaleTargetRef']}"
    if not 2 <= scaler["minReplicas"] < scaler["maxReplicas"]:
        yield f"minReplicas {scaler['minReplicas']}"
    (metric,) = scaler["metrics"]
    if metric["type"] != "Resource" or metric["resource"]["name"] != "cpu":
        yield f"metric {metric}"
    elif metric["resource"]["target"]["type"] != "Utilization":
        yield f"target {metric['resource']['target']}"


def _inference_service_mistakes(service: Resource) -> Iterator[str]:
    predictor = service["spec"]["predictor"]
    mode = service["metadata"]["annotations"].get("serving.kserve.io/deploymentMode")
    if mode not in DEPLOYMENT_MODES:
        yield f"deploymentMode {mode}"
    if predictor["scaleMetric"] not in SCALE_METRICS:
        yield f"scaleMetric {predictor['scaleMetric']}"
    if not 2 <= predictor["minReplicas"] < predictor["maxReplicas"]:
        yield f"minReplicas {predictor['minReplicas']}"
    if "model" in predictor:
        model = predictor["model"]
        if model.get("protocolVersion") != "v2":
            yield f"protocolVersion {model.get('protocolVersion')}"
        if model.get("modelFormat") != {"name": "triton", "version": "2"}:
            yield f"modelFormat {model.get('modelFormat')}"
        if model.get("runtime") != "kserve-tritonserver":
            yield f"runtime {model.get('runtime')}"
        return
    (container,) = predictor["containers"]
    environ = environment(container, {}, {})
    if container["name"] != "kserve-container":
        yield f"container {container['name']}: KServe takes no other name"
    if environ.get("PROTOCOL") != "v2":
        yield f"PROTOCOL {environ.get('PROTOCOL')}: KServe would tell clients another path"
    if environ.get("BOW_SERVE_MODEL_NAME") != service["metadata"]["name"]:
        yield "BOW_SERVE_MODEL_NAME: KServe calls a model as its InferenceService"


def _server_mistakes(pod: Resource, names: dict[tuple[str, str], Resource]) -> Iterator[str]:
    """Of a pod that runs the server."""
    (container,) = pod["containers"]
    try:
        settings = server_settings(environment(container, names, {}))
    except SettingsError as error:
        yield str(error)
        return
    ports = [
        (each.get("name"), each["containerPort"], each.get("protocol", "TCP")) for each in container["ports"]
    ]
    if [port[1:] for port in ports] != [(settings.port, "TCP")]:
        yield f"ports {ports}"
    if container.get("args", [])[:1] != ["serve"] or len(container["args"]) != 2:
        yield f"args {container.get('args')}"
    for probe, path in (("startupProbe", READY), ("readinessProbe", READY), ("livenessProbe", LIVE)):
        asked = container.get(probe, {}).get("httpGet", {})
        if asked.get("path") != path or asked.get("port") not in ports[0][:2]:
            yield f"{probe} {asked}"
    startup, readiness = container["startupProbe"], container["readinessProbe"]
    if not startup["failureThreshold"] * startup["periodSeconds"] >= 120:
        yield "startupProbe: a large bundle takes minutes to come from a bucket"
    if not settings.drain_seconds > readiness["periodSeconds"] * readiness["failureThreshold"]:
        yield f"BOW_SERVE_DRAIN_SECONDS {settings.drain_seconds}: requests would come to a pod that is gone"
    ends = settings.drain_seconds + settings.grace_seconds
    if not pod.get("terminationGracePeriodSeconds", 30) >= ends + MARGIN:
        yield f"terminationGracePeriodSeconds: the server may take {ends}"
    if not settings.reload_seconds > 0:
        yield "BOW_SERVE_RELOAD_SECONDS: a new bundle would not be picked up"
    requests, limits = container["resources"]["requests"], container["resources"]["limits"]
    if not requests.keys() >= {"cpu", "memory", "ephemeral-storage"} or "cpu" in limits:
        yield f"resources {container['resources']}"
    if any(requests.get(name) != limits[name] for name in limits):
        yield f"resources {container['resources']}: what is not set aside ends the pod when the node is full"
