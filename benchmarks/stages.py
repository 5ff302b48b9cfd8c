"""The parts of a run. Each measures something in rounds: limit, server, limit, server …"""

import json
import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from . import pictures
from . import requests as forms
from .limit import BareSessions
from .measurements import Key, Measurements, percentile
from .models import TINY
from .pauses import UNLOADING, seconds_after_pause
from .rapid import RapidLoop
from .requests import Names, Task
from .server import OurServer, Server, cpu_seconds, loaded_mb, process_count, resident_mb
from .shapes import memory_over_shapes
from .targets import (
    ALL,
    BARE,
    CLIP_VISUAL,
    FACES,
    HTTP,
    IDLE,
    IMPORTING,
    IN_TURN,
    INT8,
    NOT_PACKED,
    OCR_DENSE,
    OCR_SPARSE,
    ONE_CORE,
    ONE_CORE_BARE,
    OURS,
    RAPID,
    SIDE_BY_SIDE,
    TEXT_LONG,
    TEXT_SHORT,
)
from .tasks import image_tasks

BATCHES = (1, 2, 4, 8)
TEXT_TURNS = 5
BESIDE = "usual settings, in turns with others"
IMPORT_CLIENTS = 8
UNLOAD_AFTER_S = 15
LATER_S = 4.0
ASKED_LATER = f"{OURS}, asked {LATER_S:g} s after the start"
PREVIEW_BYTES = 300_000
INT8_SETTING = {"MACHINE_LEARNING_CLIP_PRECISION": "int8"}
FAST_SETTING = {"MACHINE_LEARNING_CLIP_PREPROCESSING": "fast"}
NO_PACKING = {"MACHINE_LEARNING_PREPACK": "false"}
_SHORT_QUERIES = ("海边日落时的小狗", "妈妈抱着小宝宝笑", "雪山下的蓝色湖泊", "朋友一起吃火锅呢")
_LONG_QUERY = (
    "去年夏天我们全家人一起在海边的沙滩上看日落时拍下的照片里面有一只白色的小狗正在追着浪花奔跑远处还有几艘渔船"
)


@dataclass(frozen=True)
class Plan:
    """How much is measured.

    Attributes:
        rounds: how often each figure is measured; the median counts.
        seconds: about how long one of them takes.
        clients: task → how many at once.
        many: numbers of clients that are tried once, for the scaling.
        starts: how often the server is started for the start-up time.
        probes: text queries in one round of the text probe.
        shapes: of pictures, over which memory is watched.
    """

    rounds: int
    seconds: float
    clients: dict[str, Sequence[int]]
    many: Sequence[int]
    starts: int
    probes: int
    shapes: int


