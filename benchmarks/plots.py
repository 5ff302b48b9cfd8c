"""The plots: matplotlib is imported here only, and only when it is installed."""

import importlib.util
from pathlib import Path
from typing import Any

from .measurements import Key, Measurements
from .report import TASKS, limit_key
from .targets import IDLE, IMPORTING, RAPID, TEXT_SHORT


def draw(folder: Path, measured: Measurements) -> list[Path]:
    """Write PNGs of what was measured; none where matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        return []
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawn = []
    for name, draw_on in (("throughput", _throughput), ("text", _text), ("memory", _memory)):
        figure = pyplot.figure(figsize=(11, 6) if name == "throughput" else (6, 3.5), layout="constrained", dpi=110)
        if draw_on(figure, measured):
            drawn.append(folder / f"{name}.png")
            figure.savefig(drawn[-1])
        pyplot.close(figure)
    return drawn


def _throughput(figure: Any, measured: Measurements) -> bool:
    """Requests per second over clients, one panel per task, with the limit and RapidOCR as lines."""
    tasks = [task for task in TASKS if limit_key(measured, task)]
    for place, task in enumerate(tasks):
        axes = figure.add_subplot(2, 3, place + 1)
        served = [key for key in measured.keys("rate", task) if key.clients]
        for series in dict.fromkeys(key.series for key in served):
            keys = sorted((key for key in served if key.series == series), key=lambda key: key.clients)
            axes.plot([key.clients for key in keys], [measured.middle(key) for key in keys], "o-", label=series)
        for key in (limit_key(measured, task), Key("rate", task, RAPID)):
            if key and (value := measured.middle(key)):
                axes.axhline(value, linestyle="--" if key.series != RAPID else ":", color="grey")
                axes.annotate(key.series, (1, value), fontsize=7, va="bottom")
        axes.margins(y=0.12)
        axes.set(title=task, xlabel="clients", ylabel="requests/s", xscale="log")
        axes.set_ylim(bottom=0)
        axes.set_xticks(sorted({key.clients for key in served}), labels=sorted({key.clients for key in served}))
        axes.minorticks_off()
        axes.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=2)  # off the points
    return bool(tasks)


def _text(figure: Any, measured: Measurements) -> bool:
    """Latency of a short query, alone and while images are imported."""
    keys = [key for key in measured.keys("p95", TEXT_SHORT) if key.series.endswith((IDLE[4:], IMPORTING[4:]))]
    axes = figure.add_subplot()
    for place, key in enumerate(keys):
        for quantity, shift in (("p50", -0.2), ("p95", 0.2)):
            value = measured.middle(key._replace(quantity=quantity)) or 0.0
            axes.bar(place + shift, value, 0.38, color="C0" if quantity == "p50" else "C1")
            axes.annotate(f"{value:.0f}", (place + shift, value), ha="center", va="bottom", fontsize=8)
    axes.set_xticks(range(len(keys)), labels=[key.series.replace(", ", "\n") for key in keys], fontsize=8)
    axes.margins(y=0.12)
    axes.set(ylabel="ms (left p50, right p95)", title="text query of 10 tokens")
    return bool(keys)


def _memory(figure: Any, measured: Measurements) -> bool:
    """Resident memory through a server's life."""
    keys = list(measured.keys("memory"))
    axes = figure.add_subplot()
    values = [measured.middle(key) or 0.0 for key in keys]
    for place, value in enumerate(values):
        axes.annotate(f"{value:.0f}", (place, value), ha="center", va="bottom", fontsize=8)
    axes.bar(range(len(keys)), values, 0.6)
    axes.set_xticks(range(len(keys)), labels=[key.series for key in keys])
    axes.margins(y=0.12)
    axes.set(ylabel="resident MB", title="memory")
    return bool(keys)
