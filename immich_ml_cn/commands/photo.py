"""`immich-ml-cn test PHOTO`: what the server makes of one photo, on the running server or by itself."""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from immich_ml_cn.errors import ServiceError
from immich_ml_cn.messages import Translator, said_by, tr
from immich_ml_cn.settings import Settings
from immich_ml_cn.sources.tasks import Component, ModelTask
from immich_ml_cn.store.inventory import Presence, Row, find, inventory

from .console import Console
from .drawing import draw
from .local_server import LocalServer

TASKS: Final = {"ocr": ModelTask.OCR, "faces": ModelTask.FACES, "clip": ModelTask.CLIP}
"""What a person calls a task → the task."""

SHOWN_NUMBERS: Final = 4
"""Of an embedding."""

Entries = dict[str, dict[str, Any]]
Answer = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """What came of one task; `error` is None where there is an answer."""

    task: ModelTask
    model: str
    seconds: float
    answer: Answer
    error: str | None


def add_parser(commands: "argparse._SubParsersAction[argparse.ArgumentParser]", say: Translator) -> None:
    """Add `test` to the command line."""
    parser = commands.add_parser("test", help=say(tr("show text, faces and embedding of one photo: does it work?")))
    parser.add_argument("photo", type=Path, metavar="PHOTO", help=say(tr("a file, or - for standard input")))
    parser.add_argument("--out", type=Path, metavar="PNG", help=say(tr("write the photo with the boxes drawn into it")))
    parser.add_argument(
        "--task", action="append", choices=tuple(TASKS), help=say(tr("only this one; may be said several times"))
    )
    parser.add_argument("--model", action="append", default=[], metavar="NAME", help=say(tr("in place of our choice")))
    parser.add_argument("--json", action="store_true", help="JSON")
    parser.set_defaults(command=_test)


def _test(settings: Settings, options: argparse.Namespace) -> int:
    console = Console(settings)
    try:
        image = sys.stdin.buffer.read() if str(options.photo) == "-" else options.photo.read_bytes()
    except OSError as error:
        reason = error.strerror or str(error)
        console.complain(tr("{path} cannot be read: {reason}", path=options.photo, reason=reason))
        return 2
    chosen = choose(settings, [TASKS[task] for task in options.task or TASKS], options.model)
    server = LocalServer(settings)
    running = server.answers()
    if not options.json:
        where = tr("asking the server at {address}", address=server.address)
        console.print(where if running else tr("no server runs here: this command does the work by itself"))
    outcomes = _ask_server(server, chosen, image) if running else _ask_ourselves(settings, chosen, image)
    if options.json:
        console.json([vars(outcome) for outcome in outcomes])
    for outcome in outcomes if not options.json else ():
        _print(console, outcome)
    failed = any(outcome.error for outcome in outcomes)
    if failed and not options.json:
        console.print()
        console.print(tr("What is missing, and what to do: immich-ml-cn doctor"))
    drawn = options.out is None or _draw(console, image, outcomes, options.out)
    return int(not drawn or failed)


# --- which models ---


def choose(settings: Settings, tasks: Iterable[ModelTask], models: Sequence[str] = ()) -> dict[ModelTask, str]:
    """Task → the name to ask for: a named one, else one that is here, else the recommended one."""
    named = {found[0]: name for name in models if (found := find(settings, name)) is not None}
    return {task: named.get(task) or _best(settings, task) for task in tasks}


def _best(settings: Settings, task: ModelTask) -> str:
    rows = [one for one in inventory(settings) if one.task == task]
    best = max(rows, key=lambda one: (one.presence in {Presence.CACHED, Presence.BUNDLED}, one.recommended))
    return _asked_as(best)


def _asked_as(one: Row) -> str:
    return one.names[0] if one.names else one.model


def entries_for(task: ModelTask, model: str) -> Entries:
    """What Immich's server sends for a task."""
    components = [Component.VISUAL] if task is ModelTask.CLIP else task.components
    return {task: {component: {"modelName": model} for component in components}}


# --- asking ---


def _ask_server(server: LocalServer, chosen: Mapping[ModelTask, str], image: bytes) -> list[Outcome]:
    def ask(entries: Entries) -> Answer:
        status, answer = server.predict(entries, image)
        if status != 200:
            raise OSError(str(answer.get("detail", status)))
        return answer

    return [_timed(task, model, ask) for task, model in chosen.items()]


def _timed(task: ModelTask, model: str, ask: Callable[[Entries], Answer]) -> Outcome:
    begun = time.monotonic()
    answer, error = {}, None
    try:
        answer = ask(entries_for(task, model))
    except (OSError, ServiceError) as failure:
        error = said_by(failure)
    return Outcome(task, model, round(time.monotonic() - begun, 3), answer, error)


def _ask_ourselves(settings: Settings, chosen: Mapping[ModelTask, str], image: bytes) -> list[Outcome]:
    from immich_ml_cn.engines import select_engine
    from immich_ml_cn.service import Service

    def dead(reason: str) -> None:
        raise SystemExit(reason)

    service = Service(settings, select_engine(settings), dead)

    async def answer_all() -> list[Outcome]:
        loop = asyncio.get_running_loop()

        def ask(entries: Entries) -> Answer:
            answered = service.gateway.answer(json.dumps(entries), image, None)
            found: Answer = json.loads(asyncio.run_coroutine_threadsafe(answered, loop).result())
            return found

        async with service.running():
            return [await asyncio.to_thread(_timed, task, model, ask) for task, model in chosen.items()]

    return asyncio.run(answer_all())


# --- showing ---


def _print(console: Console, outcome: Outcome) -> None:
    console.print()
    if outcome.error:
        console.print(
            tr("{task} ({model}) failed: {reason}", task=outcome.task, model=outcome.model, reason=outcome.error)
        )
        return
    for line in _lines(outcome):
        console.print(line)


def _draw(console: Console, image: bytes, outcomes: Iterable[Outcome], out: Path) -> bool:
    """Whether the picture could be written; a line on standard error says so, or why not."""
    try:
        draw(image, [outcome.answer for outcome in outcomes], out)
    except (OSError, ValueError) as error:
        console.complain(tr("{path} cannot be drawn: {reason}", path=out, reason=error))
        return False
    console.complain(tr("{path} shows the boxes", path=out))
    return True


def _lines(outcome: Outcome) -> Iterator[object]:
    found: Any = outcome.answer.get(outcome.task)
    values = {"model": outcome.model, "seconds": outcome.seconds}
    match outcome.task:
        case ModelTask.OCR:
            texts = found["text"] if found else []
            yield tr("text ({model}, {seconds:.2f} s): {count} lines", count=len(texts), **values)
            yield from (f"  {score:.2f}  {text}" for text, score in zip(texts, found["textScore"], strict=True))
        case ModelTask.FACES:
            yield tr("faces ({model}, {seconds:.2f} s): {count}", count=len(found or ()), **values)
            yield from (f"  {face['score']:.2f}  {_shown_box(face['boundingBox'])}" for face in found or ())
        case _:
            numbers = json.loads(found or "[]")
            yield tr("embedding ({model}, {seconds:.2f} s): {count} numbers", count=len(numbers), **values)
            yield "  " + ", ".join(f"{number:.4f}" for number in numbers[:SHOWN_NUMBERS]) + ", …"


def _shown_box(box: Mapping[str, float]) -> str:
    width, height = box["x2"] - box["x1"], box["y2"] - box["y1"]
    return f"{width:.0f} x {height:.0f}  ({box['x1']:.0f}, {box['y1']:.0f})"
