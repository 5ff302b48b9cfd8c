"""`scripts/bench`: our server, or the one at `--url`, against the bare sessions, or with `--vs` against another server
of Immich's protocol; writes JSON, Markdown and plots."""

import argparse
import datetime
import shlex
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import immich_ml_cn

from . import comparison, models, openclip, plots, report
from .attempts import Attempts
from .comparison import Comparison, Start
from .comparison_rows import OTHER, comparison_table
from .limit import BareSessions
from .machine import describe
from .measurements import Measurements
from .requests import Names
from .server import LocalServer, OurServer, Server
from .stages import FAST_SETTING, Bench, Plan
from .targets import ALL, CLIP_VISUAL, FACES, FAST, OCR_DENSE, OCR_SPARSE, OURS, TEXT_LONG, TEXT_SHORT

IMAGE_TASKS = (CLIP_VISUAL, FACES, OCR_DENSE, OCR_SPARSE, ALL)
STAGES = ("throughput", "fast", "text", "http", "start", "pause", "memory", "int8", "scaling", "against")
SHAPES = "shapes"
"""For GPUs: on a CPU it takes half an hour, so that it runs only where it is asked for."""
COMPARED = ("throughput", "text", "start", "memory")
"""The stages of a comparison with another server."""
NEED_OURS = ("fast", "http", "start", "pause", "memory", "int8", SHAPES)

FULL = Plan(
    rounds=3,
    seconds=5.0,
    clients={CLIP_VISUAL: (1, 2, 8, 16), **dict.fromkeys((FACES, OCR_DENSE, OCR_SPARSE, ALL), (1, 4, 16))},
    many=(32, 64),
    starts=5,
    probes=100,
    shapes=1000,
)
QUICK = Plan(
    rounds=1,
    seconds=1.0,
    clients={CLIP_VISUAL: (2, 8), **dict.fromkeys((FACES, OCR_DENSE, OCR_SPARSE, ALL), (1,))},
    many=(16,),
    starts=2,
    probes=24,
    shapes=8,
)

_VS_COMMAND = """compare with the server that this command starts: its first requests and its memory as well. It is told
address, port and models' folder by Immich's variables."""


def main(arguments: Sequence[str]) -> int:
    """Run the stages asked for; the exit code."""
    options = _parser().parse_args(arguments)
    options.only = options.only or (COMPARED if _compares(options) else STAGES)
    say = _narrator()
    plan = _plan(options)
    about = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "version": immich_ml_cn.__version__,
        "command": shlex.join(["scripts/bench", *arguments]),
        "machine": describe(),
        "options": asdict(plan),
    }
    measured = Measurements()
    failures: list[str] = []
    if _compares(options):
        device = _compare(options, plan, measured, say, failures)
    else:
        device = _measure(options, plan, measured, say, failures)
    folder: Path = options.out
    folder.mkdir(parents=True, exist_ok=True)
    about = {**about, "device": device, "failures": failures}
    report.write_json(folder / "results.json", measured, about)
    summary = comparison_table(measured) if _compares(options) else report.targets_table(measured)
    report.write_markdown(folder / "results.md", measured, about, summary, plots.draw(folder, measured))
    print(summary)
    say(f"written to {folder}")
    return 1 if failures else 0


def _compare(
    options: argparse.Namespace,
    plan: Plan,
    measured: Measurements,
    say: Callable[[str], None],
    failures: list[str],
) -> str:
    """Measure our server and another one; what was measured, for people."""
    comparison.fill(options.models, say)
    names = Names(options.clip or openclip.NAME, options.faces, options.ocr or comparison.READER, models.TINY)
    tasks = comparison.tasks_for(names)
    compared = Comparison(options.models, tasks, measured, say, rounds=plan.rounds, seconds=plan.seconds)
    if not options.url:
        say("packing the weights, as our server does in its own time")
        BareSessions.record(options.models, list(tasks.values()), dict(options.set))
    attempt = Attempts(options.only, say, failures)
    starts = [_ours(options), _other(options)]
    if not {"throughput", "text"}.isdisjoint(options.only):
        with ExitStack() as stack:
            servers = [stack.enter_context(start(options.models)) for start in starts]
            compared.warm(servers)
            attempt("throughput", lambda: compared.throughput(servers, options.tasks))
            attempt("text", lambda: compared.text(servers))
    if options.vs_command and not options.url:
        attempt("start", lambda: compared.start(starts))
        attempt("memory", lambda: compared.memory(starts))
    return f"CPU, beside {options.vs or options.vs_command}"


def _ours(options: argparse.Namespace) -> Start:
    if options.url:
        return lambda cache: Server(OURS, options.url)
    return lambda cache: OurServer(cache, environ=dict(options.set))


