"""Our server and another one that speaks Immich's protocol, on the same models, row by row and in turns."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias, TypeVar

from immich_ml_cn.sources.ocr import bundled
from immich_ml_cn.sources.tasks import ModelTask

from . import openclip
from . import requests as forms
from .comparison_rows import BESIDE, FIRST_EVER, IMPORT_CLIENTS, QUERIES_PER_S
from .measurements import Key, Measurements, percentile
from .models import FACES as FACE_PACK
from .models import OCR, build_detector, build_recognizer
from .requests import Names, Task
from .server import Server, tree_mb
from .targets import ALL, CLIP_VISUAL, FACES, OCR_DENSE, OCR_SPARSE, TEXT_SHORT
from .tasks import image_tasks

T = TypeVar("T")
Start: TypeAlias = Callable[[Path], Server]
"""A server on a models' folder; it runs within a `with`, and may have been running before."""

READER = "PP-OCRv5_mobile"
"""What both call the OCR model."""

REST_S = 5.0
"""From the open port to the first request: a server that has just been started is not asked at once."""

MEMORY_CLIENTS = 4
CLIENTS = {CLIP_VISUAL: (1, 2, 8), FACES: (1, 4), OCR_DENSE: (1, 4), OCR_SPARSE: (1, 4), ALL: (1, 4)}
_MADE_HERE = ("prepacked", "openvino", "edited", "search", "recent-models.json")
"""What our server writes beside the models."""


