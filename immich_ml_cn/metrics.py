"""Counters and histograms of a running server, in prometheus-client's types.

The library is imported when `Metrics` is made, not with this module: 14 ms and 1 MB. An observation costs 2 µs; a
request makes about ten.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

SECONDS: Final = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper bounds of the buckets of durations."""

ITEMS: Final = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0, 64.0)
"""Upper bounds of the buckets of batch sizes."""

MAX_ERRORS: Final = 20
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


@dataclass(frozen=True, slots=True)
class RecordedError:
    """A failure of ours, for people: when by the monotonic clock in seconds, and what was said."""

    at: float
    message: str


class Metrics:
    """The metrics of one service. Its numbers may be read from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            clock: monotonic seconds.
        """
        from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, disable_created_metrics

        disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more for each one, which the text format cannot mark as such
        self._clock = clock
        self._started = clock()
        self._errors: deque[RecordedError] = deque(maxlen=MAX_ERRORS)
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)

        def counter(name: str, help: str, *labels: str) -> Counter:
            return Counter(f"immich_ml_{name}", help, labels, registry=registry)

        def histogram(name: str, help: str, buckets: Sequence[float]) -> Histogram:
            return Histogram(f"immich_ml_{name}", help, ("model",), registry=registry, buckets=buckets)

        self._requests = counter("requests", "Tasks of requests, by how they ended.", "task", "model", "status")
        self._responses = counter("responses", "Answered requests.", "route", "status")
        self._responses_of: dict[tuple[str, int], Counter] = {}
        self._fetches = counter("fetches", "Fetches of models.", "model", "outcome")
        self._batch_size = histogram("batch_size", "Items of one batch.", ITEMS)
        self._times = {what: histogram(f"{what}_seconds", meaning, SECONDS) for what, meaning in TIMES.items()}

    def count_request(self, task: str, model: str, status: int) -> None:
        """Count a task of a request by how it ended; `model` must be of a bounded set."""
        self._requests.labels(task, model, status).inc()

    def count_response(self, route: str, status: int) -> None:
        """Count an answered request."""
        counted = self._responses_of.get((route, status))
        if counted is None:  # prometheus-client takes longer to find it than to count
            counted = self._responses_of[route, status] = self._responses.labels(route, status)
        counted.inc()

    def count_fetch(self, model: str, outcome: str) -> None:
        """Count a fetch from the internet that ended as ``ok`` or ``failed``."""
        self._fetches.labels(model, outcome).inc()

    def observe(self, what: str, model: str, seconds: float) -> None:
        """Observe a duration, of those in `TIMES`; `model` is "" where a request as a whole is meant."""
        self._times[what].labels(model).observe(seconds)

    def observe_batch(self, model: str, size: int) -> None:
        """Observe a batch of `size` items."""
        self._batch_size.labels(model).observe(size)

    @contextmanager
    def time(self, what: str, model: str = "") -> Iterator[None]:
        """Observe the duration of a `with` block, however it ends."""
        started = self._clock()
        try:
            yield
        finally:
            self.observe(what, model, self._clock() - started)

    def record_error(self, message: str) -> None:
        """Remember a failure of ours; the oldest is forgotten."""
        self._errors.append(RecordedError(self._clock(), message))

    def last_errors(self) -> list[dict[str, Any]]:
        """The remembered failures, the newest first."""
        now = self._clock()
        return [{"secondsAgo": round(now - error.at), "message": error.message} for error in reversed(self._errors)]

    def uptime(self) -> float:
        """Seconds since these metrics began."""
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


def exposition(metrics: Metrics, info: Mapping[str, str], gauges: Sequence[Gauge]) -> bytes:
    """Everything in Prometheus' text format, the process itself (memory, CPU, open files) included.

    Takes milliseconds: not for the event loop.

    Args:
        info: what runs here, the labels of ``immich_ml_info``.
    """
    import prometheus_client
    from prometheus_client import CollectorRegistry, Info, generate_latest

    moment = CollectorRegistry()
    Info("immich_ml", "What runs here.", registry=moment).info(dict(info))
    for gauge in gauges:
        labels = (gauge.label,) if gauge.label else ()
        family = prometheus_client.Gauge(f"immich_ml_{gauge.name}", gauge.meaning, labels, registry=moment)
        for value, number in gauge.values.items():
            (family.labels(value) if labels else family).set(number)
    return generate_latest(metrics.registry) + generate_latest(moment)
