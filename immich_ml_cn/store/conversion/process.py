"""A conversion in a process of its own, so that nothing waits for it and its memory goes with it.

The onnx package and NumPy hold up every other thread for as long as a weight takes.
"""

import json
import os
import selectors
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Final, cast

from immich_ml_cn.engines import checking_engine, child_process
from immich_ml_cn.engines.graphs.files import Graph
from immich_ml_cn.engines.session import Session
from immich_ml_cn.errors import ServiceError, Unavailable
from immich_ml_cn.messages import from_json, said_by, to_json, tr
from immich_ml_cn.settings import Settings
from immich_ml_cn.store.fetch.failure import Cancelled, writing
from immich_ml_cn.store.fetch.progress import Progress

from .architecture import Architecture, Bert, ResNet, VisionTransformer
from .convert import STAGING, Request, convert
from .errors import CheckpointError

_MODULE: Final = __name__
_POLL_S: Final = 0.2
_NICENESS: Final = 10


class RefusedCheckpoint(Unavailable):
    """503: the checkpoint is not what it should be; the message names it and says why."""


def convert_in_child(request: Request, name: str, progress: Progress, cancelled: threading.Event) -> tuple[Path, ...]:
    """See `convert`. Blocks: call it on a worker thread.

    Args:
        name: of the model, for people.
        cancelled: set it to stop; nothing is left behind.

    Raises:
        RefusedCheckpoint: the checkpoint is not what it should be.
        Unavailable: the process ended without an answer, as it does when memory is short.
        DiskFailed: the disk refuses.
        Cancelled: it was stopped.
    """
    try:
        answer, code = _ask_child(request, name, progress, cancelled)
    finally:
        # Where the process was killed, by us or for want of memory, it could not tidy up.
        shutil.rmtree(request.folder / STAGING, ignore_errors=True)
    match answer:
        case {"files": files}:
            return tuple(map(Path, files))
        case {"refused": reason}:
            raise RefusedCheckpoint(from_json(reason))
        case {"unavailable": reason}:
            raise Unavailable(from_json(reason))
        case {"errno": number, "strerror": reason}:
            with writing(request.folder):
                raise OSError(number, reason)
    raise Unavailable(
        tr(
            "{path} could not be converted: the process for it ended with {code}; it needs about 1 GB of free memory, "
            "2.5 GB for ViT-H-14",
            path=request.checkpoint,
            code=code,
        )
    )


def _ask_child(
    request: Request, name: str, progress: Progress, cancelled: threading.Event
) -> tuple[Mapping[str, Any], int]:
    """The last word of the other process and its exit code."""
    command = child_process.command(_MODULE, "main", json.dumps(_described(request)))
    with subprocess.Popen(command, bufsize=0, stdout=subprocess.PIPE) as process:  # noqa: S603 - ours
        try:
            answer = _follow(_lines(cast(IO[bytes], process.stdout), cancelled), name, progress)
        except BaseException:
            process.kill()
            raise
    return answer, process.returncode


def _follow(lines: Iterator[Mapping[str, Any]], name: str, progress: Progress) -> Mapping[str, Any]:
    """Pass on what the other process tells of its progress; its last word, {} where it has none."""
    begun = False
    try:
        for line in lines:
            match line:
                case {"start": file, "tensors": tensors, "total": total}:
                    if begun:
                        progress.finish()
                    said = tr("converting {name} ({tensors} tensors)", name=f"{name}/{file}", tensors=tensors)
                    progress.start(said, 0, total)
                    begun = True
                case {"advance": count}:
                    progress.advance(count)
                case _:
                    return line
    finally:
        if begun:
            progress.finish()
    return {}


def _lines(stream: IO[bytes], cancelled: threading.Event) -> Iterator[Mapping[str, Any]]:
    """What the other process writes, until it ends.

    Raises:
        Cancelled: nobody waits for it any more.
    """
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while True:
            if cancelled.is_set():
                raise Cancelled(tr("the conversion was stopped because the server is shutting down"))
            if not selector.select(_POLL_S):
                continue
            data = os.read(stream.fileno(), 1 << 16)
            *lines, rest = (rest + data).split(b"\n")
            yield from map(json.loads, lines)
            if not data:
                return


def main() -> None:
    """The other process: convert what its argument describes."""
    output = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    with suppress(OSError):
        os.nice(_NICENESS)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")  # where memory ends, this process does, not the server

    def tell(**values: object) -> None:
        output.write(json.dumps(values) + "\n")

    try:
        tell(files=[str(path) for path in convert(_request(json.loads(sys.argv[1])), _Teller(tell), _open)])
    except CheckpointError as error:
        tell(refused=to_json(said_by(error)))
    except ServiceError as error:
        tell(unavailable=to_json(said_by(error)))
    except OSError as error:
        tell(errno=error.errno, strerror=error.strerror or str(error))


class _Teller:
    """Sends a conversion's progress to the process that started it."""

    def __init__(self, tell: Callable[..., None]) -> None:
        self._tell = tell

    def start(self, file: str, tensors: int, total: int) -> None:
        """See `convert.Observer`."""
        self._tell(start=file, tensors=tensors, total=total)

    def advance(self, count: int) -> None:
        """See `convert.Observer`."""
        self._tell(advance=count)


def _open(graph: Graph) -> Session:
    return checking_engine(Settings()).open(graph, "bulk", 0)


def _described(request: Request) -> dict[str, Any]:
    """The request as JSON has it."""
    paths = {name: str(getattr(request, name)) for name in ("checkpoint", "folder", "vocabulary")}
    return {**asdict(request), **paths}


def _request(described: Mapping[str, Any]) -> Request:
    """The request of a description."""
    architecture = described["architecture"]
    vision = architecture["vision"]
    if "patch" not in vision:
        vision = {**vision, "layers": tuple(vision["layers"])}
    return Request(
        checkpoint=Path(described["checkpoint"]),
        folder=Path(described["folder"]),
        architecture=Architecture(
            VisionTransformer(**vision) if "patch" in vision else ResNet(**vision),
            Bert(**architecture["text"]),
            architecture["dimension"],
        ),
        precisions=tuple(described["precisions"]),
        vocabulary=Path(described["vocabulary"]),
        limit=described["limit"],
    )
