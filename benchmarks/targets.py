"""What the project asks of itself, and what was measured of it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from .measurements import Key, Measurements

OURS = "ours"
INT8 = "ours, int8"
FAST = "ours, fast preprocessing"
BARE = "bare"
RAPID = "RapidOCR"
IN_TURN, SIDE_BY_SIDE = "one run after the other", "runs side by side"
NOT_PACKED = "ours, weights not packed on disk"
CLIP_VISUAL, FACES, OCR_DENSE, OCR_SPARSE, ALL = "clip-visual", "faces", "ocr-dense", "ocr-sparse", "all"
TEXT_SHORT, TEXT_LONG = "clip-text-10", "clip-text-52"
IDLE, IMPORTING = "ours, idle", "ours, 8 clients importing"
ONE_CORE, ONE_CORE_BARE = "ours, 1 core", "1 core, bare"
HTTP = "http"


@dataclass(frozen=True)
class Target:
    """One demand.

    Attributes:
        what: for people.
        bound: the least or the most it may be, in `unit`.
        measured: reads it from the measurements, None when it was not measured.
    """

    what: str
    sense: Literal["≥", "≤"]
    bound: float
    unit: str
    measured: Callable[[Measurements], float | None]

    def is_met(self, value: float) -> bool:
        """Whether a measured value satisfies it."""
        return value >= self.bound if self.sense == "≥" else value <= self.bound


def targets() -> list[Target]:
    """All of them, in the order of the issue."""
    return [
        *(_share_of_best_batch(series, clients) for series in (OURS, FAST) for clients in (2, 8)),
        *(_share(CLIP_VISUAL, clients, 0.93, limit=SIDE_BY_SIDE) for clients in (2, 8)),
        Target("clip-text, 10 tokens, idle: over the bare session", "≤", 3.0, "ms", _text_overhead),
        Target("clip-text, 10 tokens: of the untrimmed bare session", "≤", 0.4, "×", _text_trimmed),
        Target("clip-text p95 while 8 clients import: of the idle p95", "≤", 1.5, "×", _text_under_load),
        Target("int8 clip-visual, 8 clients: of our fp32", "≥", 2.5, "×", _int8),
        *(_share(task, clients, 0.92, limit=IN_TURN) for task in (OCR_DENSE, OCR_SPARSE) for clients in (1, 4)),
        *(_share(task, clients, 0.92) for task in (OCR_DENSE, OCR_SPARSE) for clients in (1, 4)),
        *(_over_rapidocr(task, clients) for task in (OCR_DENSE, OCR_SPARSE) for clients in (1, 4)),
        *(_share(FACES, clients, 0.90) for clients in (1, 4)),
        *(_share(ALL, clients, 0.88) for clients in (1, 4)),
        Target("HTTP and scheduling of an image request", "≤", 2.0, "ms of CPU", _middle(Key("http", HTTP, "net"))),
        Target("process start to first /ping", "≤", 0.8, "s", _middle(Key("start", "", OURS))),
        Target("idle memory", "≤", 100.0, "MB", _middle(Key("memory", "", "idle"))),
        Target("idle processes", "≤", 1.0, "", _middle(Key("processes", "", "idle"))),
        Target("memory after unloading: over idle", "≤", 60.0, "MB", _memory_kept),
        Target("clip-visual: most clients, of the best rate with fewer", "≥", 0.95, "×", _does_not_fall),
    ]


def _middle(key: Key) -> Callable[[Measurements], float | None]:
    return lambda measured: measured.middle(key)


def _share(task: str, clients: int, bound: float, *, limit: str = BARE) -> Target:
    def measured(found: Measurements) -> float | None:
        return found.ratio(Key("rate", task, OURS, clients), Key("rate", task, limit))

    how = "" if limit == BARE else f", {limit}"
    return Target(f"{task}, {_clients(clients)}: of the bare sessions{how}", "≥", bound, "×", measured)


def _share_of_best_batch(series: str, clients: int) -> Target:
    def measured(found: Measurements) -> float | None:
        limit = found.best("rate", CLIP_VISUAL, BARE)
        return limit and found.ratio(Key("rate", CLIP_VISUAL, series, clients), limit)

    what = f"{CLIP_VISUAL}{series.removeprefix(OURS)}, {_clients(clients)}: of the bare session's best batch"
    return Target(what, "≥", 0.93, "×", measured)


def _over_rapidocr(task: str, clients: int) -> Target:
    def measured(found: Measurements) -> float | None:
        return found.ratio(Key("rate", task, OURS, clients), Key("rate", task, RAPID))

    return Target(f"{task}, {_clients(clients)}: of RapidOCR in a loop", "≥", 1.3, "×", measured)


def _clients(number: int) -> str:
    return f"{number} client{'s' if number > 1 else ''}"


def _text_overhead(found: Measurements) -> float | None:
    return found.difference(Key("p50", TEXT_SHORT, OURS, 1), Key("p50", TEXT_SHORT, BARE))


def _text_trimmed(found: Measurements) -> float | None:
    return found.ratio(Key("p50", TEXT_SHORT, OURS, 1), Key("p50", TEXT_SHORT, "bare, untrimmed"))


def _text_under_load(found: Measurements) -> float | None:
    return found.ratio(Key("p95", TEXT_SHORT, IMPORTING, 1), Key("p95", TEXT_SHORT, IDLE, 1))


def _int8(found: Measurements) -> float | None:
    return found.ratio(Key("rate", CLIP_VISUAL, INT8, 8), Key("rate", CLIP_VISUAL, "ours, fp32 beside int8", 8))


def _memory_kept(found: Measurements) -> float | None:
    return found.difference(Key("memory", "", "unloaded"), Key("memory", "", "idle"))


def _does_not_fall(found: Measurements) -> float | None:
    keys = sorted((key for key in found.keys("rate", CLIP_VISUAL) if key.series == OURS), key=lambda key: key.clients)
    rates = [found.middle(key) or 0.0 for key in keys]
    return rates[-1] / max(rates[:-1]) if len(rates) > 1 else None
