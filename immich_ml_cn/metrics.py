"""What is counted and timed while the server works: plain numbers, and their form for Prometheus.

Counting costs a dictionary look-up, on the event loop's thread only; prometheus-client is imported when somebody asks
for the first time.
"""

import copy
import time
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from prometheus_client.core import Metric

SECONDS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper ends of the buckets that times fall into."""

ITEMS: Final = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 64.0)
"""Upper ends of the buckets that batch sizes fall into."""

ERRORS_KEPT: Final = 20
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

TIMES: Final = {
    "queue": "Seconds that an item waited for its batch.",
    "measure": "Seconds to read an image's size, waiting for a thread included.",
    "decode": "Seconds to decode an image, waiting for a thread included.",
    "inference": "Seconds that a batch ran on its lane.",
    "postprocess": "Seconds to finish what a model gave, waiting for a thread included.",
    "receive": "Seconds in which a request arrived.",
    "search": "Seconds to find photos by their text and to make the vector that ranks them first.",
}
"""What is timed, and its meaning; by model but for the parts that concern a request as a whole."""


class Histogram:
    """Values counted by the bucket they fall into."""

    def __init__(self, ends: Sequence[float]) -> None:
        """
        Args:
            ends: upper ends of the buckets, ascending; one without end comes after them.
        """
        self.ends = tuple(ends)
        self.counts = [0] * (len(self.ends) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self.counts[bisect_left(self.ends, value)] += 1
        self.sum += value

    def cumulative(self) -> list[tuple[str, float]]:
        """Each bucket's upper end and how many values are below it, as Prometheus has them."""
        total, rows = 0, []
        for end, count in zip((*map(str, self.ends), "+Inf"), self.counts, strict=True):
            total += count
            rows.append((end, float(total)))
        return rows


@dataclass(frozen=True, slots=True)
class Failure:
    """A failure of ours, for people: when by the monotonic clock in seconds, and what was said."""

    at: float
    message: str


class Metrics:
    """The numbers of one service. Used on the event loop's thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            clock: monotonic seconds.
        """
        self._clock = clock
        self._started = clock()
        self.requests: Counter[tuple[str, str, str]] = Counter()
        self.responses: Counter[tuple[str, str]] = Counter()
        self.fetches: Counter[tuple[str, str]] = Counter()
        self.seconds: dict[tuple[str, str], Histogram] = {}
        self.batches: dict[str, Histogram] = {}
        self._errors: deque[Failure] = deque(maxlen=ERRORS_KEPT)

    def count_request(self, task: str, model: str, status: int) -> None:
        """Count a task of a request by how it ended; `model` must be of a bounded set."""
        self.requests[task, model, str(status)] += 1

    def count_response(self, route: str, status: int) -> None:
        """Count an answered request."""
        self.responses[route, str(status)] += 1

    def count_fetch(self, model: str, outcome: str) -> None:
        """Count a fetch from the internet that ended as ``ok`` or ``failed``."""
        self.fetches[model, outcome] += 1

    def observe(self, what: str, model: str, seconds: float) -> None:
        """Count a time, of those in `TIMES`; `model` is "" where a request as a whole is meant."""
        histogram = self.seconds.get((what, model))
        if histogram is None:
            histogram = self.seconds[what, model] = Histogram(SECONDS)
        histogram.add(seconds)

    def observe_batch(self, model: str, size: int) -> None:
        """Count a batch of `size` items."""
        if model not in self.batches:
            self.batches[model] = Histogram(ITEMS)
        self.batches[model].add(size)

    @contextmanager
    def time(self, what: str, model: str = "") -> Iterator[None]:
        """Count the time of a `with` block, however it ends."""
        started = self._clock()
        try:
            yield
        finally:
            self.observe(what, model, self._clock() - started)

    def record_error(self, message: str) -> None:
        """Remember a failure of ours; the oldest is forgotten."""
        self._errors.append(Failure(self._clock(), message))

    def last_errors(self) -> list[dict[str, Any]]:
        """The remembered failures, the newest first."""
        now = self._clock()
        return [{"secondsAgo": round(now - error.at), "message": error.message} for error in reversed(self._errors)]

    def copy(self) -> "Metrics":
        """The numbers of this moment, for another thread to read."""
        return copy.deepcopy(self)

    def uptime(self) -> float:
        """Seconds since these numbers began."""
        return self._clock() - self._started


@dataclass(frozen=True)
class Gauge:
    """Values of this moment.

    Attributes:
        values: by label's value; by "" where there is no label.
    """

    name: str
    meaning: str
    values: Mapping[str, float]
    label: str = ""


@dataclass(frozen=True, eq=False)
class Snapshot:
    """Everything at one moment, for Prometheus; `metrics` is a copy."""

    metrics: Metrics
    version: str
    provider: str
    gauges: Sequence[Gauge] = field(default_factory=tuple)

    def collect(self) -> Iterator["Metric"]:
        """prometheus-client's protocol of a collector."""
        from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily

        yield InfoMetricFamily(
            "immich_ml", "What runs here.", value={"version": self.version, "provider": self.provider}
        )
        yield self._counter(
            "requests", "Tasks of requests, by how they ended.", ("task", "model", "status"), self.metrics.requests
        )
        yield self._counter("responses", "Answered requests.", ("route", "status"), self.metrics.responses)
        yield self._counter("fetches", "Fetches of models.", ("model", "outcome"), self.metrics.fetches)
        for what, meaning in TIMES.items():
            times = HistogramMetricFamily(f"immich_ml_{what}_seconds", meaning, labels=("model",))
            for (kind, model), histogram in self.metrics.seconds.items():
                if kind == what:
                    times.add_metric((model,), histogram.cumulative(), histogram.sum)
            yield times
        sizes = HistogramMetricFamily("immich_ml_batch_size", "Items of one batch.", labels=("model",))
        for model, histogram in self.metrics.batches.items():
            sizes.add_metric((model,), histogram.cumulative(), histogram.sum)
        yield sizes
        for gauge in self.gauges:
            labels = [gauge.label] if gauge.label else []
            family = GaugeMetricFamily(f"immich_ml_{gauge.name}", gauge.meaning, labels=labels)
            for value, number in gauge.values.items():
                family.add_metric([value] if labels else [], number)
            yield family

    @staticmethod
    def _counter(name: str, meaning: str, labels: Sequence[str], counts: Mapping[Any, int]) -> "Metric":
        from prometheus_client.core import CounterMetricFamily

        family = CounterMetricFamily(f"immich_ml_{name}", meaning, labels=labels)
        for values, count in counts.items():
            family.add_metric(values, count)
        return family


def exposition(snapshot: Snapshot) -> bytes:
    """The numbers as Prometheus reads them, with those of the process itself (memory, threads' CPU, open files)."""
    from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

    registry = CollectorRegistry()
    registry.register(snapshot)
    ProcessCollector(registry=registry)
    return generate_latest(registry)