class Comparison:
    """Measures both servers; what is measured goes by their names, `OURS` and `OTHER`."""

    def __init__(
        self,
        cache: Path,
        tasks: Mapping[str, Task],
        measured: Measurements,
        say: Callable[[str], None],
        *,
        rounds: int,
        seconds: float,
    ) -> None:
        """
        Args:
            cache: the models' folder, of both servers.
            tasks: what is asked, see `tasks_for`.
            measured: filled by the methods.
            say: told what is going on.
            rounds: how often each figure is measured.
            seconds: about how long one of them takes.
        """
        self._cache = cache
        self._tasks = tasks
        self._measured = measured
        self._say = say
        self._rounds = rounds
        self._seconds = seconds

    def warm(self, servers: Sequence[Server]) -> None:
        """Let both load every model and see every input once."""
        for server in servers:
            self._say(f"warming {server.name}")
            for task in self._tasks.values():
                for number in range(len(task.inputs)):
                    server.answer(task, number)

    def throughput(self, servers: Sequence[Server], chosen: Sequence[str]) -> None:
        """Requests per second of the chosen tasks."""
        for number in self._rounds_of("requests per second"):
            for name in chosen:
                for clients in CLIENTS[name]:
                    for server in _in_turns(servers, number):
                        self._rate(server, name, clients)

    def text(self, servers: Sequence[Server]) -> None:
        """The time that a search takes, idle and beside an import, and what the import gets done beside it."""
        for number in self._rounds_of("text queries"):
            for server in _in_turns(servers, number):
                self._idle_text(server)
            for server in _in_turns(servers, number):
                self._text_beside_import(server)

    def start(self, starts: Sequence[Start]) -> None:
        """The first answers after a start, and after the first one on a folder of models."""
        for number in self._rounds_of("first requests"):
            for start in _in_turns(starts, number):
                for name in (CLIP_VISUAL, OCR_SPARSE, TEXT_SHORT):
                    self._first_answer(start, self._cache, name, name)
                with tempfile.TemporaryDirectory(dir=self._cache.parent, ignore_cleanup_errors=True) as folder:
                    fresh = _fresh_copy(self._cache, Path(folder) / "cache")
                    self._first_answer(start, fresh, CLIP_VISUAL, FIRST_EVER)

    def memory(self, starts: Sequence[Start]) -> None:
        """Resident memory once every model has worked."""
        for number in self._rounds_of("memory"):
            for start in _in_turns(starts, number):
                self._memory(start)

    def _rounds_of(self, what: str) -> Iterator[int]:
        for number in range(self._rounds):
            self._say(f"round {number + 1} of {self._rounds}: {what}")
            yield number

    def _rate(self, server: Server, name: str, clients: int) -> None:
        task = self._tasks[name]
        usual = self._measured.middle(Key("rate", name, server.name, clients)) or self._guess(server, name)
        inputs = len(task.inputs)
        count = inputs * max(1, round(usual * self._seconds / inputs), -(-2 * clients // inputs))
        self._add_rate(name, server, clients, server.measure(task, clients, count).rate)

    def _guess(self, server: Server, name: str) -> float:
        """Answers per second, by one answer."""
        begun = time.perf_counter()
        server.answer(self._tasks[name])
        return 1 / (time.perf_counter() - begun)

    def _idle_text(self, server: Server) -> None:
        """A search now and then, as a person sends them."""
        count = max(8, round(10 * self._seconds))
        outcome = server.drive(server.stream(self._tasks[TEXT_SHORT], 1, count, pause_s=0.03)).outcomes[0]
        self._add_latencies(server.name, 1, outcome.latencies_s)

    def _text_beside_import(self, server: Server) -> None:
        """Photos of several clients, and as many searches on either server."""
        usual = self._measured.middle(Key("rate", BESIDE, server.name, IMPORT_CLIENTS)) or self._guess(
            server, CLIP_VISUAL
        )
        count = max(2 * IMPORT_CLIENTS, round(3 * self._seconds * usual))
        photos = server.stream(self._tasks[CLIP_VISUAL], IMPORT_CLIENTS, count)
        queries = server.stream(self._tasks[TEXT_SHORT], 2 * IMPORT_CLIENTS, None, interval_s=1 / QUERIES_PER_S)
        imported, asked = server.drive(photos, queries).outcomes
        self._add_rate(BESIDE, server, IMPORT_CLIENTS, imported.rate)
        self._add_rate(TEXT_SHORT, server, IMPORT_CLIENTS, asked.rate)
        self._add_latencies(server.name, IMPORT_CLIENTS, asked.latencies_s)

    def _first_answer(self, start: Start, cache: Path, name: str, noted: str) -> None:
        with start(cache) as server:
            time.sleep(REST_S)
            begun = time.perf_counter()
            server.answer(self._tasks[name])
            self._measured.add(Key("first", noted, server.name), time.perf_counter() - begun)

    def _memory(self, start: Start) -> None:
        with start(self._cache) as server:
            assert server.pid is not None
            for name in (ALL, FACES, OCR_DENSE, CLIP_VISUAL):
                server.measure(self._tasks[name], MEMORY_CLIENTS, 2 * MEMORY_CLIENTS)
            server.measure(self._tasks[TEXT_SHORT], 1, 4)
            self._measured.add(Key("memory", "", server.name), tree_mb(server.pid))

    def _add_rate(self, name: str, server: Server, clients: int, rate: float) -> None:
        self._measured.add(Key("rate", name, server.name, clients), rate)

    def _add_latencies(self, series: str, clients: int, latencies_s: Sequence[float]) -> None:
        for quantity, share in (("p50", 0.5), ("p95", 0.95)):
            self._measured.add(Key(quantity, TEXT_SHORT, series, clients), 1000 * percentile(latencies_s, share))


def tasks_for(names: Names) -> dict[str, Task]:
    """What both servers are asked, by name; `names` are what both call the models."""
    text = Task(TEXT_SHORT, forms.clip_textual(names.clip), texts=openclip.QUERIES)
    return {task.name: task for task in (*image_tasks(names), text)}


def fill(cache: Path, say: Callable[[str], None]) -> None:
    """Put what is missing of the models that both servers know under one name into a cache folder, about 0.8 GB.

    PP-OCR's weights are those of RapidOCR's wheel, under a name that Immich's service has as well.
    """
    clip, faces = cache / "clip" / openclip.NAME, cache / "facial-recognition" / FACE_PACK
    for made, build in (
        (clip / "textual" / "tokenizer_config.json", lambda path: openclip.build(clip)),
        (faces / "detection" / "model.onnx", build_detector),
        (faces / "recognition" / "model.onnx", build_recognizer),
    ):
        if not made.exists():
            say(f"building {made.relative_to(cache)}")
            build(made)
    for component in ModelTask.OCR.components:
        path = cache / "ocr" / READER / component / "model.onnx"
        source = bundled(ModelTask.OCR, OCR, component)
        if source is not None and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, path)


def _fresh_copy(cache: Path, folder: Path) -> Path:
    """The models' files, without what our server has written beside them."""
    shutil.copytree(cache, folder, copy_function=os.link, ignore=shutil.ignore_patterns(*_MADE_HERE))
    return folder


def _in_turns(pair: Sequence[T], number: int) -> Sequence[T]:
    """The pair, the other way round in every second round."""
    return pair if number % 2 == 0 else pair[::-1]
