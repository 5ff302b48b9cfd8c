"""Small stand-ins for what the serving core works with: models, engines, clocks, lanes."""

import asyncio
import itertools
import os
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager

from immich_ml_cn.engines.graphs.files import Graph
from immich_ml_cn.engines.session import LaneKind, Session
from immich_ml_cn.serving.lanes import Lane
from immich_ml_cn.serving.registry import Registry

TIMEOUT_S = 10
"""Seconds after which a test that waits for something fails."""


class Doubler:
    """A model that doubles whole numbers, and fails batches that hold one of `poison`.

    Attributes:
        gate: batches wait for it; open unless a test shuts it.
        running: set while or after the first batch ran.
        batches: every batch that was run, in order.
        short_of_memory: how many of the next batches fail for want of memory.
    """

    def __init__(self, poison: Sequence[int] = (), bucket: Callable[[int], Hashable] = lambda item: 0) -> None:
        self._poison = poison
        self._bucket = bucket
        self.batches: list[list[int]] = []
        self.short_of_memory = 0
        self.running = threading.Event()
        self.gate = threading.Event()
        self.gate.set()

    def bucket(self, item: int) -> Hashable:
        return self._bucket(item)

    def infer(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        self.running.set()
        if not self.gate.wait(TIMEOUT_S):
            raise TimeoutError("the test never opened the gate")
        if self.short_of_memory:
            self.short_of_memory -= 1
            raise MemoryError
        if bad := [item for item in items if item in self._poison]:
            raise ValueError(f"poisoned by {bad}")
        return [2 * item for item in items]


class NoSession:
    """What `FakeEngine` opens; nobody runs it."""


class FakeEngine:
    """Opens nothing and remembers for whom."""

    provider = "FakeExecutionProvider"
    description = "a fake"

    def __init__(self, *, on_gpu: bool = False) -> None:
        self.on_gpu = on_gpu
        self.opened: list[tuple[LaneKind, int]] = []
        self.imported = False
        self.releases = 0

    def import_library(self) -> None:
        self.imported = True

    def release_memory(self) -> None:
        self.releases += 1

    def open(
        self, graph: Graph, kind: LaneKind, device_id: int, *, parallel: bool = False, pinned: bool = False
    ) -> Session:
        self.opened.append((kind, device_id))
        return NoSession()  # type: ignore[return-value]


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def a_lane(
    name: str = "bulk-0",
    kind: LaneKind = "bulk",
    *,
    device_id: int = 0,
    time_limit_s: float = 60,
    fatal_errors: list[str] | None = None,
) -> Iterator[Lane]:
    """A lane whose threads have ended when the block is left."""
    reasons: list[str] = [] if fatal_errors is None else fatal_errors
    lane = Lane(name, kind, device_id=device_id, time_limit_s=time_limit_s, on_fatal=reasons.append)
    try:
        yield lane
    finally:
        lane.close()
        assert lane.join(TIMEOUT_S), f"{name} did not end"
    assert fatal_errors is not None or not reasons, reasons


def priority() -> int:
    """Of this thread."""
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


async def happens(event: threading.Event) -> None:
    """Wait for what another thread does."""
    assert await asyncio.to_thread(event.wait, TIMEOUT_S), "it did not happen"


async def settle() -> None:
    """Let every task run until it waits for something."""
    for _ in range(20):
        await asyncio.sleep(0)


async def until(condition: Callable[[], object]) -> None:
    """Wait for what nobody announces."""
    async with asyncio.timeout(TIMEOUT_S):
        for _ in itertools.count():
            if condition():
                return
            await asyncio.sleep(0.005)


def states(registry: Registry) -> dict[str, str]:
    """The models that are in memory or being loaded."""
    found = {key: detail["state"] for key, detail in registry.details().items()}
    return {key: state for key, state in found.items() if state in {"ready", "loading"}}
