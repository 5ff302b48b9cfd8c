"""What was measured: one list of values, one per round, for each quantity, task, series and number of clients."""

import math
from collections.abc import Iterable, Iterator, Sequence
from statistics import median
from typing import Any, NamedTuple

UNITS = {
    "rate": "1/s",
    "p50": "ms",
    "p95": "ms",
    "cpu": "s of CPU per request",
    "busy": "share of the cores",
    "generator": "share of one core",
    "start": "s",
    "first": "s",
    "pause": "s",
    "memory": "MB",
    "processes": "",
    "http": "ms of CPU",
}
"""Every quantity and its unit."""


class Key(NamedTuple):
    """What a list of values is of.

    Attributes:
        quantity: one of `UNITS`.
        task: such as ``clip-visual``, "" where none is meant.
        series: who was measured: ``ours``, ``bare``, ``RapidOCR`` …
        clients: how many at once, 0 where it does not apply.
    """

    quantity: str
    task: str
    series: str
    clients: int = 0


class Measurements:
    """Values by key, in the order of the rounds."""

    def __init__(self) -> None:
        self._values: dict[Key, list[float]] = {}

    def add(self, key: Key, value: float) -> None:
        """Note the value of one more round."""
        if key.quantity not in UNITS:
            raise ValueError(f"{key.quantity!r} is no quantity; there are {', '.join(UNITS)}")
        self._values.setdefault(key, []).append(value)

    def values(self, key: Key) -> Sequence[float]:
        """The values of all rounds, () when nothing was measured."""
        return tuple(self._values.get(key, ()))

    def middle(self, key: Key) -> float | None:
        """The median over the rounds, None when nothing was measured."""
        values = self._values.get(key)
        return median(values) if values else None

    def ratio(self, above: Key, below: Key) -> float | None:
        """The median over the rounds of the ratio within a round: what the machine does meanwhile cancels out."""
        pairs = [(a, b) for a, b in zip(self.values(above), self.values(below), strict=False) if b]
        return median(a / b for a, b in pairs) if pairs else None

    def difference(self, above: Key, below: Key) -> float | None:
        """The median over the rounds of the difference within a round."""
        pairs = list(zip(self.values(above), self.values(below), strict=False))
        return median(a - b for a, b in pairs) if pairs else None

    def keys(self, quantity: str, task: str = "") -> Iterator[Key]:
        """The keys of a quantity, of one task where one is named, in the order they were first measured."""
        return (key for key in self._values if key.quantity == quantity and task in ("", key.task))

    def best(self, quantity: str, task: str, prefix: str) -> Key | None:
        """Of the series that start with `prefix` the one with the highest median."""
        keys = [key for key in self.keys(quantity, task) if key.series.startswith(prefix)]
        return max(keys, key=lambda key: median(self._values[key]), default=None)

    def as_json(self) -> list[dict[str, Any]]:
        """One object per key."""
        return [
            {**key._asdict(), "unit": UNITS[key.quantity], "median": median(values), "values": values}
            for key, values in self._values.items()
        ]


def percentile(values: Iterable[float], share: float) -> float:
    """The value below which `share` (0…1) of the values lie, interpolated between neighbours; NaN of none."""
    ordered = sorted(values)
    if not ordered:
        return math.nan
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)
