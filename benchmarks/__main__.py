"""`scripts/bench`: our server, or the one at `--url`, against the bare sessions; writes JSON, Markdown and plots."""

import argparse
import datetime
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import immich_ml_cn

from . import models, plots, report
from .machine import describe
from .measurements import Measurements
from .requests import Names
from .server import OurServer, Server
from .stages import FAST_SETTING, Bench, Plan
from .targets import ALL, CLIP_VISUAL, FACES, FAST, OCR_DENSE, OCR_SPARSE, TEXT_LONG, TEXT_SHORT

IMAGE_TASKS = (CLIP_VISUAL, FACES, OCR_DENSE, OCR_SPARSE, ALL)
STAGES = ("throughput", "fast", "text", "http", "start", "pause", "memory", "int8", "scaling", "against")
SHAPES = "shapes"
"""For GPUs: on a CPU it takes half an hour, so that it runs only where it is asked for."""
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


def main(arguments: Sequence[str]) -> int:
    """Run the stages asked for; the exit code."""
    options = _parser().parse_args(arguments)
    say = _narrator()
    plan = _plan(options)
    about = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "version": immich_ml_cn.__version__,
        "command": shlex.join(["scripts/bench", *arguments]),
        "machine": describe(),
        "options": asdict(plan),
    }
    models.fill(options.models, int8="int8" in options.only, say=say)
    measured = Measurements()
    failures: list[str] = []
    device = _measure(options, plan, measured, say, failures)
    folder: Path = options.out
    folder.mkdir(parents=True, exist_ok=True)
    about = {**about, "device": device, "failures": failures}
    report.write_json(folder / "results.json", measured, about)
    report.write_markdown(folder / "results.md", measured, about, plots.draw(folder, measured))
    print(report.targets_table(measured))
    say(f"written to {folder}")
    return 1 if failures else 0


def _measure(
    options: argparse.Namespace,
    plan: Plan,
    measured: Measurements,
    say: Callable[[str], None],
    failures: list[str],
) -> str:
    """Run the stages; what ran the bare sessions. A stage that fails is noted and does not keep the others."""
    names = Names(options.clip, options.faces, options.ocr, models.TINY)
    bench = Bench(plan, options.models, names, [], measured, say, dict(options.set), _needed(options))

    def attempt(stage: str, run: Callable[[], None]) -> None:
        if stage not in options.only or (options.url and stage in NEED_OURS):
            return
        try:
            run()
        except Exception as error:
            failures.append(f"{stage} failed: {type(error).__name__}: {error}")
            say(f"{failures[-1]}\n{traceback.format_exc()}")

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
        bench.servers = [stack.enter_context(server) for server in _servers(options)]
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


def _servers(options: argparse.Namespace) -> list[Server]:
    first = Server("ours", options.url) if options.url else OurServer(options.models, environ=dict(options.set))
    return [first, Server("theirs", options.vs)] if options.vs else [first]


def _fast_server(options: argparse.Namespace) -> Server:
    return OurServer(options.models, name=FAST, environ={**dict(options.set), **FAST_SETTING})


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
    stages: dict[str, Any] = {"nargs": "+", "choices": (*STAGES, SHAPES), "default": list(STAGES), "metavar": "STAGE"}
    parser.add_argument("--only", **stages, help=f"of {STAGES}, which are the default, and {SHAPES}")
    parser.add_argument("--tasks", nargs="+", choices=IMAGE_TASKS, default=list(IMAGE_TASKS), metavar="TASK")
    parser.add_argument("--clients", nargs="+", type=int, help="numbers of clients, for every task")
    parser.add_argument("--rounds", type=int, help="how often each figure is measured")
    parser.add_argument("--seconds", type=float, help="about how long one measurement takes")
    parser.add_argument("--models", type=Path, default=models.default_cache(), help="models' folder (%(default)s)")
    parser.add_argument("--url", help=f"measure this server instead of starting ours; leaves out {NEED_OURS}")
    parser.add_argument("--vs", metavar="URL", help="measure a second server in the same rounds")
    pair: dict[str, Any] = {"nargs": "+", "type": _pair, "default": [], "metavar": "NAME=VALUE"}
    parser.add_argument("--set", **pair, help="settings of our server and of the bare sessions")
    parser.add_argument("--against", **pair, help="measure the bare sessions with these settings too: another engine")
    parser.add_argument("--clip", default=models.CLIP, help="what the servers call the CLIP model (%(default)s)")
    parser.add_argument("--faces", default=models.FACES, help="what they call the face pack (%(default)s)")
    parser.add_argument("--ocr", default=models.OCR, help="what they call the OCR model (%(default)s)")
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
