"""What Prometheus reads at /metrics. Needs the extra `serve`; without it nothing is counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ..bundle.distribution import Difference
from ..core.errors import Overloaded, QueueFull
from ..core.need import need
from .drift import Drift
from .meter import Meter

_SECONDS = tuple(base * 10.0**power for power in range(-4, 1) for base in (1.0, 2.5, 5.0))
_SIZES = tuple(float(2**k) for k in range(8))


class Metrics:
    """The registry of one server: nothing of it is global."""

    def __init__(self) -> None:
        client = need("prometheus_client", why="for /metrics")
        self._client, self._registry = client, client.CollectorRegistry()
        labels = ("model", "version")

        def histogram(name: str, what: str, buckets: Sequence[float], *more: str) -> Any:
            return client.Histogram(f"hasten_{name}", what, (*labels, *more), buckets=buckets, registry=self._registry)

        self.requests = client.Counter("hasten_requests", "Requests by how they ended", (*labels, "outcome"), registry=self._registry)
        self.queue = histogram("queue_seconds", "Time of a request in the queue", _SECONDS)
        self.calls = histogram("call_seconds", "Time of a call of the program", _SECONDS)
        self.sizes = histogram("batch_size", "Samples in a call", _SIZES)
        self.stages = histogram("stage_seconds", "Time to decode a request and to encode its answer", _SECONDS, "stage")
        self.misses = client.Counter("hasten_slo_misses", "Answers that came after their deadline", labels, registry=self._registry)
        self.copies = client.Counter(
            "hasten_shadow_copies", "Copies of requests by how their outputs compare", (*labels, "outcome"), registry=self._registry
        )
        self.rollbacks = client.Counter("hasten_canary_rollbacks", "Canaries found worse", (*labels, "cause"), registry=self._registry)
        self.labels = client.Counter("hasten_feedback", "Labels that came back", (*labels, "correct"), registry=self._registry)
        self.waiting = client.Gauge("hasten_queue_length", "Requests that wait", labels, registry=self._registry)
        self.programs = client.Gauge("hasten_replicas", "Programs that answer calls", labels, registry=self._registry)
        self.restarts = client.Counter("hasten_replica_restarts", "Replicas that were started again", labels, registry=self._registry)
        self.objective = client.Gauge("hasten_slo_seconds", "The service objective; +Inf: none", labels, registry=self._registry)

        self.drift = _DriftGauges(need("prometheus_client.core").GaugeMetricFamily)
        self._registry.register(self.drift)

    def meter(self, model: str, version: str, *, objective: float, waiting: Callable[[], int], programs: Callable[[], int]) -> Meter:
        """Where one model's numbers go. waiting, programs: how many requests wait and programs answer, asked when Prometheus asks."""
        self.objective.labels(model, version).set(objective)
        self.waiting.labels(model, version).set_function(waiting)
        self.programs.labels(model, version).set_function(programs)
        return _ModelMeter(self, model, version)

    def shadow(self, model: str, version: str) -> Callable[[str], None]:
        """Where the outcomes of a shadow's copies go."""
        return lambda outcome: self.copies.labels(model, version, outcome).inc()

    def rolled_back(self, model: str, version: str, cause: str) -> None:
        """A canary was found worse. cause: failures, latency, quality."""
        self.rollbacks.labels(model, version, cause).inc()

    def labelled(self, model: str, version: str, correct: bool) -> None:
        """Somebody said whether an answer was right."""
        self.labels.labels(model, version, str(correct).lower()).inc()

    def text(self) -> tuple[bytes, str]:
        """What /metrics answers, and its media type."""
        return self._client.generate_latest(self._registry), self._client.CONTENT_TYPE_LATEST


class _DriftGauges:
    """What the drift watch of each model says, asked when Prometheus asks. Models whose bundle cannot tell have no series."""

    _GAUGES: Mapping[str, tuple[str, Callable[[Difference], float]]] = {
        "hasten_drift_bits": ("Divergence from what was certified, in the last whole window", lambda d: d.divergence),
        "hasten_drift_floor_bits": ("What chance alone explains of it", lambda d: d.floor),
        "hasten_drift_alarm": ("1 where it is more than that", lambda d: float(d.alarm)),
    }

    def __init__(self, family: Any) -> None:
        self._family = family
        self._watches: dict[tuple[str, str], Callable[[], Drift | None]] = {}

    def watch(self, model: str, version: str, drift: Callable[[], Drift | None]) -> None:
        """Ask `drift` from now on; None: it is not loaded."""
        self._watches[model, version] = drift

    def collect(self) -> Iterator[Any]:
        """For the registry."""
        watches = {key: watch.state for key, ask in self._watches.items() if (watch := ask()) is not None}
        samples = self._family("hasten_drift_window_samples", "Samples in the window that is being filled", labels=("model", "version"))
        for key, state in watches.items():
            if state.known:
                samples.add_metric(key, state.samples)
        yield samples
        for name, (what, read) in self._GAUGES.items():
            gauge = self._family(name, what, labels=("model", "version", "feature"))
            for key, state in watches.items():
                for difference in state.differences:
                    gauge.add_metric((*key, difference.name), read(difference))
            yield gauge


class _ModelMeter(Meter):
    def __init__(self, metrics: Metrics, model: str, version: str) -> None:
        outcomes = ("answered", "queue_full", "refused", "failed", "cancelled")
        self._ended = {outcome: metrics.requests.labels(model, version, outcome) for outcome in outcomes}
        self._stages = {stage: metrics.stages.labels(model, version, stage) for stage in ("decode", "encode")}
        kinds = (metrics.queue, metrics.calls, metrics.sizes, metrics.misses, metrics.restarts)
        self._queue, self._calls, self._sizes, self._misses, self._restarts = (kind.labels(model, version) for kind in kinds)

    def call(self, *, size: int, waited: Sequence[float], seconds: float, late: int) -> None:
        self._calls.observe(seconds)
        self._sizes.observe(size)
        for one in waited:
            self._queue.observe(one)
        self._ended["answered"].inc(len(waited))
        self._misses.inc(late)

    def stage(self, name: str, seconds: float) -> None:
        self._stages[name].observe(seconds)

    def refused(self, error: Overloaded) -> None:
        self._ended["queue_full" if isinstance(error, QueueFull) else "refused"].inc()

    def failed(self) -> None:
        self._ended["failed"].inc()

    def restarted(self) -> None:
        self._restarts.inc()

    def cancelled(self) -> None:
        self._ended["cancelled"].inc()