class Bench:
    """One run of the benchmark."""

    def __init__(
        self,
        plan: Plan,
        cache: Path,
        names: Names,
        servers: Sequence[Server],
        measured: Measurements,
        say: Callable[[str], None],
        environ: Mapping[str, str],
        needed: Sequence[str],
    ) -> None:
        """
        Args:
            cache: the models' folder.
            names: what the servers call the models.
            servers: running; they take turns.
            measured: filled by the stages.
            say: called with what is going on.
            environ: settings beyond the defaults, of our servers and of the bare sessions.
            needed: names of the tasks that the stages will measure.
        """
        self.plan = plan
        self.cache = cache
        self.names = names
        self.servers = servers
        self.measured = measured
        self.say = say
        self.environ = environ
        self.needed = needed
        self.device = ""
        self.fast: Server | None = None
        """Running, with `FAST_SETTING`; takes turns with the others where clients embed images."""

    @cached_property
    def tasks(self) -> dict[str, Task]:
        """What is measured, by name."""
        textual = forms.clip_textual(self.names.clip)
        tasks = [
            *image_tasks(self.names),
            Task(TEXT_SHORT, textual, texts=_SHORT_QUERIES),
            Task(TEXT_LONG, textual, texts=(_LONG_QUERY,)),
        ]
        return {task.name: task for task in tasks}

    @cached_property
    def bare(self) -> BareSessions:
        """The limit, recorded with the names of our own cache."""
        self.say("recording what the sessions are fed")
        tasks = [self._local(self.tasks[name]) for name in self.needed]
        recorded = BareSessions.record(self.cache, tasks, self.environ)
        self.device = recorded.device
        return recorded

    def throughput(self, chosen: Sequence[str]) -> None:
        """Requests per second of each image task, against the bare sessions and RapidOCR."""
        rapid = {name: RapidLoop(self.tasks[name].images) for name in (OCR_DENSE, OCR_SPARSE) if name in chosen}
        self._warm(chosen)
        if self.fast is not None:
            self.fast.answer(self._local(self.tasks[CLIP_VISUAL]))
        for number in range(self.plan.rounds):
            for name in chosen:
                self.say(f"round {number + 1} of {self.plan.rounds}: {name}")
                self._bare_round(name)
                if name in rapid:
                    repeats = self._repeats(name)
                    self.measured.add(Key("rate", name, RAPID), rapid[name].rate(repeats))
                for clients in self.plan.clients[name]:
                    for server in self.servers:
                        self._server_round(server, name, clients)
                    if self.fast is not None and name == CLIP_VISUAL:
                        self._server_round(self.fast, name, clients)

    def scaling(self) -> None:
        """CLIP images with many clients, and on one core."""
        self._warm([CLIP_VISUAL])
        for clients in self.plan.many:
            self.say(f"{clients} clients")
            for server in self.servers:
                self._server_round(server, CLIP_VISUAL, clients)
        core = {min(os.sched_getaffinity(0))}
        with _confined(core):
            task = self._local(self.tasks[CLIP_VISUAL])
            bare = BareSessions.record(self.cache, [task], self.environ)
        with OurServer(self.cache, name=ONE_CORE, cores=core, environ=self.environ) as server:
            server.answer(task)
            for number in range(self.plan.rounds):
                self.say(f"round {number + 1} of {self.plan.rounds}: one core")
                with _confined(core):
                    rate = bare.batch_rate(CLIP_VISUAL, 1, self._repeats(CLIP_VISUAL) * 2)
                self.measured.add(Key("rate", CLIP_VISUAL, ONE_CORE_BARE), rate)
                for clients in (1, 8):
                    self._server_round(server, CLIP_VISUAL, clients, share=0.5)

    def text(self) -> None:
        """Latency of text queries: alone, untrimmed, and while clients import images."""
        self._warm([TEXT_SHORT, TEXT_LONG, CLIP_VISUAL])
        for number in range(self.plan.rounds):
            self.say(f"round {number + 1} of {self.plan.rounds}: text queries")
            for name, inputs in ((TEXT_SHORT, len(_SHORT_QUERIES)), (TEXT_LONG, 1)):
                self._text_round(name, inputs)
            for server in self.servers:
                self._probe(server)

    def _text_round(self, name: str, inputs: int) -> None:
        """Alone, in turns of a second: the machine's speed changes from one to the next."""
        repeats = max(1, self.plan.probes // inputs // TEXT_TURNS)
        found: defaultdict[str, list[float]] = defaultdict(list)
        for _ in range(TEXT_TURNS):
            found[BARE] += self.bare.latencies(name, repeats)
            for server in self.servers:
                found[server.name] += server.measure(self.tasks[name], 1, repeats * inputs).latencies_s
            if name == TEXT_SHORT:
                found["bare, untrimmed"] += self.bare.latencies(name, repeats, length=52)
        for series, latencies_s in found.items():
            self._add_latencies(name, series, 0 if series.startswith(BARE) else 1, latencies_s)

    def int8(self) -> None:
        """CLIP images with 8-bit weights against fp32, both servers running, in turns."""
        task = self._local(self.tasks[CLIP_VISUAL])
        with (
            OurServer(self.cache, name="ours, fp32 beside int8", environ=self.environ) as plain,
            OurServer(self.cache, name=INT8, environ={**self.environ, **INT8_SETTING}) as quantised,
        ):
            if _same_embedding(plain.answer(task), quantised.answer(task)):
                self.say("int8: the server answers as in fp32, so it does not have the setting; nothing measured")
                return
            for number in range(self.plan.rounds):
                self.say(f"round {number + 1} of {self.plan.rounds}: int8")
                for server in (plain, quantised):
                    self._server_round(server, CLIP_VISUAL, 8, task=task)

    def http(self) -> None:
        """CPU of a request whose picture is as long as a preview, but 8 x 8 pixels, on a model of next to no work."""
        task = Task(HTTP, forms.clip_visual(TINY), images=(pictures.padded(PREVIEW_BYTES),))
        count = max(100, round(self.plan.seconds * 200))
        with OurServer(self.cache, environ=self.environ) as server:
            server.measure(task, 1, 50)
            for number in range(self.plan.rounds):
                self.say(f"round {number + 1} of {self.plan.rounds}: HTTP")
                used = _cpu_per_request(server, task, count)
                work = self._tiny_work(task.images[0], count)
                self.measured.add(Key("http", HTTP, "total"), 1000 * used)
                self.measured.add(Key("http", HTTP, "decoding and model"), 1000 * work)
                self.measured.add(Key("http", HTTP, "net"), 1000 * (used - work))

    def start(self) -> None:
        """Seconds from the start of the process to the first /ping, and of the first request of each kind, asked at
        once and after a while; with warm files."""
        ways: tuple[tuple[str, Mapping[str, str], float], ...]
        ways = ((OURS, {}, 0.0), (NOT_PACKED, NO_PACKING, 0.0), (ASKED_LATER, {}, LATER_S))
        for number in range(self.plan.starts + 1):
            for task in (self._local(self.tasks[name]) for name in (TEXT_SHORT, CLIP_VISUAL, OCR_SPARSE)):
                for series, packing, wait_s in ways:
                    with OurServer(self.cache, environ={**self.environ, **packing}) as server:
                        time.sleep(wait_s)
                        begun = time.perf_counter()
                        server.answer(task, 0)
                        if number:  # the first one warms the page cache, and is what the next ones load
                            self.measured.add(Key("start", "", series), server.started_in_s)
                            self.measured.add(Key("first", task.name, series), time.perf_counter() - begun)
        self.say("start measured")

    def pause(self) -> None:
        """How much longer the first answer of each task takes whose models were unloaded, with warm files."""
        with ExitStack() as stack:
            servers = [
                stack.enter_context(
                    OurServer(self.cache, name=series, environ={**self.environ, **UNLOADING, **packing})
                )
                for series, packing in ((OURS, {}), (NOT_PACKED, NO_PACKING))
            ]
            tasks = [self._local(self.tasks[name]) for name in (CLIP_VISUAL, TEXT_SHORT, FACES, OCR_SPARSE)]
            for server in servers:
                for task in tasks:
                    server.answer(task)
            for number in range(self.plan.rounds):
                self.say(f"round {number + 1} of {self.plan.rounds}: after a pause")
                for task in tasks:
                    for server in servers:
                        self.measured.add(Key("pause", task.name, server.name), seconds_after_pause(server, task))

    def memory(self) -> None:
        """Resident memory idle without models, with everything loaded and used, and after everything was unloaded."""
        with TemporaryDirectory() as empty, OurServer(Path(empty), environ=self.environ) as server:
            assert server.pid is not None
            time.sleep(LATER_S)
            self.measured.add(Key("memory", "", "idle"), resident_mb(server.pid))
            self.measured.add(Key("processes", "", "idle"), process_count(server.pid))
        ttl = {"MACHINE_LEARNING_MODEL_TTL": str(UNLOAD_AFTER_S), "MACHINE_LEARNING_MODEL_TTL_POLL_S": "1"}
        with OurServer(self.cache, environ={**self.environ, **ttl}) as server:
            assert server.pid is not None
            self.say("memory: loading everything")
            server.measure(self._local(self.tasks[ALL]), 4, 8)
            server.measure(self._local(self.tasks[TEXT_SHORT]), 1, 4)
            for what, value in zip(("loaded", "loaded, no files"), loaded_mb(server.pid), strict=True):
                self.measured.add(Key("memory", "", what), value)
            self.measured.add(Key("memory", "", "unloaded"), _settled_memory(server.pid))

    def shapes(self) -> None:
        """Memory over many shapes, of the GPUs where there are some: its highest in either half of the run."""
        ocr, faces = (self._local(self.tasks[name]) for name in (OCR_DENSE, FACES))
        for name, values in memory_over_shapes(self.cache, ocr, faces, self.plan.shapes, self.environ).items():
            middle = len(values) // 2
            for half, part in (("first", values[:middle]), ("second", values[middle:])):
                self.measured.add(Key("memory", name, f"highest of the {half} half of {len(values)} shapes"), max(part))
        self.say("shapes measured")

    def against(self, environ: Mapping[str, str]) -> None:
        """The bare sessions under other settings, such as another engine, in turns with the usual ones."""
        series = " ".join(f"{name.removeprefix('MACHINE_LEARNING_')}={value}" for name, value in environ.items())
        tasks = [self._local(self.tasks[name]) for name in self.needed]
        other = BareSessions.record(self.cache, tasks, {**self.environ, **environ})
        for number in range(self.plan.rounds):
            for name in self.needed:
                self.say(f"round {number + 1} of {self.plan.rounds}: {name} with {series}")
                repeats = self._repeats(name)
                for label, sessions in ((BESIDE, self.bare), (f"with {series}", other)):
                    self.measured.add(Key("rate", name, label), 1 / sessions.seconds(name, repeats))

    def _local(self, task: Task) -> Task:
        """The same task under the names of our own cache."""
        from .models import CLIP
        from .models import FACES as PACK
        from .models import OCR as READER

        own = {
            CLIP_VISUAL: forms.clip_visual(CLIP),
            FACES: forms.faces(PACK),
            TEXT_SHORT: forms.clip_textual(CLIP),
            TEXT_LONG: forms.clip_textual(CLIP),
        }
        everything = {**own[CLIP_VISUAL], **own[FACES], **forms.ocr(READER)}
        return replace(task, entries=own.get(task.name, everything if task.name == ALL else forms.ocr(READER)))

    def _warm(self, chosen: Sequence[str]) -> None:
        """Load the models and let every shape be seen once."""
        assert self.bare
        for server in self.servers:
            for name in chosen:
                self.say(f"warming {server.name}: {name}")
                for number in range(len(self.tasks[name].inputs)):
                    server.answer(self.tasks[name], number)

    def _bare_round(self, name: str) -> None:
        repeats = self._repeats(name)
        if name == CLIP_VISUAL:
            inputs = len(self.tasks[name].inputs)
            for size in BATCHES:
                rate = self.bare.batch_rate(name, size, math.ceil(repeats * inputs / size))
                self.measured.add(Key("rate", name, f"{BARE}, batch {size}"), rate)
            together = self.bare.side_by_side_rate(name, BATCHES[-1], math.ceil(repeats * inputs / BATCHES[-1]))
            if together is not None:
                self.measured.add(Key("rate", name, SIDE_BY_SIDE), together)
        if name in (OCR_DENSE, OCR_SPARSE):
            self.measured.add(Key("rate", name, IN_TURN), 1 / self.bare.seconds(name, repeats, in_turn=True))
        self.measured.add(Key("rate", name, BARE), 1 / self.bare.seconds(name, repeats))

    def _repeats(self, name: str) -> int:
        """How often all inputs of a task fit into the time of one measurement."""
        known = self.measured.middle(Key("rate", name, BARE))
        rate = known if known is not None else 1 / self.bare.seconds(name, 1)
        return max(1, round(self.plan.seconds * rate / len(self.tasks[name].inputs)))

    def _server_round(
        self, server: Server, name: str, clients: int, *, task: Task | None = None, share: float = 1.0
    ) -> None:
        """One measurement of a server; `share` of the usual number of requests."""
        task = task or (self._local(self.tasks[name]) if isinstance(server, OurServer) else self.tasks[name])
        inputs = len(task.inputs)
        usual = round(self._repeats(name) * share)
        needed = math.ceil((2 * clients if clients <= 8 else clients) / inputs)
        count = inputs * max(1, usual, needed)
        before = cpu_seconds(server.pid) if server.pid else 0.0
        report = server.drive(server.stream(task, clients, count))
        outcome = report.outcomes[0]
        self.measured.add(Key("rate", name, server.name, clients), outcome.rate)
        self._add_latencies(name, server.name, clients, outcome.latencies_s)
        self.measured.add(Key("generator", name, server.name, clients), report.cpu_s / outcome.elapsed_s)
        if server.pid:
            used = cpu_seconds(server.pid) - before
            self.measured.add(Key("cpu", name, server.name, clients), used / count)
            cores = len(os.sched_getaffinity(server.pid))
            self.measured.add(Key("busy", name, server.name, clients), used / outcome.elapsed_s / cores)

    def _probe(self, server: Server) -> None:
        """Text queries with pauses between them, without and with clients that import."""
        probe = server.stream(self.tasks[TEXT_SHORT], 1, self.plan.probes, pause_s=0.03)
        imports = server.stream(self.tasks[CLIP_VISUAL], IMPORT_CLIENTS, None)
        suffix = {IDLE: server.name + IDLE.removeprefix(OURS), IMPORTING: server.name + IMPORTING.removeprefix(OURS)}
        idle = server.drive(probe).outcomes[0]
        self._add_latencies(TEXT_SHORT, suffix[IDLE], 1, idle.latencies_s)
        outcome, imported = server.drive(probe, imports).outcomes
        self._add_latencies(TEXT_SHORT, suffix[IMPORTING], 1, outcome.latencies_s)
        beside = f"{server.name}, beside text queries"
        self.measured.add(Key("rate", CLIP_VISUAL, beside, IMPORT_CLIENTS), imported.rate)

    def _add_latencies(self, name: str, series: str, clients: int, latencies_s: Sequence[float]) -> None:
        for quantity, share in (("p50", 0.5), ("p95", 0.95)):
            value = 1000 * percentile(latencies_s, share)
            self.measured.add(Key(quantity, name, series, clients), value)

    def _tiny_work(self, image: bytes, count: int) -> float:
        """Seconds of CPU to decode the HTTP stage's picture and to run its model, without any server."""
        from immich_ml_cn.engines import CpuEngine
        from immich_ml_cn.models import clip, images
        from immich_ml_cn.settings import Settings

        engine = CpuEngine(Settings.from_env({}))
        folder = self.cache / "clip" / TINY
        path = folder / "visual" / "model.onnx"
        encoder = clip.load_visual(folder, path, lambda graph: engine.open(graph, "bulk", 0))
        begun = time.process_time()
        for _ in range(count):
            images.measure(image, 10**8)
            encoder.infer([encoder.prepare(images.decode(image, 10**8))])
        return (time.process_time() - begun) / count


def _same_embedding(answer: bytes, other: bytes) -> bool:
    """Whether two answers hold the same embedding but for the last digits."""
    vectors = [np.array(json.loads(json.loads(body)["clip"])) for body in (answer, other)]
    return bool(np.abs(vectors[0] - vectors[1]).max() < 1e-5)


def _cpu_per_request(server: Server, task: Task, count: int) -> float:
    assert server.pid is not None
    before = cpu_seconds(server.pid)
    server.measure(task, 1, count)
    return (cpu_seconds(server.pid) - before) / count


def _settled_memory(pid: int) -> float:
    """Resident MB once the models are unloaded: when it has not changed for four seconds, after the time to live."""
    time.sleep(UNLOAD_AFTER_S + 2)
    history = [resident_mb(pid)]
    while len(history) < 30 and not (len(history) > 4 and max(history[-4:]) - min(history[-4:]) < 1):
        time.sleep(1)
        history.append(resident_mb(pid))
    return history[-1]


@contextmanager
def _confined(cores: set[int]) -> Iterator[None]:
    """Keep this thread, and those it starts, on some cores."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
