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
from immich_ml_cn.messages import tr
from immich_ml_cn.metrics import Metrics

from .lanes import Lane

ItemT = TypeVar("ItemT")
OutputT = TypeVar("OutputT")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Replica(Generic[ItemT, OutputT]):
    """A copy of a model, and the lane that runs it."""

    lane: Lane
    model: Model[ItemT, OutputT]


@dataclass(eq=False)
class _Queued(Generic[ItemT, OutputT]):
    item: ItemT
    bucket: Hashable
    future: "asyncio.Future[OutputT]"
    since: float


async def _nothing() -> None:
    """Free no memory."""


class Batcher(Generic[ItemT, OutputT]):
    """Queues items and runs them in batches on the replicas' lanes."""

    def __init__(
        self,
        name: str,
        replicas: Sequence[Replica[ItemT, OutputT]],
        max_batch: int,
        *,
        metrics: Metrics | None = None,
        free_memory: Callable[[], Awaitable[None]] = _nothing,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            name: the model's key, for messages and metrics.
            replicas: copies of the model, which share one queue.
            max_batch: the most items of one batch.
            metrics: where queueing, inference and batch sizes are counted.
            free_memory: called when there was too little memory; unloads what nobody uses.
            clock: monotonic seconds.
        """
        self.name = name
        self._metrics = metrics or Metrics()
        self._free_memory = free_memory
        self._clock = clock
        self._replicas = tuple(replicas)
        self._max_batch = max_batch
        self._queue: deque[_Queued[ItemT, OutputT]] = deque()
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
        self._queue.append(_Queued(item, self._replicas[0].model.bucket(item), future, self._clock()))
        self._arrived.set()
        return future

    async def close(self) -> None:
        """Stop serving. Items that are still queued or running fail with `Unavailable`."""
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
        """Give up the replicas of a closed batcher: their sessions are freed when the caller drops them."""
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

    def _next_batch(self) -> list[_Queued[ItemT, OutputT]]:
        """Take the next batch from the queue and leave the rest in order.

        The oldest item decides the bucket. Items of other buckets, and those beyond `max_batch`, stay queued; items
        whose callers have left are dropped.
        """
        batch: list[_Queued[ItemT, OutputT]] = []
        rest: deque[_Queued[ItemT, OutputT]] = deque()
        for queued in self._queue:
            if queued.future.done():
                continue
            fits = len(batch) < self._max_batch and (not batch or queued.bucket == batch[0].bucket)
            (batch if fits else rest).append(queued)
        self._queue = rest
        if not rest:
            self._arrived.clear()
        now = self._clock()
        for queued in batch:
            self._metrics.observe("queue", self.name, now - queued.since)
        return batch

    async def _run(self, replica: Replica[ItemT, OutputT], batch: list[_Queued[ItemT, OutputT]]) -> None:
        """Run a batch so that each item gets an outcome, whatever ends the run."""
        try:
            await self._split(replica, batch)
        finally:
            for queued in batch:
                self._fail(queued, self._unloaded())

    async def _split(self, replica: Replica[ItemT, OutputT], batch: list[_Queued[ItemT, OutputT]]) -> None:
        """Run a batch; if it fails, run its halves, down to single items, so that each gets its own outcome.

        The cases, in this order:

        - It succeeds: every item has its output.
        - Out of memory: what nobody uses is unloaded first; a single item is tried once more, several are halved.
        - The device is lost, and everything after it will fail: all items fail at once and the lane is reported.
        - A single item failed: it gets the exception, and the lane counts it where the device was to blame.
        - Several items failed: which one is to blame is found by halving.
        """
        live = [queued for queued in batch if not queued.future.done()]
        attempt = partial(self._attempt, replica, live)
        error = await attempt() if live else None
        if error is not None and is_out_of_memory(error):
            error = await self._with_more_memory(attempt, len(live), error)
        if error is None:
            return
        if is_poisoned(error):
            replica.lane.report_fatal(f"the device of {replica.lane.name} is lost: {error}")
            for queued in live:
                lost = Unavailable(
                    tr("{name} has lost its device, the server starts again", name=self.name), retry_after=30
                )
                self._fail(queued, lost)
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
        """Free memory, and try a single item once more; the exception if it failed."""
        logger.warning("%s: not enough memory for a batch of %d: %s", self.name, count, error)
        try:
            await self._free_memory()
        except Exception:
            logger.exception("freeing memory failed")
        if count > 1:
            return error
        again = await attempt()
        if again is None or not is_out_of_memory(again):
            return again
        return OutOfMemory(
            tr("{name} does not have enough memory for this input: {reason}", name=self.name, reason=again),
            retry_after=30,
        )

    async def _attempt(
        self, replica: Replica[ItemT, OutputT], batch: list[_Queued[ItemT, OutputT]]
    ) -> Exception | None:
        """Run a batch once and set its outputs; the exception if it failed."""
        self._metrics.observe_batch(self.name, len(batch))
        lane, items = replica.lane, [queued.item for queued in batch]
        try:
            with self._metrics.time("inference", self.name):
                outputs = await lane.run(self._infer, replica.model, items)
        except Exception as error:
            return error
        lane.succeeded()
        for queued, output in zip(batch, outputs, strict=True):
            if not queued.future.done():
                queued.future.set_result(output)
        return None

    def _infer(self, model: Model[ItemT, OutputT], items: list[ItemT]) -> Sequence[OutputT]:
        outputs = model.infer(items)
        if len(outputs) != len(items):
            raise InferenceFailed(f"{self.name} gave {len(outputs)} outputs for {len(items)} inputs")
        return outputs

    def _fail(self, queued: _Queued[ItemT, OutputT], error: Exception) -> None:
        if queued.future.done():
            return
        if isinstance(error, ServiceError):
            queued.future.set_exception(error)
            return
        failure = InferenceFailed(f"{self.name} failed on this input: {error}")
        failure.__cause__ = error
        queued.future.set_exception(failure)

    def _unloaded(self) -> Unavailable:
        return Unavailable(tr("{name} was unloaded; try again", name=self.name), retry_after=1)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        """A serving loop that ends by itself would leave its queue waiting for ever: that is fatal."""
        if not self._closed and not task.cancelled():
            self._replicas[0].lane.report_fatal(f"the queue of {self.name} stopped: {task.exception()!r}")

    def __repr__(self) -> str:
        return f"<Batcher {self.name} [{len(self._queue)} waiting]>"
