"""Lanes: the threads that own inference sessions.

A lane is a pair of threads: one runs batches, one creates and drops sessions, so that a load never holds up the models
that are ready. Nobody else touches a session. The bulk lane's threads have the lowest priority: a search on the
interactive lane gets the CPU first.
"""

import asyncio
import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Final, ParamSpec, TypeVar

from immich_ml_cn.engines.session import LaneKind

from .concurrency import guarded_call

P = ParamSpec("P")
T = TypeVar("T")

logger = logging.getLogger(__name__)

LOWEST_PRIORITY: Final = 19

DEVICE_FAILURES: Final = 3
"""Single items on which the device fails in a row, after which a lane has failed."""


class LaneClosed(RuntimeError):
    """Work was given to a lane that is closed."""


class Worker:
    """A daemon thread that runs one function after the other and answers on the event loop.

    Instances are made and used on the event loop's thread.
    """

    def __init__(self, name: str, *, nice: int, on_fatal: Callable[[str], None]) -> None:
        """
        Args:
            name: of the thread.
            nice: scheduling priority from 0 to 19; threads started by this one inherit it.
            on_fatal: called with the reason, from any thread, when the thread ends without having been closed.
        """
        self.name = name
        self._nice = nice
        self._on_fatal = on_fatal
        self._jobs: queue.SimpleQueue[Callable[[], Callable[[], None]] | None] = queue.SimpleQueue()
        self._closed = False
        self._thread = threading.Thread(target=self._main, name=name, daemon=True)
        self._thread.start()

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `function` on the thread.

        When the caller is cancelled, a call that has begun goes on and its result is dropped; one that has not begun
        never runs.

        Raises:
            LaneClosed: the worker is closed.
        """
        if self._closed:
            raise LaneClosed(f"{self.name} is closed")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[T] = loop.create_future()

        def job() -> Callable[[], None]:
            if future.cancelled():
                return _nothing
            try:
                result = guarded_call(function, *args, **kwargs)
            except Exception as error:
                return partial(_deliver, loop, partial(_set_exception, future, error))
            return partial(_deliver, loop, partial(_set_result, future, result))

        self._jobs.put(job)
        return await future

    def close(self) -> None:
        """End the thread after the jobs that are queued; later calls of `run` fail."""
        if not self._closed:
            self._closed = True
            self._jobs.put(None)

    def join(self, timeout: float) -> bool:
        """Wait for the thread to end, at most `timeout` seconds; True if it ended."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _main(self) -> None:
        try:
            lower_priority(self._nice)
            while (job := self._jobs.get()) is not None:
                deliver = job()
                del job  # it refers to the session, which whoever gets the outcome may want to free
                deliver()
                del deliver
        except BaseException as error:
            self._on_fatal(f"the thread {self.name} died: {error!r}")
            raise


def _nothing() -> None:
    """The outcome of a job that was cancelled before it began."""


def _deliver(loop: asyncio.AbstractEventLoop, set_outcome: Callable[[], None]) -> None:
    with suppress(RuntimeError):  # the loop is closed: nobody waits for the result
        loop.call_soon_threadsafe(set_outcome)


def _set_result(future: "asyncio.Future[T]", result: T) -> None:
    if not future.done():
        future.set_result(result)


def _set_exception(future: "asyncio.Future[T]", error: Exception) -> None:
    if not future.done():
        future.set_exception(error)


def lower_priority(nice: int) -> None:
    """Give the calling thread a lower scheduling priority, 1 to 19; threads it starts inherit it. 0 leaves it."""
    if nice and sys.platform == "linux":
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)


class Lane:
    """One device: its batches run one at a time, in the order in which the batchers acquired `lock`."""

    def __init__(
        self,
        name: str,
        kind: LaneKind,
        *,
        device_id: int = 0,
        time_limit_s: float,
        on_fatal: Callable[[str], None],
    ) -> None:
        """
        Args:
            name: for logs and thread names.
            kind: bulk lanes run at the lowest priority.
            device_id: the GPU whose sessions this lane runs.
            time_limit_s: seconds that a batch or a load may take before the lane counts as hung.
            on_fatal: called with the reason when the lane can never work again.
        """
        nice = LOWEST_PRIORITY if kind == "bulk" else 0
        self.name = name
        self.kind: LaneKind = kind
        self.device_id = device_id
        self.lock = asyncio.Lock()
        self._time_limit_s = time_limit_s
        self._on_fatal = on_fatal
        self._device_failures = 0
        self._loading = asyncio.Lock()
        self._runner = Worker(f"{name}-run", nice=nice, on_fatal=on_fatal)
        self._loader = Worker(f"{name}-load", nice=nice, on_fatal=on_fatal)

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a batch on the lane's thread; hold `lock` while you do."""
        with self._watched("a batch"):
            return await self._runner.run(function, *args, **kwargs)

    async def load(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Create or drop sessions, beside the batches that run."""
        async with self._loading:  # the thread runs one at a time anyway; this way each has its own time limit
            with self._watched("a load"):
                return await self._loader.run(function, *args, **kwargs)

    def succeeded(self) -> None:
        """Report that a batch succeeded."""
        self._device_failures = 0

    def device_failed(self, reason: str) -> None:
        """Report that the device failed on a single item; `DEVICE_FAILURES` times in a row are fatal."""
        self._device_failures += 1
        if self._device_failures >= DEVICE_FAILURES:
            self.report_fatal(f"the device of {self.name} failed {self._device_failures} times in a row: {reason}")

    def report_fatal(self, reason: str) -> None:
        """Report that the lane can never work again."""
        self._on_fatal(reason)

    def close(self) -> None:
        """End both threads after the jobs that are queued."""
        self._runner.close()
        self._loader.close()

    def join(self, timeout: float) -> bool:
        """Wait for both threads; True if they ended within `timeout` seconds."""
        deadline = time.monotonic() + timeout
        ended = [worker.join(max(0.0, deadline - time.monotonic())) for worker in (self._runner, self._loader)]
        return all(ended)

    @contextmanager
    def _watched(self, what: str) -> Iterator[None]:
        watchdog = asyncio.get_running_loop().call_later(self._time_limit_s, self._hung, what)
        try:
            yield
        finally:
            watchdog.cancel()

    def _hung(self, what: str) -> None:
        self._on_fatal(f"{what} on {self.name} has been running for over {self._time_limit_s:g} s")

    def __repr__(self) -> str:
        return f"<Lane {self.name} [{'busy' if self.lock.locked() else 'idle'}]>"
