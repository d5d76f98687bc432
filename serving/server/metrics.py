"""What Prometheus is told at /metrics. With several workers, any of them answers for all."""

import os
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.metrics import disable_created_metrics
from prometheus_client.multiprocess import MultiProcessCollector

from serving.predictor import Predictor

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10)


class Metrics:
    """The counters of one process."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        registry = CollectorRegistry()
        self._registry = registry
        self.requests = Counter(
            "bowsprit_requests",
            "Requests that were answered, by HTTP `status`.",
            ["status"],
            registry=registry,
        )
        self.seconds = Histogram(
            "bowsprit_request_seconds",
            "The time from a request's headers, or all of it if it comes in one piece, to its answer, of "
            "requests for predictions.",
            buckets=BUCKETS,
            registry=registry,
        )
        self.texts = Counter("bowsprit_texts", "Texts that were classified.", registry=registry)
        self.reloads = Counter(
            "bowsprit_reloads",
            "Other bundles that were found, by `result`: `served` or `refused`.",
            ["result"],
            registry=registry,
        )
        self._model = Gauge(
            "bowsprit_model_info",
            "1 for the bundle that is served, by `bundle_id` and `provider`.",
            ["bundle_id", "provider"],
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._by_status: dict[int, Counter] = {}
        for result in ("served", "refused"):
            self.reloads.labels(result)

    def answered(self, status: int) -> None:
        """Counts a request."""
        counter = self._by_status.get(status)
        if counter is None:
            counter = self._by_status[status] = self.requests.labels(str(status))
        counter.inc()

    def serves(self, predictor: Predictor, before: Predictor | None) -> None:
        """Says which bundle is served from now on."""
        if before is not None:
            self._model.labels(before.bundle_id, before.provider).set(0)
        self._model.labels(predictor.bundle_id, predictor.provider).set(1)

    def families(self) -> Iterator[Metric]:
        """All of it, metric by metric."""
        return iter(self._registry.collect())

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return generate_latest(self._registry)
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        return generate_latest(registry)
