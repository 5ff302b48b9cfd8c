"""The CPU pool: threads that decode, prepare and finish what the models take and give."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Final, ParamSpec, TypeVar

from .concurrency import gather_or_cancel, guarded_call
from .lanes import LOWEST_PRIORITY, lower_priority

P = ParamSpec("P")
T = TypeVar("T")
Item = TypeVar("Item")

MIN_CHUNK: Final = 4
"""Items that are not worth another thread."""


class CpuPool:
    """Runs pure functions on a few threads."""

    def __init__(self, threads: int, *, nice: int = LOWEST_PRIORITY) -> None:
        """
        Args:
            threads: how many; at least one.
            nice: their scheduling priority, 0 to 19; import jobs have the lowest, 19.
        """
        self._threads = max(1, threads)
        self._executor = ThreadPoolExecutor(
            max_workers=self._threads,
            thread_name_prefix="cpu" if nice else "text",
            initializer=lower_priority,
            initargs=(nice,),
        )

    async def run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call `function` on a thread of the pool.

        When the caller is cancelled, a call that has not begun never runs. One that has begun is waited for: until then
        it uses the memory that the caller has reserved. A second cancellation ends the waiting.
        """
        return await self._result_of(partial(guarded_call, function, *args, **kwargs), None)

    async def run_abortable(
        self, abort: Callable[[], None], function: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """As `run`; `abort` is called when the caller is cancelled, and makes a call that has begun end soon."""
        return await self._result_of(partial(guarded_call, function, *args, **kwargs), abort)

    async def _result_of(self, call: Callable[[], T], abort: Callable[[], None] | None) -> T:
        job = self._executor.submit(call)
        try:
            return await asyncio.wrap_future(job)
        except asyncio.CancelledError:
            if not job.cancel():
                if abort is not None:
                    abort()
                await _end_of(job)
            raise

    async def each(self, function: Callable[[Item], T], items: Sequence[Item]) -> list[T]:
        """Run `function` on each item, on as many threads as there are; the results in order."""
        size = max(MIN_CHUNK, -(-len(items) // self._threads))
        chunks = [items[start : start + size] for start in range(0, len(items), size)]
        done = await gather_or_cancel(*(self.run(_each, function, chunk) for chunk in chunks))
        return [result for chunk in done for result in chunk]

    def close(self) -> None:
        """Drop what has not started and let the threads end."""
        self._executor.shutdown(wait=False, cancel_futures=True)


async def _end_of(job: "Future[T]") -> None:
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def report(job: "Future[T]") -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(ended.set)

    job.add_done_callback(report)
    await ended.wait()


def _each(function: Callable[[Item], T], items: Sequence[Item]) -> list[T]:
    return [function(item) for item in items]


class ByteBudget:
    """A bound on memory: a reservation that does not fit waits, first come, first served."""

    def __init__(self, total: int) -> None:
        """
        Args:
            total: bytes.
        """
        self.total = total
        self._used = 0
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def held(self) -> int:
        """Bytes that are held."""
        return self._used

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._queue)

    @asynccontextmanager
    async def reserve(self, size: int) -> AsyncIterator[None]:
        """Hold `size` bytes for the length of a `with` block; more than the whole budget counts as the whole."""
        size = min(size, self.total)
        await self._acquire(size)
        try:
            yield
        finally:
            self._used -= size
            self._admit()

    async def _acquire(self, size: int) -> None:
        ticket: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((size, ticket))
        self._admit()
        try:
            await ticket
        except asyncio.CancelledError:
            if ticket.done() and not ticket.cancelled():
                self._used -= size
            self._admit()
            raise

    def _admit(self) -> None:
        while self._queue:
            size, ticket = self._queue[0]
            if not ticket.done():
                if self._used + size > self.total:
                    return
                self._used += size
                ticket.set_result(None)
            self._queue.popleft()

    def __repr__(self) -> str:
        return f"<ByteBudget [{self._used} of {self.total} bytes, {len(self._queue)} waiting]>"
