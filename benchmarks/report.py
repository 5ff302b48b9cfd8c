"""The results as JSON for machines and as Markdown for `docs/benchmarks.md`."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .machine import sentence
from .measurements import Key, Measurements
from .targets import BARE, ONE_CORE, ONE_CORE_BARE, Target, targets

TASKS = ("clip-visual", "faces", "ocr-dense", "ocr-sparse", "all")


def write_json(path: Path, measured: Measurements, about: Mapping[str, Any]) -> None:
    """All values of all rounds, and what `about` says of the run."""
    document = {**about, "targets": list(_judged(measured)), "measurements": measured.as_json()}
    path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def write_markdown(
    path: Path, measured: Measurements, about: Mapping[str, Any], summary: str, plots: Sequence[Path]
) -> None:
    """The summary, all tables, and the plots below them."""
    parts = [_about(about), "## Summary", summary]
    for task in TASKS:
        if any(measured.keys("rate", task)):
            parts += [f"## {task}", rates_table(measured, task)]
    parts += [*_section(measured, "Text queries", ("p50", "p95"), "clip-text")]
    for title, quantities in (
        ("HTTP", ("http",)),
        ("Start, and the first request", ("start", "first")),
        ("After a pause", ("pause",)),
        ("Memory", ("memory", "processes")),
    ):
        parts += _section(measured, title, quantities)
    parts += [f"![{plot.stem}]({plot.name})" for plot in plots]
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def targets_table(measured: Measurements) -> str:
    """Each target with what was measured."""
    rows = []
    for row in _judged(measured):
        unit = f" {row['unit']}".rstrip()
        value = "not measured" if row["measured"] is None else f"{number(row['measured'])}{unit}"
        verdict = {True: "yes", False: "**no**", None: "–"}[row["met"]]
        rows.append((row["what"], f"{row['sense']} {row['bound']:g}{unit}", value, verdict))
    return table(("what", "target", "measured", "met"), rows)


def rates_table(measured: Measurements, task: str) -> str:
    """Requests per second of a task, one row per series and number of clients."""
    limit = measured.best("rate", task, BARE)
    rows = []
    for key in measured.keys("rate", task):
        share = measured.ratio(key, _limit_of(key, limit)) if limit else None
        others = [measured.middle(key._replace(quantity=name)) for name in ("p50", "p95", "cpu", "busy", "generator")]
        rows.append((key.series, key.clients or "–", *map(_cell, (measured.middle(key), share, *others))))
    heads = ("series", "clients", "1/s", "of the limit", "p50 ms", "p95 ms", "CPU s/request", "cores busy", "generator")
    return table(heads, rows)


def table(heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def number(value: float) -> str:
    """Three significant digits, and no exponent."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"


def _judged(measured: Measurements) -> Iterable[dict[str, Any]]:
    for target in targets():
        yield _judgement(target, target.measured(measured))


def _judgement(target: Target, value: float | None) -> dict[str, Any]:
    met = None if value is None else target.is_met(value)
    unit, bound = target.unit, target.bound
    return {"what": target.what, "sense": target.sense, "bound": bound, "unit": unit, "measured": value, "met": met}


def _about(about: Mapping[str, Any]) -> str:
    options = about["options"]
    lines = [
        f"Machine: {sentence(about['machine'])}.",
        f"Measured {about['date']}, server {about['version']}, on {about['device']}; "
        f"medians of {options['rounds']} rounds of about {options['seconds']:g} s each, limit and server in turns.",
        f"Command: `{about['command']}`",
    ]
    lines += [f"**{failure}**" for failure in about["failures"]]
    if options["rounds"] < 3:
        lines.append("**Fewer than three rounds: not to be quoted.**")
    return "\n\n".join(lines)


def _section(measured: Measurements, title: str, quantities: Sequence[str], task: str = "") -> list[str]:
    keys = [key for name in quantities for key in measured.keys(name) if key.task.startswith(task)]
    rows = [(key.task or "–", key.series, key.quantity, _cell(measured.middle(key))) for key in keys]
    return [f"## {title}", table(("task", "series", "quantity", "median"), rows)] if rows else []


def _cell(value: float | None) -> str:
    return "–" if value is None else number(value)


def _limit_of(key: Key, limit: Key) -> Key:
    """What confined the server confines its limit."""
    return Key("rate", key.task, ONE_CORE_BARE) if key.series in (ONE_CORE, ONE_CORE_BARE) else limit


def limit_key(measured: Measurements, task: str) -> Key | None:
    """The series that counts as a task's limit."""
    return measured.best("rate", task, BARE)
