"""The limit: the bare sessions on the tensors of the same requests, with nothing around them.

The tensors are recorded, not made: the server's own service answers each request once, in this process, on an engine
that notes every run of every session. So batches, shapes and session options are exactly the server's, whatever those
become.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from immich_ml_cn.engines import Engine, select_engine
from immich_ml_cn.engines.graphs.files import Graph
from immich_ml_cn.engines.session import LaneKind, ParallelSession, Session, TensorInfo
from immich_ml_cn.service import Service
from immich_ml_cn.serving.lanes import LOWEST_PRIORITY, lower_priority
from immich_ml_cn.settings import Settings

from .requests import Task
from .service import answer, give_up, settings_for

Feeds = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Call:
    """One run of one session."""

    session: Session
    feeds: Feeds

    def __call__(self) -> None:
        self.session.run(self.feeds)

    def in_turn(self) -> "Sequence[Call]":
        """The same work, one run after the other."""
        return (self,)


@dataclass(frozen=True)
class ParallelCall:
    """Several runs of one session, side by side as the server has them."""

    session: ParallelSession
    feeds: Sequence[Feeds]

    def __call__(self) -> None:
        self.session.run_parallel(self.feeds)

    def in_turn(self) -> Sequence[Call]:
        """The same work, one run after the other."""
        return [Call(self.session, feeds) for feeds in self.feeds]


AnyCall: TypeAlias = Call | ParallelCall


@dataclass
class _RecordingSession:
    """A session that notes what it is fed."""

    session: Session
    calls: list[AnyCall]

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        return self.session.inputs

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        return self.session.outputs

    @property
    def metadata(self) -> Mapping[str, str]:
        return self.session.metadata

    def run(self, feeds: Feeds) -> list[NDArray[Any]]:
        self.calls.append(Call(self.session, dict(feeds)))
        return self.session.run(feeds)


@dataclass
class _RecordingParallelSession(_RecordingSession):
    """The same for one that does several runs side by side."""

    session: ParallelSession

    @property
    def parallelism(self) -> int:
        return self.session.parallelism

    def run_parallel(self, feeds: Sequence[Feeds]) -> list[list[NDArray[Any]]]:
        self.calls.append(ParallelCall(self.session, [dict(feed) for feed in feeds]))
        return self.session.run_parallel(feeds)


class _RecordingEngine:
    """The server's engine; its sessions note what they are fed, and live as long as what was noted."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.provider = engine.provider
        self.on_gpu = engine.on_gpu
        self.description = engine.description
        self.calls: list[AnyCall] = []

    def import_library(self) -> None:
        self._engine.import_library()

    def release_memory(self) -> None:
        self._engine.release_memory()

    def open(
        self, graph: Graph, kind: LaneKind, device_id: int, *, parallel: bool = False, pinned: bool = False
    ) -> Session:
        del pinned  # all of them are: what is measured has its weights packed
        session = self._engine.open(graph, kind, device_id, parallel=parallel, pinned=True)
        if isinstance(session, ParallelSession):
            return _RecordingParallelSession(session, self.calls)
        return _RecordingSession(session, self.calls)


class BareSessions:
    """What the sessions were fed for each task's requests, ready to be run again."""

    def __init__(self, recorded: Mapping[str, list[list[AnyCall]]], device: str) -> None:
        """
        Args:
            recorded: name of a task → for each of its inputs the runs of sessions that answered it.
            device: what ran them, for people.
        """
        self._recorded = recorded
        self.device = device
        # At the priority of the server's bulk lane: what else runs on the machine slows both alike.
        self._thread = ThreadPoolExecutor(1, initializer=lower_priority, initargs=(LOWEST_PRIORITY,))

    def _quietly(self, function: Callable[..., float], *args: Any) -> float:
        return self._thread.submit(function, *args).result()

    @classmethod
    def record(cls, cache: Path, tasks: list[Task], environ: Mapping[str, str] | None = None) -> "BareSessions":
        """Answer each request of `tasks` once.

        Args:
            environ: settings beyond the defaults, as for the server.
        """
        settings = settings_for(cache, {"MACHINE_LEARNING_PROVIDER": "cpu", **(environ or {})})
        engine = _RecordingEngine(select_engine(settings))
        return cls(asyncio.run(_record(settings, engine, tasks)), engine.description)

    def calls(self, task: str) -> list[list[AnyCall]]:
        """For each input of a task the runs of sessions that answer it."""
        return self._recorded[task]

    def seconds(self, task: str, repeats: int, *, in_turn: bool = False) -> float:
        """Mean time of one request's sessions, one after the other, over all inputs `repeats` times.

        Args:
            in_turn: what the server has side by side goes one after the other as well.
        """
        inputs = self._recorded[task]
        calls: list[AnyCall] = [call for calls in inputs for call in calls]
        if in_turn:
            calls = [single for call in calls for single in call.in_turn()]
        return self._quietly(_seconds, calls * repeats) / (repeats * len(inputs))

    def batch_rate(self, task: str, size: int, repeats: int) -> float:
        """Items per second of a task of one session, in batches of `size` of its inputs."""
        inputs = self._single_calls(task)
        chosen = [inputs[number % len(inputs)].feeds for number in range(size)]
        feeds = {name: np.concatenate([feed[name] for feed in chosen]) for name in chosen[0]}
        return size * repeats / self._quietly(_seconds, [Call(inputs[0].session, feeds)] * repeats)

    def side_by_side_rate(self, task: str, size: int, repeats: int) -> float | None:
        """Items per second of a task of one session, `size` of its inputs side by side; None where it does not."""
        inputs = self._single_calls(task)
        session = inputs[0].session
        if not isinstance(session, ParallelSession):
            return None
        feeds = [inputs[number % len(inputs)].feeds for number in range(size)]
        return size * repeats / self._quietly(_seconds, [ParallelCall(session, feeds)] * repeats)

    def latencies(self, task: str, repeats: int, length: int = 0) -> list[float]:
        """Seconds of each run of a text task's session.

        Args:
            length: the ids are filled up with 0 to it; by default they are as short as the server makes them.
        """
        calls = [_filled(call, length) if length else call for call in self._single_calls(task)]
        found = []
        for call in calls * repeats:
            started = time.perf_counter()
            call()
            found.append(time.perf_counter() - started)
        return found

    def _single_calls(self, task: str) -> list[Call]:
        """The one run of each input of a task that has one model."""
        return [call for (call,) in self._recorded[task] if isinstance(call, Call)]


def _seconds(calls: Sequence[AnyCall]) -> float:
    """How long the calls take one after the other."""
    started = time.perf_counter()
    for call in calls:
        call()
    return time.perf_counter() - started


def _filled(call: Call, length: int) -> Call:
    feeds = {name: np.pad(ids, ((0, 0), (0, length - ids.shape[1]))) for name, ids in call.feeds.items()}
    return Call(call.session, feeds)


async def _record(settings: Settings, engine: _RecordingEngine, tasks: list[Task]) -> dict[str, list[list[AnyCall]]]:
    service = Service(settings, engine, give_up)
    recorded: dict[str, list[list[AnyCall]]] = {}
    async with service.running():
        for task in tasks:
            # Loads the models, which run graphs of their own to see what they are.
            await answer(service, task, task.inputs[0])
            runs = []
            for given in task.inputs:
                engine.calls.clear()
                await answer(service, task, given)
                runs.append(list(engine.calls))
            recorded[task.name] = runs
    return recorded
