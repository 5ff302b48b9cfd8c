"""Which models are in memory: single-flight load, lease, idle unload.

absent → loading → ready → closing → absent. A failed load goes back to absent with a next-try time; nothing on disk is
touched because of it.
"""

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any, Final, cast

from immich_ml_cn import memory
from immich_ml_cn.engines import Engine
from immich_ml_cn.errors import Unavailable
from immich_ml_cn.messages import tr
from immich_ml_cn.metrics import Metrics

from .concurrency import gather_or_cancel
from .entry import Entry
from .lanes import Lane
from .loader import Loader, failure_message
from .spec import AnyModel, Leases, Loaded, ModelSpec, ModelT

logger = logging.getLogger(__name__)

IDLE_BEFORE_TRIM_S: Final = 10.0
"""Seconds without a request after which the memory that the last ones needed is returned to the system."""

MAX_UNLOAD_WAIT_S: Final = 2.0
"""Seconds that an inference which ran out of memory waits for unused models to be unloaded."""


class Registry:
    """Loads models when they are first asked for, lends them, and unloads them when nobody used them for a while."""

    def __init__(
        self,
        engine: Engine,
        lanes: Sequence[Lane],
        *,
        ttl_s: float,
        wait_s: float,
        clock: Callable[[], float] = time.monotonic,
        metrics: Metrics | None = None,
    ) -> None:
        """
        Args:
            engine: opens sessions.
            lanes: a model is copied to each lane of its kind.
            ttl_s: seconds without use after which a model may be unloaded; 0 or less means never.
            wait_s: seconds a request waits for a model that is being fetched or loaded.
            clock: monotonic seconds.
            metrics: where the batches are counted.
        """
        self._engine = engine
        self._loader = Loader(engine, lanes, metrics=metrics or Metrics(), free_memory=self.free_memory)
        self._ttl_s = ttl_s
        self._wait_s = wait_s
        self._clock = clock
        self._entries: dict[str, Entry[AnyModel]] = {}
        self._unloads: set[asyncio.Task[None]] = set()
        self._closed = False
        self._trimmed = True
        self._last_lease = 0.0

    @asynccontextmanager
    async def lease(self, spec: ModelSpec[ModelT]) -> AsyncIterator[Loaded[ModelT]]:
        """Hold a model in memory for the length of a `with` block, loading it first if need be.

        While its files cannot be had, its fallback is lent, under its own name.

        Raises:
            Unavailable: it cannot be had at the moment, nor a fallback.
        """
        entry = self._entry(spec)
        with self._leased(entry):
            loaded = await self._own_or_none(entry)
            if loaded is not None:
                yield loaded
                return
        async with self.lease(entry.fallback) as stand_in:
            yield stand_in

    @asynccontextmanager
    async def lease_all(self, specs: Iterable[ModelSpec[AnyModel]]) -> AsyncIterator[Leases]:
        """Lease several models, which are loaded concurrently; see `lease`.

        Raises:
            Unavailable: one of them is not available; the others go on loading.
        """
        wanted = list(specs)
        async with AsyncExitStack() as stack:
            loaded = await gather_or_cancel(*(stack.enter_async_context(self.lease(spec)) for spec in wanted))
            yield Leases({spec.key: model for spec, model in zip(wanted, loaded, strict=True)})

    @contextmanager
    def _leased(self, entry: Entry[ModelT]) -> Iterator[None]:
        entry.leases += 1
        try:
            yield
        finally:
            entry.leases -= 1
            entry.last_used = self._last_lease = self._clock()
            self._trimmed = False

    def name_of(self, spec: ModelSpec[AnyModel]) -> str:
        """The key of what answers for a model: its fallback's while that does, else its own."""
        entry = self._entries.get(spec.key)
        return entry.fallback.key if entry is not None and entry.falls_back else spec.key

    async def preload(self, spec: ModelSpec[ModelT]) -> None:
        """Load a model, warm it up, and keep it for good, also if it can only be loaded later.

        Raises:
            Unavailable: it cannot be had at the moment.
        """
        self._entry(spec).pinned = True
        async with self.lease(spec) as loaded:
            if spec.warm_up is not None:
                await spec.warm_up(loaded)

    async def load_if_here(self, spec: ModelSpec[ModelT]) -> None:
        """Load a model for whoever asks next, if all its files are here, and warm it up unless somebody does.

        Nothing is fetched, and after a failure the next request tries again.
        """
        if spec.is_here is not None and not await asyncio.to_thread(spec.is_here):
            return
        entry = self._entry(spec)
        if self._closed or entry.loaded is not None or entry.task is not None or entry.failure:
            return
        load = self._begin_load(entry, fetch=False)
        await asyncio.wait([load])
        if entry.loaded is None:
            entry.failure, entry.retry_at = "", 0.0
        elif spec.warm_up is not None and not self.leases:
            with self._leased(entry):
                try:
                    await spec.warm_up(entry.loaded)
                except Exception as error:  # a request is told
                    logger.debug("%s failed its first run: %s", spec.key, error)

    async def unload_idle(self, *, at_once: bool = False) -> int:
        """Unload the models without a lease that were not used for the time to live; their number.

        Args:
            at_once: regardless of the time to live.
        """
        unloads = self._begin_unloading(at_once=at_once)
        if unloads:
            for unload in (await asyncio.wait(unloads))[0]:
                unload.result()
        return len(unloads)

    async def sweep_forever(self, poll_s: float) -> None:
        """Unload idle models every `poll_s` seconds, and return memory to the system when there are no requests."""
        while True:
            await asyncio.sleep(poll_s)
            try:
                await self.unload_idle()
                await self.trim_memory()
            except Exception:
                logger.exception("unloading idle models failed; trying again in %g s", poll_s)

    async def trim_memory(self) -> bool:
        """Return free memory to the system, once after each busy period: `IDLE_BEFORE_TRIM_S` after the last lease.

        The heap and the engine keep what the runs of loaded models needed: hundreds of MB.

        Returns:
            True if it was done.
        """
        if self._trimmed or self.leases or self._clock() - self._last_lease < IDLE_BEFORE_TRIM_S:
            return False
        self._trimmed = True
        await asyncio.to_thread(self._engine.release_memory)
        return True

    async def close(self, timeout_s: float = 3.0) -> None:
        """Unload everything. Later leases are refused, and so are items that are still queued.

        Args:
            timeout_s: how long to wait for lanes that are still loading a model.
        """
        self._closed = True
        entries, self._entries = list(self._entries.values()), {}
        loads = [entry.task for entry in entries if entry.task is not None]
        for load in loads:
            load.cancel()
        await asyncio.gather(*loads, return_exceptions=True)
        await asyncio.gather(*(entry.loaded.batcher.close() for entry in entries if entry.loaded is not None))
        try:
            async with asyncio.timeout(timeout_s):
                for entry in entries:
                    await self._unload(entry)
                await asyncio.gather(*self._unloads, return_exceptions=True)
        except TimeoutError:
            logger.warning("a lane is still busy loading a model; not waiting for it")

    def retry(self, key: str) -> bool:
        """Load a model that failed now, without waiting for its next try; False where nobody has asked for it."""
        entry = self._entries.get(key)
        if entry is None or self._closed:
            return False
        if entry.task is None and (entry.loaded is None or entry.falls_back):
            self._begin_load(entry)
        return True

    @property
    def leases(self) -> int:
        """How many models are lent, each as often as it is."""
        return sum(entry.leases for entry in self._entries.values())

    @property
    def waiting(self) -> int:
        """How many items wait for a batch, of all models."""
        return sum(entry.loaded.batcher.waiting for entry in self._entries.values() if entry.loaded is not None)

    def details(self) -> dict[str, dict[str, Any]]:
        """The models in memory, being loaded or failed, with size, leases, queue and idle time."""
        details = {key: entry.detail(self._clock()) for key, entry in self._entries.items()}
        return {key: detail for key, detail in details.items() if detail["state"] != "absent"}

    async def free_memory(self) -> None:
        """Memory is short: unload the models that nobody uses and return free memory to the system.

        Whoever calls this holds a lane, and a model is dropped on the thread that also loads models: a load may take
        minutes, so unloading is not waited for longer than `MAX_UNLOAD_WAIT_S`. It goes on after that.
        """
        unloads = self._begin_unloading(at_once=True)
        if unloads:
            await asyncio.wait(unloads, timeout=MAX_UNLOAD_WAIT_S)
        logger.warning("memory is short: unloaded %d models that nobody used", sum(task.done() for task in unloads))
        await asyncio.to_thread(self._engine.release_memory)

    def _entry(self, spec: ModelSpec[ModelT]) -> Entry[ModelT]:
        entry = self._entries.setdefault(spec.key, Entry[AnyModel](spec))
        return cast("Entry[ModelT]", entry)  # a key belongs to one spec, so an entry is of that spec's type

    async def _own_or_none(self, entry: Entry[ModelT]) -> Loaded[ModelT] | None:
        """The model itself, None where its fallback is to answer; nobody waits for another try then."""
        if entry.falls_back and not self._closed:
            if entry.task is None and self._clock() >= entry.retry_at:
                self._begin_load(entry)
            return None
        try:
            return await self._ready(entry)
        except Unavailable:
            if entry.falls_back and not self._closed:
                return None
            raise

    async def _ready(self, entry: Entry[ModelT]) -> Loaded[ModelT]:
        if self._closed:
            raise Unavailable(tr("the server is shutting down"), retry_after=5)
        if entry.loaded is not None:
            return entry.loaded
        if entry.task is None and self._clock() < entry.retry_at:
            raise entry.unavailable(self._clock())
        return await self._await_load(entry, entry.task or self._begin_load(entry))

    def _begin_load(self, entry: Entry[ModelT], *, fetch: bool = True) -> "asyncio.Task[Loaded[ModelT]]":
        task = entry.task = asyncio.create_task(self._load(entry, fetch=fetch), name=f"load {entry.spec.key}")
        # Its exception counts as retrieved, even when every client that waited for it has left.
        task.add_done_callback(lambda task: task.cancelled() or task.exception())
        return task

    async def _await_load(self, entry: Entry[ModelT], task: "asyncio.Task[Loaded[ModelT]]") -> Loaded[ModelT]:
        """Wait for a load that is shared: a client that leaves must not cancel it for the others."""
        done, _ = await asyncio.wait([task], timeout=self._wait_s)
        if not done:
            raise Unavailable(
                tr("{model} is still on its way{progress}; try again", model=entry.spec.key, progress=entry.progress),
                retry_after=10,
            )
        if task.cancelled():
            raise Unavailable(tr("the server is shutting down"), retry_after=5)
        if task.exception() is not None:
            raise entry.unavailable(self._clock()) from task.exception()
        return task.result()

    async def _load(self, entry: Entry[ModelT], *, fetch: bool) -> Loaded[ModelT]:
        started = self._clock()
        try:
            loaded = entry.loaded = await (self._loader.load(entry) if fetch else self._loader.build(entry))
        except Exception as error:
            wait = entry.fail(failure_message(entry.spec, error), error, self._clock())
            if entry.falls_back:
                logger.warning("%s; %s answers in its place", entry.failure, entry.fallback.key)
            elif not entry.leases:  # each request that waits for it is refused with a line of its own
                logger.error("%s", entry.failure)
            raise Unavailable(entry.failure, retry_after=round(wait)) from error
        finally:
            entry.task = None
            entry.last_used = self._clock()
        entry.failures = 0
        logger.info("loaded %s in %.1f s", loaded.name, self._clock() - started)
        return loaded

    def _begin_unloading(self, *, at_once: bool) -> list["asyncio.Task[None]"]:
        """Take the idle models out, so that nobody can lease them any more, and unload them in tasks of their own."""
        ttl_s = 0 if at_once else self._ttl_s if self._ttl_s > 0 else math.inf
        idle = [entry for entry in self._entries.values() if entry.is_idle(self._clock(), ttl_s)]
        for entry in idle:
            del self._entries[entry.spec.key]
        unloads = [asyncio.create_task(self._unload(entry), name=f"unload {entry.spec.key}") for entry in idle]
        self._unloads.update(unloads)
        for unload in unloads:
            unload.add_done_callback(self._unloads.discard)
        return unloads

    async def _unload(self, entry: Entry[AnyModel]) -> None:
        if entry.loaded is not None:
            batcher, entry.loaded = entry.loaded.batcher, None
            await self._loader.unload(batcher)
            logger.info("unloaded %s, %d MB resident", entry.spec.key, memory.resident_bytes() >> 20)

    def __repr__(self) -> str:
        ready = sum(entry.loaded is not None for entry in self._entries.values())
        leases = sum(entry.leases for entry in self._entries.values())
        return f"<Registry [{len(self._entries)} models, {ready} ready, {leases} leases]>"
