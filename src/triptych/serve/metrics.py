"""What the service counts, for Prometheus: requests, refused photos, what is served.

Labels come from short lists: the template of a route and never an address, the class of a status, a known method. So
no visitor can make a new series, and no query or item id is ever in one.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version as package_version

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import Scope

from triptych.serve.runtime import NotReady, Runtime
from triptych.serve.uploads import Reason

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Names and labels are plain letters, so the oldest form of the format will do, which every Prometheus reads."""
BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
STATIC_PREFIX, STATIC_ROUTE = "/static/", "/static/{file}"
UNMATCHED = "unmatched"


class Metrics:
    """The counters of one service, in a registry of their own: a process may hold several services.

    Args:
        runtime: where the engine is; it is asked when the counters are read.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._registry = CollectorRegistry()
        labels = ("method", "route", "status")
        self._requests = Counter(
            "triptych_http_requests", "Requests answered.", labelnames=labels, registry=self._registry
        )
        self._seconds = Histogram(
            "triptych_http_request_duration_seconds",
            "Time from a request's arrival to the end of its response.",
            labelnames=labels,
            buckets=BUCKETS_S,
            registry=self._registry,
        )
        self._photos_refused = Counter(
            "triptych_photos_refused",
            "Uploaded photos that were refused, by reason.",
            labelnames=("reason",),
            registry=self._registry,
        )
        for reason in Reason:
            self._photos_refused.labels(reason.value)  # there from the start, so that the first one is an increase
        self._registry.register(_Served(runtime))
        ProcessCollector(registry=self._registry)

    def count_request(self, *, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request.

        Args:
            method: as the client wrote it.
            route: from `route_of`.
            status: HTTP status of the response.
            seconds: from its arrival to the end of the response.
        """
        labels = (method if method in METHODS else "other", route, f"{status // 100}xx")
        self._requests.labels(*labels).inc()
        self._seconds.labels(*labels).observe(seconds)

    def count_refused_photo(self, reason: Reason) -> None:
        """Count one photo that was refused."""
        self._photos_refused.labels(reason.value).inc()

    def to_text(self) -> bytes:
        """Return all of it in Prometheus' text format."""
        return generate_latest(self._registry)


def route_of(scope: Scope) -> str:
    """Return the template of the route that answered a request, such as ``/api/items/{item_id}``.

    Args:
        scope: of the request, after it was answered.
    """
    template = getattr(scope.get("route"), "path_format", None)
    if isinstance(template, str) and template:
        return template
    return STATIC_ROUTE if scope["path"].startswith(STATIC_PREFIX) else UNMATCHED


class _Served(Collector):
    """What is served, looked up when it is asked for."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def collect(self) -> Iterator[Metric]:
        yield CounterMetricFamily(
            "triptych_failed_swaps",
            "Runs that were to be served and could not be.",
            value=self._runtime.num_failed_swaps,
        )
        try:
            engine, generation = self._runtime.serving
        except NotReady:
            yield GaugeMetricFamily("triptych_ready", "1 once the engine answers.", value=0)
            return
        info = engine.info()
        yield GaugeMetricFamily("triptych_ready", "1 once the engine answers.", value=1)
        yield GaugeMetricFamily("triptych_generation", "Runs served by this process so far.", value=generation)
        yield GaugeMetricFamily("triptych_catalogue_items", "Items, added ones included.", value=info["items"])
        yield GaugeMetricFamily("triptych_added_items", "Items added at run time.", value=info["added_items"])
        ids = {name: info["parts"][name] for name in ("catalogue", "encoder", "index")}
        about = {"version": package_version("triptych"), "bundle": info["bundle"], **ids}
        yield InfoMetricFamily("triptych_model", "What answers: ids of the artefacts.", value=about)