def _other(options: argparse.Namespace) -> Start:
    if options.vs:
        return lambda cache: Server(OTHER, options.vs)
    return lambda cache: LocalServer(OTHER, shlex.split(options.vs_command), cache)


def _measure(
    options: argparse.Namespace,
    plan: Plan,
    measured: Measurements,
    say: Callable[[str], None],
    failures: list[str],
) -> str:
    """Run the stages; what ran the bare sessions."""
    models.fill(options.models, int8="int8" in options.only, say=say)
    names = Names(options.clip or models.CLIP, options.faces, options.ocr or models.OCR, models.TINY)
    bench = Bench(plan, options.models, names, [], measured, say, dict(options.set), _needed(options))

    attempt = Attempts([stage for stage in options.only if not (options.url and stage in NEED_OURS)], say, failures)
    # Alone on the machine first; then with the servers that stay for the rest.
    alone = {
        "start": bench.start,
        "pause": bench.pause,
        "memory": bench.memory,
        "http": bench.http,
        "int8": bench.int8,
        SHAPES: bench.shapes,
    }
    for stage, run in alone.items():
        attempt(stage, run)
    with ExitStack() as stack:
        bench.servers = [stack.enter_context(_ours(options)(options.models))]
        if "fast" in options.only and not options.url:
            bench.fast = stack.enter_context(_fast_server(options))
        attempt("throughput", lambda: bench.throughput(options.tasks))
        attempt("text", bench.text)
        attempt("scaling", bench.scaling)
    if options.against:
        attempt("against", lambda: bench.against(dict(options.against)))
    return bench.device or "no session of its own"


def _needed(options: argparse.Namespace) -> list[str]:
    """The tasks that the chosen stages measure."""
    wanted = {CLIP_VISUAL}
    if not {"throughput", "against"}.isdisjoint(options.only):
        wanted.update(options.tasks)
    if not {"text", "against"}.isdisjoint(options.only):
        wanted.update((TEXT_SHORT, TEXT_LONG))
    return [name for name in (*IMAGE_TASKS, TEXT_SHORT, TEXT_LONG) if name in wanted]


def _fast_server(options: argparse.Namespace) -> Server:
    return OurServer(options.models, name=FAST, environ={**dict(options.set), **FAST_SETTING})


def _compares(options: argparse.Namespace) -> bool:
    return bool(options.vs or options.vs_command)


def _plan(options: argparse.Namespace) -> Plan:
    plan = QUICK if options.quick else FULL
    if options.rounds:
        plan = replace(plan, rounds=options.rounds)
    if options.seconds:
        plan = replace(plan, seconds=options.seconds)
    if options.clients:
        plan = replace(plan, clients=dict.fromkeys(IMAGE_TASKS, tuple(options.clients)))
    return plan


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="about two minutes, to see that everything works")
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="folder for the results (%(default)s)")
    stages: dict[str, Any] = {"nargs": "+", "choices": (*STAGES, SHAPES), "metavar": "STAGE"}
    parser.add_argument("--only", **stages, help=f"of {STAGES} and {SHAPES}; with --vs of {COMPARED}")
    parser.add_argument("--tasks", nargs="+", choices=IMAGE_TASKS, default=list(IMAGE_TASKS), metavar="TASK")
    parser.add_argument("--clients", nargs="+", type=int, help="numbers of clients, for every task")
    parser.add_argument("--rounds", type=int, help="how often each figure is measured")
    parser.add_argument("--seconds", type=float, help="about how long one measurement takes")
    parser.add_argument("--models", type=Path, default=models.default_cache(), help="models' folder (%(default)s)")
    parser.add_argument("--url", help=f"measure this server instead of starting ours; leaves out {NEED_OURS}")
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--vs", metavar="URL", help="compare with this server, which has the same models")
    other.add_argument("--vs-command", metavar="COMMAND", help=_VS_COMMAND)
    pair: dict[str, Any] = {"nargs": "+", "type": _pair, "default": [], "metavar": "NAME=VALUE"}
    parser.add_argument("--set", **pair, help="settings of our server and of the bare sessions")
    parser.add_argument("--against", **pair, help="measure the bare sessions with these settings too: another engine")
    parser.add_argument(
        "--clip", help=f"what the servers call the CLIP model ({models.CLIP}, with --vs {openclip.NAME})"
    )
    parser.add_argument("--faces", default=models.FACES, help="what they call the face pack (%(default)s)")
    parser.add_argument("--ocr", help=f"what they call the OCR model ({models.OCR}, with --vs {comparison.READER})")
    return parser


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def _narrator() -> Callable[[str], None]:
    started = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - started:6.1f} s] {text}", file=sys.stderr, flush=True)

    return say


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # so that the servers it started end too
    sys.exit(main(sys.argv[1:]))
