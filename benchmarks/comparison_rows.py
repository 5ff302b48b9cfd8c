"""What our server and another one are compared by: the rows of `docs/benchmarks.md`."""

from collections.abc import Sequence
from dataclasses import dataclass

from .measurements import UNITS, Key, Measurements
from .report import number, table
from .targets import ALL, CLIP_VISUAL, FACES, OCR_DENSE, OCR_SPARSE, OURS, TEXT_SHORT

OTHER = "other"
IMPORT_CLIENTS = 8
QUERIES_PER_S = 2.0
"""So few that either server answers all of them while it imports."""

BESIDE = "clip-visual beside text queries"
FIRST_EVER = "clip-visual, first start on a cache"

_MORE_IS_BETTER = frozenset({"rate"})


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        what: for people.
        key: what is measured, without a series.
        wanted: the least ratio that the project asks of itself.
    """

    what: str
    key: Key
    wanted: float = 1.0

    def of(self, series: str) -> Key:
        """The key of one server's values."""
        return self.key._replace(series=series)

    def ratio(self, measured: Measurements) -> float | None:
        """How much better ours is: above 1 it is faster, or takes less."""
        ours, other = self.of(OURS), self.of(OTHER)
        return measured.ratio(ours, other) if self.key.quantity in _MORE_IS_BETTER else measured.ratio(other, ours)


def rows() -> list[Row]:
    """All of them, in the order of the table."""
    return [
        *(_rate(CLIP_VISUAL, clients, 1.05 if clients == 1 else 1.0) for clients in (1, 2, 8)),
        *(_rate(name, clients) for name in (FACES, OCR_DENSE, OCR_SPARSE, ALL) for clients in (1, 4)),
        Row("text query, idle, p50", Key("p50", TEXT_SHORT, "", 1)),
        Row("text query, idle, p95", Key("p95", TEXT_SHORT, "", 1), 1.1),
        Row(
            f"text query, {QUERIES_PER_S:g} a second while {IMPORT_CLIENTS} clients import, p95",
            Key("p95", TEXT_SHORT, "", IMPORT_CLIENTS),
        ),
        Row(
            f"photos beside {QUERIES_PER_S:g} text queries a second, {IMPORT_CLIENTS} clients",
            Key("rate", BESIDE, "", IMPORT_CLIENTS),
        ),
        Row("first image after a start", Key("first", CLIP_VISUAL, ""), 2.0),
        Row("first OCR after a start", Key("first", OCR_SPARSE, ""), 2.0),
        Row("first text query after a start", Key("first", TEXT_SHORT, "")),
        Row("first image of the first start ever", Key("first", FIRST_EVER, "")),
        Row("resident after all models have worked", Key("memory", "", "")),
    ]


def _rate(task: str, clients: int, wanted: float = 1.0) -> Row:
    return Row(f"{task}, {clients} client{'s' if clients > 1 else ''}", Key("rate", task, "", clients), wanted)


def comparison_table(measured: Measurements) -> str:
    """The rows that were measured, and below them those that were not."""
    found = [(row, ratio) for row in rows() if (ratio := row.ratio(measured)) is not None]
    missing = [row.what for row in rows() if row.ratio(measured) is None]
    lines = [table(("row", "unit", "other", "ours", "ratio", "wanted"), (_cells(measured, *pair) for pair in found))]
    return "\n\n".join([*lines, f"Not measured: {'; '.join(missing)}."] if missing else lines)


def _cells(measured: Measurements, row: Row, ratio: float) -> Sequence[str]:
    values = [number(measured.middle(row.of(series)) or 0.0) for series in (OTHER, OURS)]
    return (row.what, UNITS[row.key.quantity], *values, f"{ratio:.2f} ×", f"≥ {row.wanted:g} ×")
