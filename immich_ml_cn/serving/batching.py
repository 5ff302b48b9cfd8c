"""Batcher: one queue per loaded model that groups waiting items, whichever request or client they come from.

A batch closes when the lane is free, not when a clock says so: the oldest live item plus up to ``max_batch - 1``
others of its bucket. (The rule of Hugging Face's text-embeddings-inference; a waiting window gains little and costs
much at the few concurrent jobs that Immich sends.)
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from immich_ml_cn.engines.device_errors import is_of_device, is_out_of_memory, is_poisoned
from immich_ml_cn.engines.session import Model
from immich_ml_cn.errors import InferenceFailed, OutOfMemory, ServiceError, Unavailable
from immich_ml_cn.metrics import Metrics

from .lanes import Lane

ItemT = TypeVar("ItemT")
OutputT = TypeVar("OutputT")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Replica(Generic[ItemT, OutputT]):
    """A copy of a model and the lane that runs it."""

    lane: Lane
    model: Model[ItemT, OutputT]


@dataclass(eq=False)
class _Waiting(Generic[ItemT, OutputT]):
    item: ItemT
    bucket: Hashable
    future: "asyncio.Future[OutputT]"
    since: float


async def _nothing() -> None:
    """The relief of a batcher that stands alone."""


class Batcher(Generic[ItemT, OutputT]):
    """Queues items and runs them in batches on the replicas' lanes."""

    def __init__(
        self,
        name: str,
        replicas: Sequence[Replica[ItemT, OutputT]],
        max_batch: int,
        *,
        metrics: Metrics | None = None,
        relieve: Callable[[], Awaitable[None]] = _nothing,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            name: the model's, for messages.
            replicas: copies of the model; each works off the one queue.
            max_batch: the most items of one batch.
            metrics: where waiting, running and sizes are counted.
            relieve: frees memory that others hold without need, when there was too little.
            clock: monotonic seconds.
        """
        self.name = name
        self._metrics = metrics or Metrics()
        self._relieve = relieve
        self._clock = clock
        self._replicas = tuple(replicas)
        self._max_batch = max_batch
        self._queue: deque[_Waiting[ItemT, OutputT]] = deque()
        self._arrived = asyncio.Event()
        self._closed = False
        self._tasks = [asyncio.create_task(self._serve(replica), name=f"batcher {name}") for replica in replicas]
        for task in self._tasks:
            task.add_done_callback(self._ended)

    async def submit(self, item: ItemT) -> OutputT:
        """Queue one finished input and wait for its output. A caller that is cancelled takes its item out.

        Raises:
            InferenceFailed: the model failed on this very item.
            OutOfMemory: memory did not suffice for it, even alone.
            Unavailable: the batcher was closed.
        """
        return await self._enqueue(item)

    async def submit_all(self, items: Sequence[ItemT]) -> list[OutputT]:
        """Queue several items of one request; their outputs in order. If one fails the others are taken out."""
        futures = [self._enqueue(item) for item in items]
        try:
            return list(await asyncio.gather(*futures))
        finally:
            for future in futures:
                future.cancel()

    def _enqueue(self, item: ItemT) -> "asyncio.Future[OutputT]":
        if self._closed:
            raise self._unloaded()
        future: asyncio.Future[OutputT] = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(item, self._replicas[0].model.bucket(item), future, self._clock()))
        self._arrived.set()
        return future

    async def close(self) -> None:
        """Stop serving; what still waits is refused with `Unavailable`."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks.clear()  # each keeps its cancellation, whose traceback holds a replica
        while self._queue:
            self._fail(self._queue.popleft(), self._unloaded())

    @property
    def waiting(self) -> int:
        """How many items are queued."""
        return len(self._queue)

    def take_replicas(self) -> list[Replica[ItemT, OutputT]]:
        """Hand over the replicas of a closed batcher: whoever drops them last frees their sessions."""
        replicas, self._replicas = list(self._replicas), ()
        return replicas

    async def _serve(self, replica: Replica[ItemT, OutputT]) -> None:
        """Run one batch after the other on a replica's lane, for as long as the batcher lives.

        The batch is formed after the lock was acquired, not before: until then more items may join it, another replica
        may take them all (`_next_batch` is empty then), and their callers may leave.
        """
        while True:
            await self._arrived.wait()
            async with replica.lane.lock:
                await self._run(replica, self._next_batch())

    def _next_batch(self) -> list[_Waiting[ItemT, OutputT]]:
        """Take the next batch from the queue and leave the rest in order.

        The oldest item decides the bucket. Items of other buckets, and those beyond `max_batch`, stay queued; items
        whose callers have left are dropped.
        """
        batch: list[_Waiting[ItemT, OutputT]] = []
        rest: deque[_Waiting[ItemT, OutputT]] = deque()
        for waiting in self._queue:
            if waiting.future.done():
                continue
            fits = len(batch) < self._max_batch and (not batch or waiting.bucket == batch[0].bucket)
            (batch if fits else rest).append(waiting)
        self._queue = rest
        if not rest:
            self._arrived.clear()
        now = self._clock()
        for waiting in batch:
            self._metrics.observe("queue", self.name, now - waiting.since)
        return batch

    async def _run(self, replica: Replica[ItemT, OutputT], batch: list[_Waiting[ItemT, OutputT]]) -> None:
        """Run a batch so that each item gets an outcome, whatever ends the run."""
        try:
            await self._split(replica, batch)
        finally:
            for waiting in batch:
                self._fail(waiting, self._unloaded())

    async def _split(self, replica: Replica[ItemT, OutputT], batch: list[_Waiting[ItemT, OutputT]]) -> None:
        """Run a batch; if it fails, run its halves, down to single items, so that each gets its own outcome.

        Where memory did not suffice, what others hold without need is freed first. A device that fails at everything
        is not asked again.
        """
        live = [waiting for waiting in batch if not waiting.future.done()]
        attempt = partial(self._attempt, replica, live)
        error = await attempt() if live else None
        if error is not None and is_out_of_memory(error):
            error = await self._with_more_memory(attempt, len(live), error)
        if error is None:
            return
        if is_poisoned(error):
            replica.lane.died(f"the device of {replica.lane.name} is lost: {error}")
            for waiting in live:
                lost = Unavailable(f"{self.name} has lost its device, the server starts again", retry_after=30)
                self._fail(waiting, lost)
            return
        if len(live) == 1:
            if is_of_device(error):
                replica.lane.device_failed(str(error))
            self._fail(live[0], error)
            return
        logger.warning("%s: a batch of %d failed, running its halves: %s", self.name, len(live), error)
        del error  # its traceback holds the batch
        middle = len(live) // 2
        await self._split(replica, live[:middle])
        await self._split(replica, live[middle:])

    async def _with_more_memory(
        self, attempt: Callable[[], Awaitable[Exception | None]], count: int, error: Exception
    ) -> Exception | None:
        """Free what others hold without need; a single item runs once more. Why it failed, if it did."""
        logger.warning("%s: not enough memory for a batch of %d: %s", self.name, count, error)
        try:
            await self._relieve()
        except Exception:
            logger.exception("freeing memory failed")
        if count > 1:
            return error
        again = await attempt()
        if again is None or not is_out_of_memory(again):
            return again
        return OutOfMemory(f"{self.name} does not have enough memory for this input: {again}", retry_after=30)

    async def _attempt(
        self, replica: Replica[ItemT, OutputT], batch: list[_Waiting[ItemT, OutputT]]
    ) -> Exception | None:
        """Run a batch once and hand out its outputs; why it failed, if it did."""
        self._metrics.observe_batch(self.name, len(batch))
        lane, items = replica.lane, [waiting.item for waiting in batch]
        try:
            with self._metrics.time("inference", self.name):
                outputs = await lane.run(self._infer, replica.model, items)
        except Exception as error:
            return error
        lane.worked()
        for waiting, output in zip(batch, outputs, strict=True):
            if not waiting.future.done():
                waiting.future.set_result(output)
        return None

    def _infer(self, model: Model[ItemT, OutputT], items: list[ItemT]) -> Sequence[OutputT]:
        outputs = model.infer(items)
        if len(outputs) != len(items):
            raise InferenceFailed(f"{self.name} gave {len(outputs)} outputs for {len(items)} inputs")
        return outputs

    def _fail(self, waiting: _Waiting[ItemT, OutputT], error: Exception) -> None:
        if waiting.future.done():
            return
        if isinstance(error, ServiceError):
            waiting.future.set_exception(error)
            return
        failure = InferenceFailed(f"{self.name} failed on this input: {error}")
        failure.__cause__ = error
        waiting.future.set_exception(failure)

    def _unloaded(self) -> Unavailable:
        return Unavailable(f"{self.name} was unloaded; try again", retry_after=1)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        """A serving loop that ends on its own would leave its queue waiting for ever: the lane counts as dead."""
        if not self._closed and not task.cancelled():
            self._replicas[0].lane.died(f"the queue of {self.name} stopped: {task.exception()!r}")

    def __repr__(self) -> str:
        return f"<Batcher {self.name} [{len(self._queue)} waiting]>"
